# SPDX-License-Identifier: GPL-2.0-only
"""The rules of replay, each with an id, a statement and its source; and the rules that
one line breaks by itself.

Ids are those of the invariants (facts 7) where one applies.  A finding means: no order
of the recorded lines, completed by what the stock events cannot show, is a run of the
kernel.  Either the kernel went wrong or the recording was altered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from septum.kvm.shadow import MAX_LEVEL, ShadowTables, is_leaf, is_table
from septum.kvm.spte import (
    PT_WRITABLE_MASK,
    SPTE_BASE_ADDR_MASK,
    SPTE_MMU_PRESENT_MASK,
    is_shadow_present_pte,
    spte_to_pfn,
)
from septum.kvm.versions import EMPTY_VALUES, FROZEN_VALUES, SpteFormat
from septum.trace.events import SpteChanged
from septum.trace.text import task_name

__all__ = [
    "MAX_GFN",
    "ORDER_FREE",
    "RULES",
    "Finding",
    "Known",
    "Rule",
    "Where",
    "describe_spte",
    "entry",
    "finding_at",
    "is_ordinary",
    "misplaced",
    "single_line_faults",
]


@dataclass(frozen=True, slots=True)
class Rule:
    """``good`` and ``bad`` are short runs of lines that keep and break it (7.3, NPT; C and
    the table pages stand for what comes before): docs/replay-rules.md shows them."""

    id: str
    statement: str
    source: str


RULES: Final = {
    rule.id: rule
    for rule in (
        Rule(
            "I20",
            "The old value of a line is the new value of the line before it on the same"
            " entry, up to A and D (set by the CPU) and W (set by fast_page_fault), for"
            " some order of lines of different CPUs.",
            "__handle_changed_spte(), tdp_mmu.c; facts 7 (I20)",
        ),
        Rule(
            "I20-removal",
            "When a page table goes, its parent and each of its present entries (all"
            " entries, if removed under the shared lock) has a line of the same task, in"
            " ascending order; 7.3 logs the children first, 6.1 and 6.12 the parent.",
            "handle_removed_pt(), tdp_mmu.c; facts 4.4, 8.4",
        ),
        Rule(
            "I20-link",
            "An entry belongs to a table that a line linked; a page is linked once until"
            " it is removed.",
            "tdp_mmu_link_sp(), tdp_mmu.c; facts 4.19",
        ),
        Rule(
            "I20-reinstall",
            "A leaf is not installed twice in a row: between two lines that put a leaf into"
            " an empty entry, a line takes it out.",
            "tdp_mmu_map_handle_target_level(), tdp_mmu.c; facts 4.6, 7 (I20)",
        ),
        Rule(
            "I20-child",
            "Nothing changes below an entry that maps no table: a table's entries change"
            " only from its link line to its removal.",
            "handle_removed_pt(), tdp_mmu.c; facts 4.4",
        ),
        Rule(
            "PAGE",
            "A table page is made (kvm_mmu_get_page) by the task that links it, before it"
            " links it.",
            "tdp_mmu_init_sp(), tdp_mmu_link_sp(), tdp_mmu.c; facts 4.5, 4.15, 4.19",
        ),
        Rule(
            "FAULT-pfn",
            "The leaf that a fault installs maps the page that its kvm_mmu_spte_requested"
            " line names.",
            "kvm_tdp_mmu_map(), tdp_mmu.c; facts 4.5 (2), 4.6",
        ),
        Rule(
            "FAULT-set",
            "A fault that installs a writable leaf ends with a kvm_mmu_set_spte line of the"
            " same entry; that line names the entry's own address.",
            "tdp_mmu_map_handle_target_level(), tdp_mmu.c; facts 4.6 (5), 4.19",
        ),
        Rule(
            "SPLIT",
            "A huge leaf that becomes a table is followed by the task's"
            " kvm_mmu_split_huge_page line with the leaf's value.",
            "tdp_mmu_split_huge_page(), tdp_mmu.c; facts 4.15",
        ),
        Rule(
            "I1",
            "When a task has finished a change of the mirror, the S-EPT holds the same: a"
            " leaf with the same PFN, a table, or nothing.",
            "set_external_spte() of tdx.c; facts 7 (I1), tdx-module.md 3",
        ),
        Rule(
            "I8",
            "No SEAMCALL of the memory path returns an error that KVM treats as a bug: BUSY"
            " and interrupted calls are made again, others are not.",
            "TDX_BUG_ON() in tdx.c; facts 5.2, 7 (I8)",
        ),
        Rule(
            "I9",
            "A frozen value is never an old value; as a new value it occurs only in"
            " entries of a table that the same task is removing (6.1: also in an entry"
            " that is being replaced).",
            "handle_removed_pt(), tdp_mmu.c; facts 7 (I20 exceptions)",
        ),
        Rule(
            "I11",
            "A present leaf is never replaced by a leaf of another PFN.",
            "BUG() in __handle_changed_spte(), tdp_mmu.c; facts 4.3 step 1",
        ),
        Rule(
            "I13",
            "W implies MMU-writable, MMU-writable implies Host-writable.",
            "check_spte_writable_invariants(), spte.h; facts 1.3",
        ),
        Rule(
            "WARN:__handle_changed_spte",
            "The level exists, the gfn is aligned to it, a page of the host is aligned to"
            " its level, a table is not replaced by another, and a non-present value is"
            " empty, frozen or MMIO.",
            "__handle_changed_spte(), tdp_mmu.c; facts 4.3",
        ),
        Rule(
            "LINE",
            "A line is one that some kernel prints: old and new differ.",
            "__handle_changed_spte() step 2; facts 7 (I20 exceptions)",
        ),
        Rule(
            "ORDER",
            "Time stamps of a tracefs `trace` file never step back: it is merged from the"
            " CPUs' buffers by time.  A trace_pipe recording may step back.",
            "kernel/trace/trace.c, __find_next_entry(); facts 8.1",
        ),
    )
}


ORDER_FREE: Final = frozenset(
    (
        *("I11", "I13", "WARN:__handle_changed_spte", "LINE", "ORDER"),
        *("PAGE", "FAULT-pfn", "FAULT-set", "SPLIT", "I8"),
    )
)
"""Rules about one line, or about lines of one task in one section of a lock: the order of
lines of different CPUs does not matter for them."""


class Where(NamedTuple):
    """Where a line stands, and who wrote it (``comm`` as in the text)."""

    line: int
    time: float
    cpu: int
    pid: int
    comm: str


class Past(NamedTuple):
    """An earlier change of the same GFN, for a finding's history."""

    line: int
    cpu: int
    pid: int
    level: int
    old: int
    new: int


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken rule, at ``line``.  ``gfn`` to ``new`` are those of the change, None where
    the line is no change; ``history`` has the last changes before it that touch the GFN."""

    rule: str
    line: int
    message: str
    time: float = 0.0
    cpu: int = -1
    task: str = ""
    as_id: int | None = None
    gfn: int | None = None
    level: int | None = None
    old: int | None = None
    new: int | None = None
    history: tuple[Past, ...] = ()
    detail: tuple[str, ...] = ()
    """Lines of text that show more, e.g. the mirror and the S-EPT side by side."""
    judged: int = field(default=0, compare=False, repr=False)
    """The line at which it was certain; what comes out between may withdraw it."""


def finding_at(rule: str, at: Where, message: str, event: SpteChanged | None = None) -> Finding:
    """A finding on a line; ``event`` is the change that the line reports."""
    assert rule in RULES, rule
    task = f"{task_name(at.comm)}-{at.pid}"
    if event is None:
        return Finding(rule, at.line, message, at.time, at.cpu, task)
    as_id, gfn, level, old, new = event
    return Finding(rule, at.line, message, at.time, at.cpu, task, as_id, gfn, level, old, new)


def entry(event: SpteChanged) -> str:
    """The entry that a change names, in words."""
    return f"as_id {event.as_id} gfn {event.gfn:x} level {event.level}"


_LEVELS: Final = {1: "4K", 2: "2M", 3: "1G", 4: "512G", 5: "256T"}
MAX_GFN: Final = 1 << 40


def describe_spte(spte: int, level: int, fmt: SpteFormat) -> str:
    """What an SPTE value is, in a few words."""
    if spte in EMPTY_VALUES:
        return "empty"
    if spte in FROZEN_VALUES:
        return "frozen"
    if not is_shadow_present_pte(spte):
        return "MMIO" if fmt.may_be_mmio(spte) else "no kernel value"
    if is_table(spte, level):
        return f"table {spte_to_pfn(spte):x}"
    bits = "".join(
        letter if spte & bit else "-"
        for letter, bit in (("W", PT_WRITABLE_MASK), ("D", fmt.dirty), ("A", fmt.accessed))
    )
    return f"leaf {_LEVELS.get(level, level)} pfn {spte_to_pfn(spte):x} {bits}"


class Known(NamedTuple):
    """The special values of the kernel; all of them until it is known."""

    empty: frozenset[int] = EMPTY_VALUES
    frozen: frozenset[int] = FROZEN_VALUES


def is_ordinary(old: int, new: int, level: int, fmt: SpteFormat, known: Known) -> bool:
    """A quick test that most lines pass: `single_line_faults` has nothing to say."""
    if not new & SPTE_MMU_PRESENT_MASK:
        return bool(old & SPTE_MMU_PRESENT_MASK) and (new in known.empty or new in known.frozen)
    if level > 1 or old == new or old in FROZEN_VALUES:
        return False
    if old & SPTE_MMU_PRESENT_MASK and (old ^ new) & SPTE_BASE_ADDR_MASK:
        return False
    writable = fmt.host_writable | fmt.mmu_writable
    return new & writable == writable or not new & (fmt.mmu_writable | PT_WRITABLE_MASK)


def single_line_faults(
    event: SpteChanged, tables: ShadowTables, fmt: SpteFormat, known: Known
) -> Iterator[tuple[str, str]]:
    """(rule, message) for what one line breaks without looking at any other."""
    level, old, new = event.level, event.old_spte, event.new_spte
    if old == new:
        yield "LINE", f"old and new value are both {old:x}"
    if old in FROZEN_VALUES:
        yield "I9", f"the old value {old:x} is frozen"
    if is_shadow_present_pte(new):
        yield from _present_faults(event, tables, fmt)
        return
    for value in (old, new):
        if is_shadow_present_pte(value) or value in known.empty or value in known.frozen:
            continue
        if level > 1 or value in EMPTY_VALUES or not fmt.may_be_mmio(value):
            yield (
                "WARN:__handle_changed_spte",
                f"non-present value {value:x} is neither empty, frozen nor MMIO",
            )


def _present_faults(
    event: SpteChanged, tables: ShadowTables, fmt: SpteFormat
) -> Iterator[tuple[str, str]]:
    level, old, new = event.level, event.old_spte, event.new_spte
    if not is_leaf(new, level):
        if is_table(old, level) and spte_to_pfn(old) != spte_to_pfn(new):
            yield (
                "WARN:__handle_changed_spte",
                f"table {spte_to_pfn(old):x} is replaced by table {spte_to_pfn(new):x}",
            )
        return
    if is_leaf(old, level) and spte_to_pfn(old) != spte_to_pfn(new):
        yield (
            "I11",
            f"present leaf changes its PFN from {spte_to_pfn(old):x} to {spte_to_pfn(new):x}",
        )
    if spte_to_pfn(new) & ((1 << tables.shifts[level - 1]) - 1):
        yield "WARN:__handle_changed_spte", f"PFN {spte_to_pfn(new):x} is not aligned to its level"
    if new & PT_WRITABLE_MASK and not new & fmt.mmu_writable:
        yield "I13", f"SPTE {new:x} is writable but not MMU-writable"
    if new & fmt.mmu_writable and not new & fmt.host_writable:
        yield "I13", f"SPTE {new:x} is MMU-writable but not Host-writable"


def misplaced(event: SpteChanged, tables: ShadowTables) -> str | None:
    """Why no entry can have this level and gfn."""
    if not 1 <= event.level <= MAX_LEVEL:
        return f"level {event.level} does not exist"
    if event.gfn & ((1 << tables.shifts[event.level - 1]) - 1):
        return f"gfn {event.gfn:x} is not aligned to level {event.level}"
    if event.gfn >= MAX_GFN:
        return f"gfn {event.gfn:x} is beyond 52 physical address bits"
    return None
