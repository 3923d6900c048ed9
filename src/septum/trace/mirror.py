# SPDX-License-Identifier: GPL-2.0-only
"""Compares the mirror of a TD with its S-EPT, after every change (invariant I1).

The S-EPT comes from the recorded SEAMCALLs, run on the TDX Module's model
(`septum.trace.sept_shadow`), the mirror from the kvm_tdp_mmu_spte_changed lines.  In 7.3 the
calls of a change come before its line, in the designs before it after; so a change is compared
when its task goes on to something else.  The first divergence of a TD is the finding: it names
the change, the call that did not do its part, and shows both trees around the GFN.  Later ones
are only counted.

A line does not say whether its tree is the mirror or the direct one.  It is the mirror's if
its task called SEAMCALLs for that entry beside it, if it starts from the mirror's value, or
if it names the page that the S-EPT holds there.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from septum.kvm.shadow import is_leaf, is_table
from septum.kvm.spte import is_shadow_present_pte, spte_to_pfn
from septum.kvm.versions import EPT, FROZEN_VALUES
from septum.tdx import leaves, sept
from septum.tdx.sept import State
from septum.tdx.status import (
    TDX_INTERRUPTED_RESTARTABLE,
    TDX_INTERRUPTED_RESUMABLE,
    decode,
    is_error,
    is_operand_busy,
    status_class,
)
from septum.trace.events import SpteChanged
from septum.trace.probes import SEAMCALL_DONE, SEAMCALL_ENTER, SHOWS_OUT
from septum.trace.rules import Finding, Where, describe_spte, finding_at
from septum.trace.sept_cases import NOWHERE
from septum.trace.sept_shadow import MEMORY_LEAFS, Pages, SeamCall, Sept
from septum.trace.status_check import StatusCheck

__all__ = ["Mirrors"]

_BITS: Final = 9
_AROUND: Final = 3
_TD_LEAFS: Final = frozenset(
    (
        *(leaves.TDH_MEM_TRACK, leaves.TDH_MNG_KEY_FREEID, leaves.TDH_MNG_INIT),
        leaves.TDH_MR_FINALIZE,
    )
)
_EARLY: Final = 64
"""Tasks whose last change is kept until the first SEAMCALL line."""
_AGAIN: Final = (TDX_INTERRUPTED_RESUMABLE, TDX_INTERRUPTED_RESTARTABLE)

Key = tuple[int, int]


@dataclass
class Td:
    sept: Sept
    mirror: dict[Key, int] = field(default_factory=dict)
    """The last value of each entry that a line named, by (level, gfn)."""
    huge: dict[Key, int] = field(default_factory=dict)
    """Value of the leaf that a table was split from."""
    diverged: bool = False
    more: int = 0

    def change(self, event: SpteChanged) -> None:
        """The mirror's entry has a new value."""
        _, gfn, level, old, new = event
        if level > 1 and is_leaf(old, level) and is_table(new, level):
            self.huge[level, gfn] = old
        elif level > 1 and not is_table(new, level):
            self.huge.pop((level, gfn), None)
        self.mirror[level, gfn] = new

    def value(self, level: int, gfn: int) -> int | None:
        """The mirror's entry; children of a split leaf have no line (make_small_spte)."""
        value = self.mirror.get((level, gfn))
        if value is not None:
            return value
        parent = gfn >> _BITS * level << _BITS * level
        huge = self.huge.get((level + 1, parent))
        if huge is None:
            return None
        number = gfn - parent >> _BITS * (level - 1)
        small = huge + (number << 12 + _BITS * (level - 1))
        return small & ~(1 << 7) if level == 1 else small


@dataclass
class Pending:
    """A change of the mirror, to be compared when its task goes on."""

    at: Where
    event: SpteChanged
    td: Td | None
    """None: no call before its line tells; one after it may (the designs before 7.3)."""
    called: bool
    """Its own calls came before its line."""


@dataclass
class Task:
    entering: tuple[Where, dict[str, int]] | None = None
    """A SEAMCALL that has not returned: its line and registers."""
    calls: list[SeamCall] = field(default_factory=list)
    """Since its last change."""
    pending: list[Pending] = field(default_factory=list)


class Mirrors:
    """All TDs of a recording.  `findings` grows; `seen` is false without SEAMCALL lines."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.seen = False
        self.watching = True
        """SEAMCALL lines were seen, or may still come: they follow a TD's first changes."""
        self.calls = 0
        self.compared = 0
        self.failed: dict[str, int] = {}
        self.status = StatusCheck()
        self._pages = Pages()
        self._tds: dict[int, Td] = {}
        self._tasks: dict[int, Task] = {}
        self._early: dict[int, tuple[Where, SpteChanged]] = {}

    @property
    def notes(self) -> list[str]:
        return [
            f"TD {tdr:x}: {td.more} more entries differ after the first divergence"
            for tdr, td in self._tds.items()
            if td.more
        ] + self.status.notes(self._tds[tdr].sept for tdr in self._tds)

    def lost(self) -> None:
        """Lines are missing: nothing about TDs is known."""
        self.status.keep(td.sept for td in self._tds.values())
        self._pages = Pages()
        self._tds.clear()
        self._tasks.clear()

    # ------------------------------------------------------------------------ lines

    def probe(self, at: Where, name: str, fields: dict[str, int]) -> None:
        """A line of `septum record`'s probes."""
        if not self.seen:
            self.seen = self.watching = True
            for early in self._early.values():
                self.changed(*early)
            self._early.clear()
        task = self._tasks.setdefault(at.pid, Task())
        if name in SEAMCALL_ENTER:
            task.entering = (at, fields)
        elif name in SEAMCALL_DONE and task.entering is not None:
            (begin, into), task.entering = task.entering, None
            fn, rcx, rdx, r8 = (into.get(reg, 0) for reg in ("fn", "rcx", "rdx", "r8"))
            out = (fields["rcx"], fields["rdx"]) if "rdx" in fields else None
            status = fields.get("status", 0)
            if name not in SHOWS_OUT or begin.cpu != at.cpu:
                out = None
            call = SeamCall(
                *(begin.line, at.pid, fn, rcx, rdx, r8, status, out),
                *(at.cpu, begin.time, at.time),
            )
            self._call(at, call, task)

    def _call(self, at: Where, call: SeamCall, task: Task) -> None:
        self.calls += 1
        if call.status:
            key = f"{call.name} {decode(call.status)}"
            self.failed[key] = self.failed.get(key, 0) + 1
        if call.number == leaves.TDH_PHYMEM_PAGE_RECLAIM and not call.status:
            self._pages.free(call.rcx)
        if call.number not in MEMORY_LEAFS and call.number not in _TD_LEAFS:
            return
        if task.pending and (task.pending[-1].called or not self._belongs(call, task)):
            self._settle(task)  # its own calls are done: this one is of the next change
        self._settle_others(call)
        td = self._tds.get(call.tdr)
        if td is None:
            td = self._tds[call.tdr] = Td(Sept(call.tdr, self._pages))
        finding = self.status.check(at, call, td.sept, self._inside(at.pid))
        if finding is not None:
            around = _around(td, call.level, call.gfn) if call.number in MEMORY_LEAFS else []
            self.findings.append(replace(finding, detail=tuple(around)))
        if call.number in MEMORY_LEAFS:
            task.calls.append(call)
            del task.calls[:-8]
            if call.status and not td.sept.gone and _is_bug(call.status):
                text = f"SEAMCALL {call.text()}: KVM retries BUSY and treats this as a bug"
                self.findings.append(finding_at("I8", at, text))

    def _inside(self, pid: int) -> list[dict[str, int]]:
        """Registers of the calls of other tasks that have not returned."""
        return [
            task.entering[1]
            for other, task in self._tasks.items()
            if other != pid and task.entering is not None
        ]

    def _settle_others(self, call: SeamCall) -> None:
        """Changes of other tasks that this call may touch: those whose own calls are done
        are compared now, those that still wait for theirs cannot be compared any more."""
        for pid, task in self._tasks.items():
            if task.pending and pid != call.pid and self._belongs(call, task):
                if self._called(task, task.pending[-1].event) or task.pending[-1].called:
                    self._settle(task)
                elif call.number in MEMORY_LEAFS:
                    task.pending.clear()

    @staticmethod
    def _belongs(call: SeamCall, task: Task) -> bool:
        """The call may still be part of the change that waits: the designs before 7.3."""
        if call.number not in MEMORY_LEAFS:
            return True
        return any(
            _covers(change.event, call.level, call.gfn)
            or (call.level > change.event.level and _same(change.event, call.level, call.gfn))
            for change in task.pending
        )

    def changed(self, at: Where, event: SpteChanged) -> None:
        """A kvm_tdp_mmu_spte_changed line."""
        if not self.seen:
            self._early[at.pid] = (at, event)  # its calls may follow
            self.watching = len(self._early) < _EARLY
            return
        task = self._tasks.setdefault(at.pid, Task())
        self._settle(task, event if event.new_spte in FROZEN_VALUES else None)
        called = self._called(task, event)
        owner = called or self._owner(event)
        task.calls.clear()
        if owner is not None:
            owner.change(event)
        task.pending.append(Pending(at, event, owner, called is not None))

    def other(self, pid: int) -> None:
        """A line of another event: its task has gone on."""
        task = self._tasks.get(pid)
        if task is not None and task.pending:
            self._settle(task)

    def finish(self, *, cut: bool) -> None:
        if not cut:
            for task in self._tasks.values():
                self._settle(task)

    def _owner(self, event: SpteChanged) -> Td | None:
        """The TD whose mirror changed; None: a direct tree, or it cannot be told yet."""
        level, gfn = event.level, event.gfn
        for td in self._tds.values():
            value = td.value(level, gfn)
            if value is not None and is_shadow_present_pte(value):
                if not (value ^ event.old_spte) & ~EPT.volatile:
                    return td
            raw = td.sept.entry(level, gfn)
            if raw is None:
                continue
            for spte in (event.old_spte, event.new_spte):
                if is_leaf(spte, level) and sept.is_leaf(raw):
                    if spte_to_pfn(spte) == sept.hpa_of(raw) >> 12:
                        return td
        return None

    def _called(self, task: Task, event: SpteChanged) -> Td | None:
        """The TD of the calls beside a change that name its entry."""
        for call in task.calls:
            if (call.level, call.gfn) == (event.level, event.gfn):
                return self._tds.get(call.tdr)
        return None

    # ------------------------------------------------------------------- comparison

    def _settle(self, task: Task, child: SpteChanged | None = None) -> None:
        """The task went on.  ``child`` is an entry of a table that goes: the change of its
        parent may still wait for its calls (parent-first order)."""
        pending, task.pending = task.pending, []
        for change in pending:
            if child is not None and _covers(change.event, child.level, child.gfn):
                task.pending.append(change)
                continue
            td = change.td
            if td is None:
                td = self._called(task, change.event)
                if td is not None:
                    td.change(change.event)
            if td is not None and not td.sept.gone:
                self._compare(td, change)

    def _compare(self, td: Td, change: Pending) -> None:
        event = change.event
        level, gfn = event.level, event.gfn
        self.compared += 1
        problem = _difference(td, level, gfn, event.new_spte)
        if problem is None:
            return
        if td.diverged:
            td.more += 1
            return
        td.diverged = True
        calls = td.sept.calls.get((level, gfn), [])
        failed = [call for call in calls if call.status]
        text = f"TD {td.sept.tdr:x} gfn {gfn:x} level {level}: {problem}"
        if failed:
            text += f". {failed[-1].text()}; the mirror was changed all the same"
        elif not calls:
            text += ". No SEAMCALL for this entry was recorded"
        finding = finding_at("I1", change.at, text, event)
        self.findings.append(replace(finding, detail=tuple(_around(td, level, gfn))))


def _same(event: SpteChanged, level: int, gfn: int) -> bool:
    shift = _BITS * (level - 1)
    return gfn >> shift == event.gfn >> shift


def _covers(event: SpteChanged, level: int, gfn: int) -> bool:
    """Whether the entry (level, gfn) is the changed one or below it."""
    return level <= event.level and _same(event, event.level, gfn)


def _is_bug(status: int) -> bool:
    """KVM makes BUSY and interrupted calls again; any other error ends in TDX_BUG_ON()."""
    return is_error(status) and not is_operand_busy(status) and status_class(status) not in _AGAIN


def _difference(td: Td, level: int, gfn: int, spte: int) -> str | None:
    """How the mirror's entry and the S-EPT's differ; None if they agree or it is unknown."""
    key = (level, gfn)
    if key in td.sept.blocked_unknown and is_shadow_present_pte(spte):
        return f"the mirror holds {_mirror(spte, level)}, the S-EPT entry is still blocked"
    raw = td.sept.entry(*key)
    if raw is None:
        return None
    state = sept.state_of(raw)
    held = f"the S-EPT holds {_shown(raw)}"
    if is_leaf(spte, level):
        if state not in (State.MAPPED, State.PENDING) or not sept.is_leaf(raw):
            return f"the mirror holds {_mirror(spte, level)}, {held}"
        if sept.hpa_of(raw) != NOWHERE and spte_to_pfn(spte) != sept.hpa_of(raw) >> 12:
            return f"the mirror maps pfn {spte_to_pfn(spte):x}, {held}"
    elif is_table(spte, level):
        if state is not State.NL_MAPPED:
            return f"the mirror holds {_mirror(spte, level)}, {held}"
    elif sept.is_leaf(raw):  # tables go with the TD: facts 4.3, 4.4
        return f"the mirror holds nothing, {held}"
    return None


def _shown(raw: int) -> str:
    """An S-EPT entry; its page may be unknown."""
    return sept.state_of(raw).name if sept.hpa_of(raw) == NOWHERE else sept.show(raw)


def _mirror(spte: int, level: int) -> str:
    return "a table" if is_table(spte, level) else describe_spte(spte, level, EPT)


def _around(td: Td, level: int, gfn: int) -> list[str]:
    """Both trees around an entry: its parents, its neighbours, its first children."""
    keys: list[Key] = []
    for above in range(5, level, -1):
        keys.append((above, gfn >> _BITS * (above - 1) << _BITS * (above - 1)))
    step = 1 << _BITS * (level - 1)
    for number in range(-1, 2):
        keys.append((level, gfn + number * step))
        if number == 0 and level > 1:
            keys += [(level - 1, gfn + i * (step >> _BITS)) for i in range(_AROUND)]
    rows = [f"{'':2}{'level':>5} {'gfn':<11} {'mirror':<26} S-EPT"]
    for one, at in keys:
        spte, raw = td.value(one, at), td.sept.entry(one, at)
        blocked = "blocked" if (one, at) in td.sept.blocked_unknown else "?"
        if spte is None and raw is None and blocked == "?":
            continue
        mark = ">" if (one, at) == (level, gfn) else " "
        left = "?" if spte is None else describe_spte(spte, one, EPT)
        right = blocked if raw is None else _shown(raw)
        rows.append(f"{mark:2}{one:>5} {at:<11x} {left:<26} {right}")
    return rows
