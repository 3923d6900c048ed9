# SPDX-License-Identifier: GPL-2.0-only
"""The roots of a recording: who made them, and which took another's place.

kvm_mmu_get_page names the task that makes a root: a vCPU of its VM.  With the option
record-tgid each line has its process, and a process is one VM (KVM ties a VM to one mm).
kvm_mmu_zap_all_fast is written by a task of the VM whose roots it invalidates; the next root of
that VM is the successor (facts 4.11).  Without process numbers that is said only if there is
one root to be meant.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from septum.trace.rules import Where
from septum.trace.text import task_name

__all__ = ["Root", "Roots"]

_TGID: Final = re.compile(r"-\d{1,10}[ \t]{1,12}\([ ]{0,9}(\d{1,10})\)[ \t]{0,4}\[")
_KEPT: Final = 4096


@dataclass(slots=True)
class Root:
    """A root page table: who made it, and what became of it."""

    number: int
    level: int
    line: int
    task: str
    tgid: int | None
    invalidated: int | None = None
    """Line of the kvm_mmu_zap_all_fast that made it invalid."""
    follows: int | None = None
    """Number of the invalidated root whose place it takes."""
    gone: bool = False
    """Its VM ended, or events were lost since: no later line is about it for certain."""
    mirror: bool = False
    smm: bool = False
    vm: int = 0
    """Roots of one VM have one number."""


@dataclass(slots=True)
class Roots:
    """Feed roots and fast zaps in the order of their lines."""

    made: list[Root] = field(default_factory=list)
    more: int = 0
    """Roots that are not kept: there are too many."""
    tgids: dict[int, int] = field(default_factory=dict)

    def envelope(self, pid: int, text: str) -> None:
        """The beginning of a line, up to its CPU."""
        found = _TGID.search(text)
        if found is not None and len(self.tgids) < _KEPT:
            self.tgids[pid] = int(found[1])

    def lost(self) -> None:
        """Events were lost, or no VM is left."""
        for root in self.made:
            root.gone = True

    def new(
        self, at: Where, level: int, *, mirror: bool, smm: bool, known: bool, alone: bool
    ) -> None:
        """A root was made.

        :param known: its task has handled guest faults before, so its VM had a root before.
        :param alone: no table page lives.
        """
        if len(self.made) >= _KEPT:
            self.more += 1
            return
        tgid = self.tgids.get(at.pid)
        known = known if tgid is None else any(r.tgid == tgid for r in self.made)
        if not known and alone:
            self.lost()
        root = Root(len(self.made) + 1, level, at.line, f"{task_name(at.comm)}-{at.pid}", tgid)
        root.mirror, root.smm = mirror, smm
        root.vm = self._vm(root) if known else 0
        if root.vm:
            root.follows = self._followed(root)
        else:
            root.vm = max((r.vm for r in self.made), default=0) + 1
        self.made.append(root)

    def _vm(self, root: Root) -> int:
        """The VM of its process or its task, or the only one; 0 if it cannot be told."""
        for other in self._of(root.tgid):
            if root.tgid is not None or other.task == root.task:
                return other.vm
        vms = {other.vm for other in self._of(root.tgid)}
        return vms.pop() if len(vms) == 1 else 0

    def _followed(self, root: Root) -> int | None:
        """The one invalid root of the same kind that nobody has followed yet; a text does not
        tell address spaces apart, so there may be two."""
        kind = (root.vm, root.level, root.mirror, root.smm)
        followed = {other.follows for other in self.made}
        waiting = [
            r.number
            for r in self._of(root.tgid)
            if r.invalidated is not None
            and (r.vm, r.level, r.mirror, r.smm) == kind
            and r.number not in followed
        ]
        return waiting[0] if len(waiting) == 1 else None

    def _of(self, tgid: int | None) -> list[Root]:
        return [r for r in self.made if not r.gone and r.tgid == tgid]

    def zap_all_fast(self, at: Where) -> None:
        tgid = self.tgids.get(at.pid)
        valid = [r for r in self._of(tgid) if r.invalidated is None]
        if tgid is None and len({r.vm for r in valid}) > 1:
            return  # whose they are cannot be told
        for root in valid:
            root.invalidated = at.line
