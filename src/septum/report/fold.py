# SPDX-License-Identifier: GPL-2.0-only
"""Which steps of an execution a reader needs to see.

A schedule of a hundred steps does not fit on a screen, and most of its steps are private
to a task: they commute with everything that other tasks do.  Steps are ranked, and the
best ones are shown; the others are folded as ``(n steps)``, so that nothing is hidden
without being counted.  The ranks, best first:

0. the racing pair, the steps at which a rule broke, choices other than the first option,
1. steps on an object of the racing pair or of the finding,
2. SEAMCALLs as they return, and changes of an object that another task touches,
3. reads and failed compare-and-exchanges of such an object, waits for a retry,
4. locks that tasks contend for,
5. private steps that change something: only where the table would be nearly empty,
6. everything else: never shown unless everything is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from septum.machine import Event
from septum.machine.dependency import COMMUTE, READ, SHARED, WAIT, UnknownPair, relation

__all__ = ["BUDGET", "ENOUGH", "contended", "rank_steps", "shown_steps", "touched"]

BUDGET = 34
"""Steps shown unless the reader asks for all: with function names, about one screen."""

ENOUGH = 12
"""Steps shown before private ones are left out."""

_PRIVATE = 5
_NEVER = 6


def touched(event: Event) -> list[tuple[str, int]]:
    """The footprint that is the step's own: what monitors looked at does not count."""
    if event.op in ("await", "choose"):
        return event.acc
    if event.label:
        return [access for access in event.acc if access[1] != READ] or event.acc
    return [access for access in event.acc if access[0] == event.obj]


def contended(events: Iterable[Event]) -> set[str]:
    """Objects on which steps of two tasks do not commute."""
    uses: dict[str, set[tuple[int, int]]] = {}
    for event in events:
        for obj, kind in touched(event):
            uses.setdefault(obj, set()).add((event.task, kind))
    return {obj for obj, seen in uses.items() if _conflict(seen)}


def _conflict(seen: set[tuple[int, int]]) -> bool:
    return any(
        task != other and _clash(kind, kind2) for task, kind in seen for other, kind2 in seen
    )


def _clash(first: int, second: int) -> bool:
    try:
        return relation(first, second) != COMMUTE
    except UnknownPair:
        return True


def rank_steps(
    events: Sequence[Event],
    *,
    pair: tuple[int, int] | None,
    marked: Iterable[int],
    focus: Iterable[str] = (),
    calls: Iterable[int] = (),
) -> list[int]:
    """A rank per step (see above).

    :param marked: steps at which a rule broke.
    :param focus: objects that the findings name.
    :param calls: steps at which a SEAMCALL or TDCALL returns.
    """
    must = set(marked) | set(pair or ())
    shared = contended(events)
    wanted = set(focus)
    for at in pair or ():
        wanted |= {obj for obj, _ in touched(events[at])}
    seamcalls = set(calls)
    ranks = []
    for at, event in enumerate(events):
        if at in must or (event.op == "choose" and event.choice > 0):
            ranks.append(0)
        else:
            ranks.append(_rank(event, shared, wanted, at in seamcalls))
    return ranks


def _rank(event: Event, shared: set[str], wanted: set[str], seamcall: bool) -> int:
    own = touched(event)
    objects = {obj for obj, _ in own}
    locks = bool(own) and not event.label and own[0][1] >= SHARED
    if event.op == "choose":
        return _NEVER
    if event.op == "await":
        return 3
    if objects & wanted and not locks:
        return 1
    if seamcall:
        return 2
    if not objects & shared:
        changed = event.seen != event.left or any(kind != READ for _, kind in own if event.label)
        return _PRIVATE if changed else _NEVER
    if locks:
        return 4
    if event.label or event.seen != event.left or own[0][1] == WAIT:
        return 2
    return 3


def shown_steps(ranks: Sequence[int], budget: int = BUDGET) -> list[int]:
    """Positions of the steps to show, in order.

    All steps of rank 0, then by rank, and within a rank those nearest to the steps of
    rank 0, as long as ``budget`` lasts.  A negative budget shows every step.
    """
    if budget < 0:
        return list(range(len(ranks)))
    must = [at for at, rank in enumerate(ranks) if rank == 0]
    chosen = set(must)
    anchors = must or [len(ranks) - 1]
    rest = [at for at, rank in enumerate(ranks) if 0 < rank < _PRIVATE]
    rest.sort(key=lambda at: (ranks[at], min(abs(at - anchor) for anchor in anchors), at))
    chosen.update(rest[: max(budget - len(must), 0)])
    more = [at for at, rank in enumerate(ranks) if rank == _PRIVATE]
    more.sort(key=lambda at: (min(abs(at - anchor) for anchor in anchors), at))
    chosen.update(more[: max(min(budget, ENOUGH) - len(chosen), 0)])
    return sorted(chosen)
