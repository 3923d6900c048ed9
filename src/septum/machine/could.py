# SPDX-License-Identifier: GPL-2.0-only
"""Without which changes of a word a wait for its value could have gone on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from math import prod
from typing import Any, Final

from septum.machine.dependency import ADD, WRITE
from septum.machine.events import Event, MachineError, step_start

__all__ = ["Could", "could_go_on"]

Could = tuple[tuple[int, ...], ...]

_MOST_CUTS: Final = 4096


def could_go_on(
    name: str, values: Iterable[tuple[Any, int]], log: Sequence[Event], done: Callable[[Any], bool]
) -> Could:
    """Sets of changes of word ``name``, by position, without which (and what depends on
    them) ``done`` would hold.  Additions have no order among themselves, so any of them may
    be missing.

    :param values: of the word, one after the other, each with the position where it came
        about.
    :raises MachineError: there are too many additions.
    """
    out: list[tuple[int, ...]] = []
    value: Any = None
    adds: dict[int, list[tuple[int, Any]]] = {}  # task -> its additions: position, amount
    for at, (before, after) in _changes(values, log).items():
        if not adds:
            value = before
        if _only_added(name, at, log):
            adds.setdefault(log[at].task, []).append((at, after - before))
            continue
        for kept, missing in _cuts(list(adds.values())):
            if done(value + kept if adds else before):
                out.append(missing or (at,))
        adds = {}
    if adds:
        for kept, missing in _cuts(list(adds.values())):
            if missing and done(value + kept):
                out.append(missing)
    return tuple(out)


def _changes(values: Iterable[tuple[Any, int]], log: Sequence[Event]) -> dict[int, tuple[Any, Any]]:
    """The value before and after, by the position of the step that changed it."""
    out: dict[int, tuple[Any, Any]] = {}
    for (old, _), (new, position) in pairwise(values):
        at = step_start(log, position)
        if at >= 0:
            out[at] = (out[at][0] if at in out else old, new)
    return out


def _only_added(name: str, at: int, log: Sequence[Event]) -> bool:
    """Whether the step at ``at`` adds to the word and stores nothing there."""
    end = at + 1
    while end < len(log) and log[end].op == "choose":
        end += 1
    kinds = {kind for event in log[at:end] for obj, kind in event.acc if obj == name}
    return ADD in kinds and WRITE not in kinds


def _cuts(adds: list[list[tuple[int, Any]]]) -> list[tuple[Any, tuple[int, ...]]]:
    """Every way to leave out additions, each task's last ones first: what the others amount
    to, and the positions of those left out."""
    if prod([len(mine) + 1 for mine in adds]) > _MOST_CUTS:
        raise MachineError("too many add() to a word that is waited for: use fetch_add()")
    out: list[tuple[Any, tuple[int, ...]]] = [(0, ())]
    for mine in adds:
        out = [
            (kept + sum([a for _, a in mine[:n]]), (*missing, *[at for at, _ in mine[n:]]))
            for kept, missing in out
            for n in range(len(mine) + 1)
        ]
    return [(kept, tuple(sorted(missing))) for kept, missing in out]
