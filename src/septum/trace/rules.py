# SPDX-License-Identifier: GPL-2.0-only
"""What replay's rules say about a line, and the rules that one line breaks by itself.

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
from septum.trace.catalogue import RULES
from septum.trace.events import SpteChanged
from septum.trace.text import task_name

__all__ = [
    "ADDRESS_SPACES",
    "MAX_GFN",
    "ORDER_FREE",
    "Finding",
    "Known",
    "Where",
    "describe_spte",
    "entry",
    "finding_at",
    "is_ordinary",
    "misplaced",
    "single_line_faults",
]


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
    pid: int = -1
    vm: int = 0
    """The VM that its task works for, 0 if that cannot be told."""
    judged: int = field(default=0, compare=False, repr=False)
    """The line at which it was certain; what comes out between may withdraw it."""


def finding_at(rule: str, at: Where, message: str, event: SpteChanged | None = None) -> Finding:
    """A finding on a line; ``event`` is the change that the line reports."""
    assert rule in RULES, rule
    task = f"{task_name(at.comm)}-{at.pid}"
    if event is None:
        return Finding(rule, at.line, message, at.time, at.cpu, task, pid=at.pid)
    as_id, gfn, level, old, new = event
    return Finding(
        *(rule, at.line, message, at.time, at.cpu, task),
        *(as_id, gfn, level, old, new),
        pid=at.pid,
    )


def entry(event: SpteChanged) -> str:
    """The entry that a change names, in words."""
    return f"as_id {event.as_id} gfn {event.gfn:x} level {event.level}"


_LEVELS: Final = {1: "4K", 2: "2M", 3: "1G", 4: "512G", 5: "256T"}
MAX_GFN: Final = 1 << 40
ADDRESS_SPACES: Final = 2
"""KVM_MAX_NR_ADDRESS_SPACES of x86 (asm/kvm_host.h): 1 is that of SMM."""


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
    if event.as_id >= ADDRESS_SPACES:
        return f"address space {event.as_id} does not exist"
    if event.gfn & ((1 << tables.shifts[event.level - 1]) - 1):
        return f"gfn {event.gfn:x} is not aligned to level {event.level}"
    if event.gfn >= MAX_GFN:
        return f"gfn {event.gfn:x} is beyond 52 physical address bits"
    return None
