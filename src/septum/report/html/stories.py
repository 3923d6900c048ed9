# SPDX-License-Identifier: GPL-2.0-only
"""A counterexample as the data that the page's viewer walks through.

A state is a map from ``mirror|level|gfn``, ``sept|...``, ``direct|...``, ``differs|...``
or ``cpu|name`` to a text; a step carries what it changed (null: gone), so that a long
schedule stays small.
"""

from __future__ import annotations

import linecache
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from septum.report.fold import rank_steps
from septum.report.interleaving import describe, function_of, is_call, story_end
from septum.report.layout import clean
from septum.report.locks import holders
from septum.report.values import spte_text
from septum.scenarios.result import Counterexample, Replay
from septum.tdx import sept

__all__ = ["MINOR", "Code", "state_map", "story"]

MINOR: Final = 4
"""Steps of this rank and above (`septum.report.fold`) are folded at first."""

_CONTEXT: Final = 4  # lines of source around a step's own

Json = dict[str, Any]


def state_map(state: Mapping[str, Any]) -> dict[str, str]:
    """A state (`Replay.states`) by keys.  A direct tree may have several roots; an empty
    one is left out."""
    out: dict[str, str] = {}
    for tree in ("mirror", "direct"):
        for _, level, gfn, spte in state.get(tree, ()):
            key, text = f"{tree}|{level}|{gfn:x}", spte_text(spte, level)
            if tree == "direct" and text == "NONPRESENT":
                continue
            old = out.get(key)
            out[key] = text if old in (None, text) else f"{old}; {text}"
    for level, gfn, raw in state.get("sept", ()):
        out[f"sept|{level}|{gfn:x}"] = sept.show(raw)
    for level, gfn, problem in state.get("differs", ()):
        out[f"differs|{level}|{gfn:x}"] = problem
    for name, text in state.get("cpu", ()):
        out[f"cpu|{name}"] = text
    return out


def story(ce: Counterexample, replay: Replay, *, mail: str, levels: int, code: Code) -> Json:
    """What the viewer needs of one counterexample.

    :param replay: with its states.
    :param code: takes the source that its steps show.
    :param mail: the text that the copy button copies.
    """
    end = story_end(replay, ce.finding.step)
    events = replay.events[:end]
    states = {at: state_map(state) for at, state in replay.states.items() if at < end}
    start = states[min(states)] if states else {}
    before = start
    ranks = _ranks(replay)
    steps = []
    for at, event in enumerate(events):
        after = states.get(at, before)
        where, line, block = code.of(event.where)
        told = replay.traces.get(at, [])
        steps.append(
            {
                "task": event.task,
                "text": clean(describe(event, told)),
                "fn": function_of(event),
                "where": where,
                "line": line,
                "code": block,
                "told": [clean(text) for text in told],
                "minor": ranks[at] >= MINOR,
                "changes": _changes(before, after),
            }
        )
        before = after
    broken = min(max(ce.finding.step, 0), max(len(steps) - 1, 0))
    return {
        "tasks": [clean(name) for name in replay.task_names],
        "levels": levels,
        "start": sorted(start.items()),
        "steps": steps,
        "locks": [
            {
                "lock": held.lock,
                "holder": clean(replay.task_names[held.task]),
                "mode": held.mode,
                "from": held.begin,
                "to": held.end,
            }
            for held in holders(events)
        ],
        "pair": list(replay.pair or ()),
        "marks": sorted({f.step for f in replay.findings if f.task >= 0 and f.step < end}),
        "first": broken if ce.finding.task >= 0 or replay.pair is None else replay.pair[1],
        "broken": broken,
        "mail": mail,
    }


def _ranks(replay: Replay) -> list[int]:
    calls = {at for at, told in replay.traces.items() if any(map(is_call, told))}
    return rank_steps(
        replay.events,
        pair=replay.pair,
        marked={f.step for f in replay.findings if f.task >= 0},
        focus=(f.obj for f in replay.findings if f.obj),
        calls=calls,
    )


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[tuple[str, str | None]]:
    if before is after:
        return []
    changed = [(k, after.get(k)) for k in {**before, **after} if before.get(k) != after.get(k)]
    return sorted(changed)


class Code:
    """Source around the steps of all stories of a page, each block once."""

    def __init__(self) -> None:
        self.blocks: list[list[tuple[int, str]]] = []
        self._known: dict[tuple[str, int], int] = {}

    def of(self, where: tuple[str, str, int] | None) -> tuple[str, int, int | None]:
        """``file:line``, the line, and the number of its block (None: no source)."""
        if where is None:
            return "", 0, None
        _, path, line = where
        short = f"{'/'.join(Path(path).parts[-2:])}:{line}"
        number = self._known.get((path, line))
        if number is None:
            lines = linecache.getlines(path)
            if not 0 < line <= len(lines):
                return short, line, None
            first = max(line - _CONTEXT, 1)
            block = lines[first - 1 : line + _CONTEXT]
            self.blocks.append([(first + n, text.rstrip("\n")) for n, text in enumerate(block)])
            number = self._known[path, line] = len(self.blocks) - 1
        return short, line, number
