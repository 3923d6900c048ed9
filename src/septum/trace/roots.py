# SPDX-License-Identifier: GPL-2.0-only
"""The roots of a recording: who made them, which took another's place, and whose VM a task is of.

kvm_mmu_get_page names the task that makes a root: a vCPU of its VM.  With the option
record-tgid each line has its process, and a process is one VM (KVM ties a VM to one mm).
A vCPU without a process number is of the VM of the root that it made, or of the only one that
lives when it first acts, if every root was seen.
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

Log = list[tuple[int, int]]
"""(line, VM from there on), by line."""


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
    vms: int = 0
    """How many VMs were told apart."""
    now: dict[int, int] = field(default_factory=dict)
    """By vCPU task: its VM; 0 if that cannot be told."""
    _tasks: dict[int, Log] = field(default_factory=dict)
    _processes: dict[int, Log] = field(default_factory=dict)

    def envelope(self, pid: int, text: str) -> None:
        """The beginning of a line, up to its CPU."""
        found = _TGID.search(text)
        if found is not None and len(self.tgids) < _KEPT:
            self.tgids[pid] = int(found[1])

    def processes(self, tgids: dict[int, int]) -> None:
        """By task: its process."""
        self.tgids.update(tgids)

    def lost(self, line: int) -> None:
        """Events were lost, or no VM is left."""
        for root in self.made:
            root.gone = True
        for log in self._tasks.values():
            if log[-1][1]:
                log.append((line, 0))
        self.now.clear()

    # ------------------------------------------------------------------ tasks and VMs

    def vcpu(self, pid: int, line: int, closed: bool) -> None:
        """A task handles faults of a guest, the first time since `lost`.

        :param closed: every root was seen.
        """
        tgid = self.tgids.get(pid)
        vm = 0
        if tgid is not None:
            log = self._processes.get(tgid)
            vm = log[-1][1] if log else self._another()
        elif closed:
            alive = {root.vm for root in self.made if not root.gone}
            vm = alive.pop() if len(alive) == 1 else 0
        self._is_of(pid, line, vm)

    def vm_at(self, pid: int, line: int) -> int:
        """The VM that a task works for at a line; 0 if that cannot be told."""
        tgid = self.tgids.get(pid)
        log = self._tasks.get(pid) if tgid is None else self._processes.get(tgid)
        return next((vm for since, vm in reversed(log or ()) if since <= line), 0)

    def owner(self, pid: int) -> int:
        """The VM of a task now, by its process: whose tables it changes.  Without process numbers
        some tasks of each VM are not known, so no tree is anybody's for certain."""
        tgid = self.tgids.get(pid)
        log = self._processes.get(tgid) if tgid is not None else None
        return log[-1][1] if log else 0

    def _another(self) -> int:
        self.vms += 1
        return self.vms

    def _is_of(self, pid: int, line: int, vm: int) -> None:
        self.now[pid] = vm
        tgid = self.tgids.get(pid)
        logs, key = (self._tasks, pid) if tgid is None else (self._processes, tgid)
        log = logs.get(key)
        if log is None and vm and len(logs) < _KEPT:
            logs[key] = [(line, vm)]
        elif log is not None and log[-1][1] != vm:
            log.append((line, vm))

    # ---------------------------------------------------------------------- roots

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
        known = known if tgid is None else tgid in self._processes
        if not known and alone:
            self.lost(at.line)
        root = Root(len(self.made) + 1, level, at.line, f"{task_name(at.comm)}-{at.pid}", tgid)
        root.mirror, root.smm = mirror, smm
        root.vm = self._vm(root) if known else 0
        if root.vm:
            root.follows = self._followed(root)
        else:
            root.vm = self._another()
        self.made.append(root)
        self._is_of(at.pid, at.line, root.vm)

    def _vm(self, root: Root) -> int:
        """The VM of its process or its task, or the only one; 0 if it cannot be told."""
        if root.tgid is not None:
            return self._processes[root.tgid][-1][1]
        for other in self._of(None):
            if other.task == root.task:
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
