# SPDX-License-Identifier: GPL-2.0-only
"""Shadow tables: the pure fold of `kvm_tdp_mmu_spte_changed` onto page tables.

The fold knows only what the event says: as_id, gfn, level, old, new.  An event names
no VM and no root, so several tables can claim the same key (as_id, level, gfn range):
the old root and its successor during a fast zap, two VMs, a TD's mirror and direct
trees.  Tables of one key form a *group*.  Which of them an event changed is a guess,
made from its old value.  A wrong guess is harmless: any permutation of one index among
the tables of a group explains the same lines, and the table page address in a
parent's value says which table goes.

An entry's value is unknown (`UNKNOWN`) until an event names it, unless the table was
seen being linked: then it is empty, or a part of the huge leaf that was split.

`ShadowTables.change` is the whole rule I20 for callers that see every change in order
(monitors; they pass a root's number as ``as_id``).  Readers of recordings use `find`,
`expects` and `store`, because lines of two CPUs can be swapped (septum.trace.judge).
Facts: sections 4.19 and 7 (I20).  No I/O and no text here.
"""

from __future__ import annotations

from typing import Final

from septum.kvm.spte import (
    PT_PAGE_SIZE_MASK,
    PT_WRITABLE_MASK,
    SPTE_MMU_PRESENT_MASK,
    is_last_spte,
    is_shadow_present_pte,
    spte_to_pfn,
)
from septum.kvm.versions import (
    EMPTY_VALUES,
    EPT,
    FROZEN_VALUES,
    NPT,
    SpteFormat,
    restore_acc_track_spte,
    spte_format_of,
)

__all__ = ["MAX_LEVEL", "UNKNOWN", "ShadowTables", "Table", "is_leaf", "is_table"]

UNKNOWN: Final = -1
MAX_LEVEL: Final = 5
ADOPT_WITHIN: Final = 8192
"""A link line may follow the lines of its children by at most so many changes."""

_6_1_FROZEN: Final = 0x5A0


def is_leaf(spte: int, level: int) -> bool:
    return is_shadow_present_pte(spte) and is_last_spte(spte, level)


def is_table(spte: int, level: int) -> bool:
    return is_shadow_present_pte(spte) and not is_last_spte(spte, level)


class Table:
    """One page table page; ``pfn`` is -1 until a line tells it."""

    __slots__ = (
        "as_id",
        "base",
        "born",
        "default",
        "dying",
        "entries",
        "epoch",
        "fresh",
        "level",
        "owner",
        "pfn",
        "removing",
        "small",
        "stale",
        "stale_default",
        "swept",
    )

    def __init__(self, as_id: int, level: int, base: int, pfn: int, default: int) -> None:
        self.as_id = as_id
        self.level = level
        self.base = base
        self.pfn = pfn
        self.default = default
        """Value of entries without one of their own, or UNKNOWN."""
        self.small = 0
        """Split tables: the step between neighbours; ``default`` is entry 0's value."""
        self.entries: dict[int, int] = {}
        self.stale: dict[int, int] = {}
        self.stale_default = UNKNOWN
        self.epoch = 0
        self.born = 0
        self.fresh = True
        """No entry was first met with a value other than empty."""
        self.removing = False
        """A task is freezing its entries; nothing else should change them."""
        self.dying = False
        """A line unlinked it; on parent-first kernels its children's lines follow."""
        self.swept = False
        """Removed under the shared lock: every entry, also an empty one, gets a line."""
        self.owner = 0
        """Number of the VM whose table it is, 0 if that is not known."""

    def value(self, index: int) -> int:
        value = self.entries.get(index)
        if value is not None:
            return value
        if self.small and self.default != UNKNOWN:
            return self.default + self.small * index
        return self.default

    def counted(self, index: int) -> int:
        """The value to count: what it was before events were lost, if nothing newer."""
        value = self.value(index)
        if value != UNKNOWN:
            return value
        value = self.stale.get(index, UNKNOWN)
        if value == UNKNOWN and self.stale_default != UNKNOWN:
            return self.stale_default + self.small * index
        return value

    def expire(self, epoch: int) -> None:
        """Events were lost: every value may have changed."""
        for index, value in self.entries.items():
            if value != UNKNOWN:
                self.stale[index] = value
        if self.default != UNKNOWN:
            self.stale_default = self.default
        self.entries = {}
        self.default = UNKNOWN
        self.swept = False
        self.epoch = epoch

    @property
    def complete(self) -> bool:
        """Seen from its creation, with nothing lost since."""
        return self.default != UNKNOWN


class ShadowTables:
    """All tables that the events so far speak of."""

    def __init__(self, bits: int = 9, empty: int = UNKNOWN) -> None:
        self.bits = bits
        self.size = 1 << bits
        self.empty = empty
        """The kernel's empty value; taken from the first event that shows one."""
        self.format: SpteFormat | None = None
        self.shifts = [bits * level for level in range(MAX_LEVEL + 2)]
        self.low = [(1 << shift) - 1 for shift in [0, *self.shifts]]
        """By level: the GFN bits below an entry, which are 0 in its first GFN."""
        self.groups: dict[int, list[Table]] = {}
        self.pages: dict[int, Table] = {}
        """Linked table pages by PFN."""
        self.leafs = [0] * (MAX_LEVEL + 1)
        self.linked = 0
        self.removed = 0
        self.unseen = 0
        self.live = 0
        """Tables met and not removed, roots included."""
        self.changes = 0
        self.epoch = 0
        self.announced: list[list[int]] = [[] for _ in range(MAX_LEVEL + 1)]
        """By level: owners of the roots that were made and not yet met."""

    # ------------------------------------------------------------------ the rule

    def change(
        self, as_id: int, gfn: int, level: int, old: int, new: int, *, exact: bool = False
    ) -> int | None:
        """Fold one event; the value that was expected if ``old`` does not follow.

        For callers that see every change of a 7.3 kernel in order.  ``exact``: nothing
        else may change the entry (mirror entries; changes under the write lock).
        """
        table = self.find(as_id, gfn, level, old)
        index = self.index(gfn, level)
        last = table.value(index)
        if exact:
            follows = last in (old, UNKNOWN)
        else:
            follows = self.expects(last, old, level, split=index not in table.entries)
        gone = self.store(table, index, old, new)
        if gone is not None:
            self.drop(gone)
        return None if follows else last

    def expects(self, last: int, old: int, level: int, *, split: bool = False) -> bool:
        """Whether ``old`` can follow ``last`` with no line in between (facts 7, I20)."""
        if last in (old, UNKNOWN):
            return True
        if last == _6_1_FROZEN and old == 0:
            return True  # 6.1 ends a live entry's freeze with an untraced plain store
        if not (last & old & SPTE_MMU_PRESENT_MASK):
            return False
        fmt = self.format or self._format(old, level)
        delta = last ^ old
        if split and level == 1:
            delta &= ~fmt.executable  # make_small_spte() may grant execution again
        if delta & ~fmt.volatile:
            if fmt is not EPT or restore_acc_track_spte(last) == last:
                return False
            last = restore_acc_track_spte(last)
            delta = last ^ old
            if delta & ~fmt.volatile:
                return False
        if delta & last:
            return False  # A, D and W are only ever set behind the trace's back
        if delta & PT_WRITABLE_MASK and not last & fmt.mmu_writable:
            return False
        return not delta & fmt.dirty or bool(old & PT_WRITABLE_MASK)

    def same(self, one: int, other: int, level: int) -> bool:
        """Equal up to what changes without a line, in either direction."""
        if one == other:
            return True
        fmt = self.format or self._format(one, level)
        return bool(one & other & SPTE_MMU_PRESENT_MASK) and not (one ^ other) & ~fmt.volatile

    def _format(self, spte: int, level: int) -> SpteFormat:
        return spte_format_of(spte, level) or NPT

    # ------------------------------------------------------------------- lookup

    def key(self, as_id: int, gfn: int, level: int) -> int:
        return (gfn >> self.shifts[level]) << 16 | level << 8 | as_id

    def index(self, gfn: int, level: int) -> int:
        return gfn >> self.shifts[level - 1] & (self.size - 1)

    def find(self, as_id: int, gfn: int, level: int, old: int, owner: int = 0) -> Table:
        """The table that the event most likely changed; made up if none is known.

        :param owner: the VM of the task that made the change, 0 if that is not known: of
            tables that fit alike, one of that VM is taken.
        """
        group = self.groups.get((gfn >> self.shifts[level]) << 16 | level << 8 | as_id)
        announced = self.announced[level]
        if group is not None and len(group) == 1 and not announced:
            table = group[0]
            if table.epoch == self.epoch and table.value(self.index(gfn, level)) == old:
                return table
        if self.empty == UNKNOWN and old in EMPTY_VALUES:
            self.empty = old
        frozen = True
        is_new = old == self.empty and bool(announced)
        if group is not None:
            index = self.index(gfn, level)
            found = self._pick(group, index, level, old, owner)
            if found is not None:
                foreign = owner and found.owner and found.owner != owner
                if not (is_new and foreign and owner in announced):
                    return found
            frozen = all(table.value(index) in FROZEN_VALUES for table in group)
        if is_new:
            table = self._add(as_id, gfn, level, -1, self.empty)
            table.owner = announced.pop(announced.index(owner) if owner in announced else 0)
            return table
        if group is None or (frozen and old == self.empty):
            table = self.add_unseen(as_id, gfn, level)
            table.owner = owner
            return table
        return group[-1]

    def _pick(
        self, group: list[Table], index: int, level: int, old: int, owner: int
    ) -> Table | None:
        """Exact value first, then explained, then unknown; tables on their way out last
        (their own lines are placed by `claim`), those of another VM after equals."""
        best: Table | None = None
        best_rank = 99
        for table in group:
            if table.epoch != self.epoch:
                table.expire(self.epoch)
            last = table.value(index)
            if last == old:
                rank = 0
            elif last == UNKNOWN:
                rank = 8
            elif self.expects(last, old, level, split=index not in table.entries):
                rank = 4
            else:
                continue
            rank += 2 * (table.dying or table.removing)
            rank += bool(owner and table.owner and table.owner != owner)
            if rank < best_rank:
                best, best_rank = table, rank
        return best

    def claim(self, table: Table, index: int, old: int) -> None:
        """A line is known to belong to ``table``.  If its old value fits a sibling only,
        the two were mixed up at this index: exchange them."""
        value, level = table.value(index), table.level
        if value == old:
            return
        fits = self.expects(value, old, level, split=index not in table.entries)
        best: Table | None = None
        best_rank = 99
        for other in self.groups.get(self.key(table.as_id, table.base, level), ()):
            theirs = other.value(index)
            if other is table or theirs == UNKNOWN:
                continue
            # A sibling with exactly this value is the better guess, even if bits that
            # change without a line explain the own one: the sibling may need them too.
            if theirs == old:
                rank = 0
            elif not fits and theirs not in FROZEN_VALUES and self.expects(theirs, old, level):
                rank = 2
            else:
                continue
            rank += other.dying
            if rank < best_rank:
                best, best_rank = other, rank
        if best is not None:
            theirs = best.value(index)
            table.entries[index], best.entries[index] = theirs, value

    def add_unseen(self, as_id: int, gfn: int, level: int) -> Table:
        """A table that no line linked."""
        self.unseen += 1
        return self._add(as_id, gfn, level, -1, UNKNOWN)

    def _add(self, as_id: int, gfn: int, level: int, pfn: int, default: int) -> Table:
        base = gfn >> self.shifts[level] << self.shifts[level]
        table = Table(as_id, level, base, pfn, default)
        table.epoch = self.epoch
        table.born = self.changes
        self.live += 1
        self.groups.setdefault(self.key(as_id, gfn, level), []).append(table)
        if pfn >= 0:
            self.pages[pfn] = table
        return table

    def announce_root(self, level: int, owner: int = 0) -> None:
        """kvm_mmu_get_page of a root; the event does not say of which address space.

        With clocks that differ, the first line of the new tree may have come before.
        """
        for group in self.groups.values():
            for table in group:
                if table.level == level and self._may_be_adopted(table):
                    table.default = self.empty
                    table.owner = owner
                    self.unseen -= 1
                    return
        self.announced[level].append(owner)

    def _may_be_adopted(self, table: Table) -> bool:
        """A table met shortly before the line that makes it known."""
        young = self.changes - table.born <= ADOPT_WITHIN
        return young and table.fresh and table.pfn < 0 and not table.complete

    def forget(self) -> None:
        """Events were lost: all values are unknown until seen again."""
        self.epoch += 1
        self.pages.clear()

    # -------------------------------------------------------------------- store

    def store(
        self, table: Table, index: int, old: int, new: int, removed: Table | None = None
    ) -> Table | None:
        """Apply a change; the child table that it unlinked, if any.  ``removed`` is the
        one whose removal its task logged before."""
        self.changes += 1
        level = table.level
        entries = table.entries
        before = entries.get(index, UNKNOWN)
        if before == UNKNOWN:
            before = table.counted(index)
            if before == UNKNOWN and old != self.empty:
                table.fresh = False
        if before & SPTE_MMU_PRESENT_MASK and before > 0 and is_last_spte(before, level):
            self.leafs[level] -= 1
        if new & SPTE_MMU_PRESENT_MASK and (level == 1 or new & PT_PAGE_SIZE_MASK):
            self.leafs[level] += 1
        if new == table.default and not table.small:
            entries.pop(index, None)
        else:
            entries[index] = new
        if level == 1:
            if not old & SPTE_MMU_PRESENT_MASK and new in FROZEN_VALUES:
                table.swept = True
            return None
        return self._store_upper(table, index, old, new, removed)

    def _store_upper(
        self, table: Table, index: int, old: int, new: int, removed: Table | None
    ) -> Table | None:
        """What a change above level 1 does to child tables."""
        level = table.level
        gone: Table | None = None
        if self.format is None:
            self.format = spte_format_of(new, level) or spte_format_of(old, level)
        if new in FROZEN_VALUES and not is_shadow_present_pte(old):
            table.swept = True
        gfn = table.base + (index << self.shifts[level - 1])
        same_page = is_table(new, level) and spte_to_pfn(old) == spte_to_pfn(new)
        if is_table(old, level) and not same_page:
            gone = self.unlink(table.as_id, gfn, level, old, removed)
        if is_table(new, level) and not (is_table(old, level) and same_page):
            self._link(table, gfn, old, new)
        if gone is not None and level >= 4 and table.pfn < 0:
            if not any(is_shadow_present_pte(value) for value in table.entries.values()):
                self.drop(table)  # only a dying root loses its last entry
        return gone

    def _link(self, parent: Table, gfn: int, old: int, new: int) -> None:
        as_id, level, pfn = parent.as_id, parent.level, spte_to_pfn(new)
        self.linked += 1
        split = is_leaf(old, level)
        if not split:
            for table in self.groups.get(self.key(as_id, gfn, level - 1), ()):
                if self._may_be_adopted(table) and table.epoch == self.epoch:
                    table.pfn, table.default = pfn, self.empty
                    table.owner = parent.owner
                    self.pages[pfn] = table
                    self.unseen -= 1
                    return
        table = self._add(as_id, gfn, level - 1, pfn, self.empty)
        table.owner = parent.owner
        if split:
            table.default = old if level > 2 else old & ~PT_PAGE_SIZE_MASK
            table.small = 1 << (12 + self.shifts[level - 2])
            self.leafs[level - 1] += self.size

    def unlink(
        self, as_id: int, gfn: int, level: int, old: int, removed: Table | None = None
    ) -> Table:
        """Mark the table dying that entry value ``old`` at ``level`` points to.

        If it turns out that the lines of its removal were taken for a sibling's, the two
        exchange their identity, which is their PFN.
        """
        self.removed += 1
        pfn = spte_to_pfn(old)
        group = self.groups.get(self.key(as_id, gfn, level - 1), ())
        found = next((table for table in group if table.pfn == pfn and not table.dying), None)
        if found is None:
            found = next((table for table in group if table.pfn < 0 and not table.dying), None)
        if removed is not None and removed is not found:
            if found is not None:
                found.pfn = removed.pfn
                if found.pfn >= 0:
                    self.pages[found.pfn] = found
            removed.pfn, found = pfn, removed
        if found is None:
            found = self._add(as_id, gfn, level - 1, -1, UNKNOWN)
        if found.epoch != self.epoch:
            found.expire(self.epoch)
        self.pages.pop(pfn, None)
        found.dying = True
        self.live -= 1
        return found

    def doubt(self, table: Table, index: int) -> None:
        """The entry's value is no longer certain (a late line); its count stays."""
        value = table.value(index)
        if value != UNKNOWN:
            table.stale[index] = value
        table.entries[index] = UNKNOWN

    def drop(self, table: Table) -> dict[int, int]:
        """Forget a removed table; its entries that no line emptied, by index.

        Values that lines of a sibling hold by a wrong guess are exchanged first.
        """
        group = self.groups.get(self.key(table.as_id, table.base, table.level), [])
        if table not in group:
            return {}
        group.remove(table)
        self.live -= not table.dying
        left: dict[int, int] = {}
        indices = range(self.size) if table.small or table.swept else sorted(table.entries)
        for index in indices:
            value = table.value(index)
            if value in FROZEN_VALUES or value == UNKNOWN:
                continue
            if not table.swept and not is_shadow_present_pte(value):
                continue
            if not self._exchange(group, table, index, value):
                left[index] = value
        self._uncount(table)
        if not group:
            del self.groups[self.key(table.as_id, table.base, table.level)]
        return left if table.complete else {}

    def _exchange(self, group: list[Table], table: Table, index: int, value: int) -> bool:
        for other in group:
            theirs = other.value(index)
            if theirs in FROZEN_VALUES or (theirs == self.empty and not table.swept):
                other.entries[index] = value
                table.entries[index] = theirs
                return True
        return False

    def _uncount(self, table: Table) -> None:
        """Leafs that go with the table without lines of their own."""
        whole = table.small or table.stale_default != UNKNOWN
        indices = range(self.size) if whole else set(table.entries) | set(table.stale)
        for index in indices:
            value = table.counted(index)
            if value != UNKNOWN and is_leaf(value, table.level):
                self.leafs[table.level] -= 1
