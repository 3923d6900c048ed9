# SPDX-License-Identifier: GPL-2.0-only
"""Judges `kvm_tdp_mmu_spte_changed` lines of a recording by the shadow tables.

A recording is weaker than the run it shows, so a line that does not follow is not yet a
finding:

* *Swapped lines.*  A line is printed after its store, and CPUs' clocks differ, so lines
  of two CPUs can come in the wrong order.  A jump from value X to Y is a *debt*: it is
  paid if lines of other CPUs that lead from X to Y come within `WINDOW` changes.  A
  debt that stays unpaid is the finding.
* *Lost events.*  After a loss mark of a CPU everything is unknown until seen again, and
  findings on lines since that CPU's last line are withdrawn.
* *Open world.*  If the recording does not show where every root came from (it began
  mid-life, lost events, or came out of order through a pipe), another tree may claim the
  same keys.  Then a line counts against another only if the same vCPU wrote both.

A false finding is worse than a missed one; what is given up for that is listed in
docs/replay.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from septum.kvm.shadow import MAX_LEVEL, UNKNOWN, ShadowTables, Table, is_leaf, is_table
from septum.kvm.spte import is_shadow_present_pte, spte_to_pfn
from septum.kvm.versions import FROZEN_VALUES, NPT, KernelVersion
from septum.trace.events import Event, FastPageFault, SetSpte, SpteChanged
from septum.trace.fast import FastFaults
from septum.trace.protocol import Protocol
from septum.trace.removal import Removals
from septum.trace.rules import (
    ADDRESS_SPACES,
    MAX_GFN,
    Finding,
    Known,
    Past,
    Where,
    describe_spte,
    entry,
    finding_at,
    is_ordinary,
    misplaced,
    single_line_faults,
)

__all__ = ["WINDOW", "Judge"]

WINDOW: Final = 8192
"""Changes within which swapped lines are paired.  Recorded: 18 lines, 545 us (6.12)."""


UNFINISHED: Final = 64
"""Changes before the end of a recording of running VMs within which jumps are not judged."""
HISTORY: Final = 6
"""Changes shown with a finding."""
MAX_SIBLINGS: Final = 8
"""Trees under one key to be told apart when their start was not recorded."""


def _nobody(pid: int) -> int:
    return 0


@dataclass(slots=True)
class Debt:
    """The lines so far jump from ``start`` to ``end``; something in between is due."""

    key: int
    level: int
    start: int
    end: int
    seq: int
    cpu: int
    finding: Finding | None
    """None: the task may work for a VM that the recording does not show yet."""


@dataclass(slots=True)
class Orphan:
    """A line changed an entry of a table that no line had linked yet."""

    table: Table
    seq: int
    finding: Finding


class Judge:
    """Fold plus judgement; `findings` is complete after `finish`."""

    def __init__(self, tables: ShadowTables) -> None:
        self.tables = tables
        self.version: KernelVersion | None = None
        self._values = Known()
        self.findings: list[Finding] = []
        self.closed = True
        """Every root was announced and nothing was lost."""
        self.hidden_bits = 0
        """Old values explained by A, D or W set without a line."""
        self.swapped = 0
        """Jumps explained by later lines of other CPUs."""
        self.not_judged = 0
        """Jumps that another tree may explain."""
        self.withdrawn = 0
        self.removals = Removals(tables, self._leftover, self._report)
        self.protocol = Protocol(tables)
        self.fast = FastFaults(tables)
        self.owner: Callable[[int], int] = _nobody
        """The VM of a task, 0 if that is not known (septum.trace.roots)."""
        self._seq = 0
        self._line = 0
        self._vcpu_tasks: set[int] = set()
        self._known_tasks: set[int] = set()
        self._recent: deque[tuple[int, int, int, int, int, int]] = deque(maxlen=WINDOW)
        self._debts: dict[int, list[Debt]] = {}
        self._due: deque[Debt] = deque()
        self._orphans: deque[Orphan] = deque()

    # --------------------------------------------------------------------- input

    def spte_changed(self, at: Where, event: SpteChanged) -> None:
        self._seq += 1
        self._line = at.line
        if self._due or self._orphans or self.fast.waiting:
            self._expire(self._seq - WINDOW)
        as_id, gfn, level, old, new = event
        tables, pid = self.tables, at.pid
        possible = 1 <= level <= MAX_LEVEL and as_id < ADDRESS_SPACES and gfn < MAX_GFN
        if not possible or gfn & tables.low[level]:
            problem = f"{misplaced(event, tables)}; the line was not used"
            self._report("WARN:__handle_changed_spte", at, problem, event)
            return
        protocol = self.protocol
        task = protocol.tasks.get(pid)
        if level > 1 or (task is not None and (task.requested or task.install or task.split)):
            protocol.changed(at, event)
            if protocol.findings:
                self._drain()
        fmt = tables.format or NPT
        if not is_ordinary(old, new, level, fmt, self._values):
            for rule, message in single_line_faults(event, tables, fmt, self._values):
                self._report(rule, at, f"{entry(event)}: {message}", event)
        removals = self.removals
        frozen = new in FROZEN_VALUES
        busy = frozen or removals.busy(pid)
        claimed = removals.before_change(at, event, self.version) if busy else None
        key = gfn << 16 | level << 8 | as_id
        if not (self._debts and self._pay(key, at, event)):
            self._fold(key, at, event, claimed)
        if busy and not frozen:
            removals.after_change(at, event)
        self._recent.append((key, at.cpu, pid, old, new, at.line))
        self.fast.changed(at, event)
        self.fast.line(at)

    def other(self, at: Where, event: Event) -> None:
        """A line of another KVM event."""
        self._line = at.line
        self.protocol.other(at, event)
        if self.protocol.findings:
            self._drain()
        if type(event) is SetSpte:
            self._placed(event)
        elif type(event) is FastPageFault:
            self.fast.fault(at, event, self._seq, closed=self.closed)
        self.fast.line(at)

    def _placed(self, event: SetSpte) -> None:
        """The line gives the entry's address, so the table page: of trees that map the same
        GFNs, it is this one's."""
        gfn, spte, _, level, sptep = event
        table = self.tables.pages.get(sptep >> 12)
        if table is None or table.level != level or table.dying or table.removing:
            return
        if gfn >> self.tables.shifts[level] << self.tables.shifts[level] != table.base:
            return
        if len(self.tables.groups[self.tables.key(table.as_id, gfn, level)]) > 1:
            self.tables.claim(table, self.tables.index(gfn, level), spte)

    def _drain(self) -> None:
        for finding in self.protocol.findings:
            self._find(self._with_history(finding))
        self.protocol.findings.clear()

    def late(self, at: Where, event: SpteChanged, since: int) -> None:
        """A line older than lines already read: fold it, but trust no value after."""
        self.lost(since)
        if misplaced(event, self.tables) is not None:
            return
        as_id, gfn, level, old, new = event
        table = self.tables.find(as_id, gfn, level, old)
        index = self.tables.index(gfn, level)
        gone = self.tables.store(table, index, old, new)
        if gone is not None:
            self.tables.drop(gone)
        self.tables.doubt(table, index)

    def lost(self, since: int) -> None:
        """Events are missing after line ``since``: all values are unknown."""
        self.closed = False
        self.withdraw(since)
        self._debts.clear()
        self._due.clear()
        self._orphans.clear()
        self._known_tasks.clear()
        self._recent.clear()
        self.removals.clear()
        self.protocol.lost()
        self.fast.lost()
        self.tables.forget()

    def kernel(self, version: KernelVersion) -> None:
        """The recording showed its kernel."""
        self.version = version
        self._values = Known(frozenset((version.empty,)), frozenset((version.frozen,)))

    def vcpu(self, pid: int) -> None:
        """This task handles guest faults: it works for one VM only."""
        self._vcpu_tasks.add(pid)

    def is_vcpu(self, pid: int) -> bool:
        return pid in self._vcpu_tasks

    def withdraw(self, since: int, keep: frozenset[str] = frozenset()) -> None:
        """Findings made after line ``since`` were made without lines that belong there;
        those of the rules ``keep`` stand all the same."""
        kept = [f for f in self.findings if f.judged <= since or f.rule in keep]
        self.withdrawn += len(self.findings) - len(kept)
        self.findings = kept

    def finish(self, *, cut: bool) -> None:
        """The recording ended.  What began near the end may go on behind it, unless the
        recording shows that every VM was gone."""
        gone = not cut and not self.tables.live
        parent_first = self.version is None or self.version.parent_first
        if gone or not (cut or parent_first):
            self.removals.finish()
        self._expire(self._seq if gone else self._seq - (WINDOW if cut else UNFINISHED))
        self.findings.sort(key=lambda finding: finding.line)

    # ----------------------------------------------------------------- the chain

    def _fold(self, key: int, at: Where, event: SpteChanged, claimed: Table | None) -> None:
        as_id, gfn, level, old, new = event
        tables = self.tables
        unseen = tables.unseen
        shifts = tables.shifts
        index = gfn >> shifts[level - 1] & (tables.size - 1)
        if claimed is None:
            group = tables.groups.get(gfn >> shifts[level] << 16 | level << 8 | as_id)
            # The usual case of ShadowTables.find(), without the calls.
            table = group[0] if group is not None and len(group) == 1 else None
            if (
                table is None
                or table.epoch != tables.epoch
                or table.entries.get(index, table.default) != old
                or tables.announced[level]
            ):
                table = tables.find(as_id, gfn, level, old, self.owner(at.pid))
        else:
            table = claimed
            tables.claim(table, index, old)
        last = table.entries.get(index)
        listed = last is not None
        if last is None:
            last = table.value(index) if table.small else table.default
        if last == old:
            if listed or level > 1:
                self._known_tasks.add(at.pid)
        elif last == UNKNOWN:
            if tables.unseen != unseen:
                self._met_unseen(table, at, event)
        elif tables.expects(last, old, level, split=not listed):
            self.hidden_bits += 1
            self._known_tasks.add(at.pid)
        elif self._is_late(key, at, event):
            self.swapped += 1
            return
        else:
            table = self._jump(key, at, event, table, last)
        if level > 1 and is_table(new, level) and not is_table(old, level):
            self._check_page(at, event)
        removed = None
        if level > 1 and is_table(old, level):
            removed = self.removals.removed_by(at, event, self.version)
        gone = tables.store(table, index, old, new, removed)
        if gone is not None:
            self.removals.unlinked(at, gone)

    def _jump(self, key: int, at: Where, event: SpteChanged, table: Table, last: int) -> Table:
        """The old value does not follow.  Returns the table to store into."""
        before = next((entry for entry in reversed(self._recent) if entry[0] == key), None)
        complete = self.closed and all(
            sibling.complete for sibling in self.tables.groups[self._group(event)]
        )
        if complete:
            judged = at.pid in self._known_tasks
        else:  # only a vCPU's own line on a present entry excludes other trees
            judged = before is not None and before[2] == at.pid and before[4] == last
            judged = judged and at.pid in self._vcpu_tasks and is_shadow_present_pte(last)
        if not judged and not complete:
            self.not_judged += 1
            siblings = self.tables.groups[self._group(event)]
            if len(siblings) >= MAX_SIBLINGS:
                return table
            return self.tables.add_unseen(event.as_id, event.gfn, event.level)
        fmt = self.tables.format or NPT
        of_line = f", left by line {before[5]}" if before is not None and before[4] == last else ""
        message = (
            f"{entry(event)}: old value {event.old_spte:x}"
            f" ({describe_spte(event.old_spte, event.level, fmt)}) does not follow {last:x}"
            f" ({describe_spte(last, event.level, fmt)}){of_line}"
        )
        finding = None
        if judged:
            rule = "I20"
            if event.old_spte == self.tables.empty and is_leaf(last, event.level):
                rule = "I20-reinstall" if is_leaf(event.new_spte, event.level) else "I20"
            finding = self._with_history(finding_at(rule, at, message, event))
        self._owe(key, at, event.level, last, event.old_spte, finding)
        return table

    def _is_late(self, key: int, at: Where, event: SpteChanged) -> bool:
        """A line that changes only A, D or W fits before a line of another CPU that
        began from the same value; it then leaves nothing behind."""
        if not self.tables.same(event.old_spte, event.new_spte, event.level):
            return False
        return any(
            entry[0] == key
            and entry[1] != at.cpu
            and self.tables.same(entry[3], event.old_spte, event.level)
            for entry in self._recent
        )

    def _met_unseen(self, table: Table, at: Where, event: SpteChanged) -> None:
        if self.closed and at.pid in self._known_tasks:
            rule, message = "I20-link", "no line linked the table that holds this entry"
            above = self._above(event)
            if above is not None:
                rule, message = "I20-child", f"its parent entry is {above:x}, which maps no table"
            finding = finding_at(rule, at, f"{entry(event)}: {message}", event)
            self._orphans.append(Orphan(table, self._seq, self._with_history(finding)))

    def _above(self, event: SpteChanged) -> int | None:
        """The known value of the parent's entry if it is no table; None if that cannot be
        told."""
        tables, level = self.tables, event.level + 1
        group = (
            tables.groups.get(tables.key(event.as_id, event.gfn, level), ()) if level <= 5 else ()
        )
        values = {table.value(tables.index(event.gfn, level)) for table in group}
        if len(values) != 1 or UNKNOWN in values or is_table(min(values), level):
            return None
        return min(values)

    def _with_history(self, finding: Finding) -> Finding:
        """Add the last changes before its line that touch its GFN."""
        if finding.gfn is None or finding.level is None or not 1 <= finding.level <= MAX_LEVEL:
            return finding
        shifts = self.tables.shifts
        past: list[Past] = []
        for key, cpu, pid, old, new, line in reversed(self._recent):
            level = key >> 8 & 0xFF
            shift = max(shifts[level - 1], shifts[finding.level - 1])
            if key >> 16 >> shift == finding.gfn >> shift and line < finding.line:
                past.append(Past(line, cpu, pid, level, old, new))
                if len(past) == HISTORY:
                    break
        return replace(finding, history=tuple(reversed(past)))

    def _check_page(self, at: Where, event: SpteChanged) -> None:
        user = self.tables.pages.get(spte_to_pfn(event.new_spte))
        if self.closed and user is not None and not user.dying:
            self._report(
                "I20-link",
                at,
                f"{entry(event)}: page {spte_to_pfn(event.new_spte):x} is already the table"
                f" of gfn {user.base:x} level {user.level}",
                event,
            )

    def _group(self, event: SpteChanged) -> int:
        return self.tables.key(event.as_id, event.gfn, event.level)

    # --------------------------------------------------------------------- debts

    def _owe(
        self, key: int, at: Where, level: int, start: int, end: int, finding: Finding | None
    ) -> None:
        debt = Debt(key, level, start, end, self._seq, at.cpu, finding)
        self._debts.setdefault(key, []).append(debt)
        self._due.append(debt)

    def _pay(self, key: int, at: Where, event: SpteChanged) -> bool:
        """Whether this late line fills a jump on its entry, wholly or at one end."""
        same, level = self.tables.same, event.level
        for debt in self._debts.get(key, ()):
            if debt.cpu == at.cpu:
                continue
            front = same(debt.start, event.old_spte, level)
            back = same(debt.end, event.new_spte, level)
            if not front and not back:
                continue
            if front and back:
                self._settle(debt)
                self.swapped += 1
            elif self._follows_now(event):
                continue
            elif front:
                debt.start = event.new_spte
            else:
                debt.end = event.old_spte
            self._late_structure(at, event)
            return True
        return False

    def _follows_now(self, event: SpteChanged) -> bool:
        as_id, gfn, level, old, _ = event
        table = self.tables.find(as_id, gfn, level, old)
        index = self.tables.index(gfn, level)
        return self.tables.expects(table.value(index), old, level)

    def _late_structure(self, at: Where, event: SpteChanged) -> None:
        """A late line leaves its entry as it is now, but a table that it removed goes."""
        as_id, gfn, level, old, new = event
        if level > 1 and is_table(old, level) and not is_table(new, level):
            table = self.removals.removed_by(at, event, self.version)
            self.removals.unlinked(at, self.tables.unlink(as_id, gfn, level, old, table))

    def _settle(self, debt: Debt) -> None:
        self._due.remove(debt)
        rest = self._debts[debt.key]
        rest.remove(debt)
        if not rest:
            del self._debts[debt.key]

    def _expire(self, limit: int) -> None:
        """What is still due from before change number ``limit`` is a finding."""
        while self._due and self._due[0].seq <= limit:
            debt = self._due[0]
            self._settle(debt)
            if limit < self._seq and self._being_removed(debt):
                debt.seq = self._seq
                self._debts.setdefault(debt.key, []).append(debt)
                self._due.append(debt)
            elif debt.finding is None:
                self.not_judged += 1
            else:
                self._find(debt.finding)
        for finding in self.fast.expire(limit):
            self._find(self._with_history(finding))
        while self._orphans and self._orphans[0].seq <= limit:
            orphan = self._orphans.popleft()
            if not orphan.table.complete:
                self._find(orphan.finding)

    def _being_removed(self, debt: Debt) -> bool:
        """7.3 logs a removed table's parent after all its children: that can be long."""
        if not is_table(debt.start, debt.level):
            return False
        table = self.tables.pages.get(spte_to_pfn(debt.start))
        return table is not None and any(v in FROZEN_VALUES for v in table.entries.values())

    # ------------------------------------------------------------------ removals

    def _leftover(self, at: Where, table: Table, left: dict[int, int]) -> None:
        """Entries of a removed table without a line: due from another CPU, or missing."""
        if not self.closed:
            return
        fmt = self.tables.format or NPT
        index, value = next(iter(left.items()))
        gfn = table.base + (index << self.tables.shifts[table.level - 1])
        more = f" (and {len(left) - 1} more entries)" if len(left) > 1 else ""
        message = (
            f"as_id {table.as_id} gfn {gfn:x} level {table.level}: its table was removed, but no"
            f" line removed {value:x} ({describe_spte(value, table.level, fmt)}){more}"
        )
        key = gfn << 16 | table.level << 8 | table.as_id
        lost = SpteChanged(table.as_id, gfn, table.level, value, self.tables.empty)
        finding = self._with_history(
            replace(finding_at("I20-removal", at, message, lost), new=None)
        )
        if is_shadow_present_pte(value) and len(left) == 1:
            self._owe(key, at, table.level, value, self.tables.empty, finding)
        else:
            self._find(finding)

    def _report(self, rule: str, at: Where, message: str, event: SpteChanged | None = None) -> None:
        self._find(self._with_history(finding_at(rule, at, message, event)))

    def _find(self, finding: Finding) -> None:
        self.findings.append(replace(finding, judged=self._line))
