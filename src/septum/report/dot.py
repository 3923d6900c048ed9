# SPDX-License-Identifier: GPL-2.0-only
"""A counterexample as Graphviz graphs: the trees where the rule broke, and which step had to
come after which.

`trees_dot` draws mirror and S-EPT side by side after the step that broke the rule.  An entry
with its table is a row of a box; frozen entries and entries that disagree are coloured, and
each disagreement is said in words above.  `order_dot` draws the steps that a report shows: a column
per task, and an arrow wherever the order of two steps of different tasks matters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any, Final

from septum.explore.races import Analysis, analyse
from septum.explore.steps import steps_of
from septum.report.counterexample import title
from septum.report.fold import BUDGET, rank_steps, shown_steps
from septum.report.interleaving import describe, function_of, is_call, last_step
from septum.report.layout import clean
from septum.report.values import spte_text
from septum.scenarios.result import Counterexample, Replay
from septum.tdx import sept

__all__ = ["NoTrees", "order_dot", "trees_dot"]

_FROZEN: Final = "#cfe8f5"
_DIFFERS: Final = "#f6c7c3"
_PAIR: Final = "#f3e2a9"
_HEAD: Final = (
    "digraph septum {",
    '  graph [fontname="sans-serif" fontsize=12 labelloc=t];',
    '  node [fontname="monospace" fontsize=10 shape=box];',
    '  edge [fontname="sans-serif" fontsize=10];',
)


class NoTrees(ValueError):
    """The counterexample is of a protocol that has no page tables; says what can be drawn."""


def trees_dot(ce: Counterexample, replay: Replay) -> str:
    """Both trees after the step that broke the rule.

    :param replay: with its states.
    :raises NoTrees: there are none.
    """
    at = _broken_at(ce, replay)
    state = replay.states[max(n for n in replay.states if n <= at)]
    if "mirror" not in state:
        raise NoTrees(f"{ce.design} has no page tables to draw; try --format dot-order")
    differs = {(level, gfn): problem for level, gfn, problem in state.get("differs", ())}
    when = "after all tasks had finished" if ce.finding.task < 0 else f"after step {at}"
    label = "\n".join([f"{title(ce)}, {when}", *differs.values()])
    lines = [
        *_HEAD,
        f"  label={_quoted(label)};",
        "  rankdir=LR;",
        *_mirror(state["mirror"], differs),
        *_sept(state["sept"], differs, 9 if ce.kernel else int(ce.params["bits"])),
    ]
    for table, level, gfn, _ in state["mirror"]:
        if (level, gfn) in differs:
            lines.append(
                f"  {_quoted(table)}:{_port(gfn)} -> {_sept_node(level, gfn)} "
                '[color="#b3261e" style=dashed constraint=false];'
            )
    return "\n".join([*lines, "}"]) + "\n"


def _mirror(
    entries: Sequence[tuple[str, int, int, int]], differs: Mapping[tuple[int, int], str]
) -> Iterator[str]:
    tables: dict[str, list[tuple[int, int, int]]] = {}
    for table, level, gfn, spte in entries:
        tables.setdefault(table, []).append((level, gfn, spte))
    first = {(rows[0][0], min(gfn for _, gfn, _ in rows)): t for t, rows in tables.items()}
    yield "  subgraph cluster_mirror {"
    yield '    label="mirror page tables (KVM)";'
    for table, rows in tables.items():
        cells = [f"<TR><TD><B>{escape(table)}</B>, level {rows[0][0]}</TD></TR>"]
        for level, gfn, spte in rows:
            text = spte_text(spte, level)
            color = _DIFFERS if (level, gfn) in differs else _FROZEN if text == "FROZEN" else ""
            cells.append(
                f'<TR><TD PORT="{_port(gfn)}" ALIGN="LEFT"'
                + (f' BGCOLOR="{color}"' if color else "")
                + f">gfn {gfn:x}: {escape(text)}</TD></TR>"
            )
        yield (
            f"    {_quoted(table)} [shape=plain label=<"
            f'<TABLE BORDER="0" CELLBORDER="1" CELLSPACING="0">{"".join(cells)}</TABLE>>];'
        )
        for level, gfn, spte in rows:
            child = first.get((level - 1, gfn))
            if child is not None and spte_text(spte, level).startswith("table"):
                yield f"    {_quoted(table)}:{_port(gfn)} -> {_quoted(child)};"
    yield "  }"


def _sept(
    entries: Sequence[tuple[int, int, int]], differs: Mapping[tuple[int, int], str], bits: int
) -> Iterator[str]:
    shown = {(level, gfn): sept.show(raw) for level, gfn, raw in entries}
    for where in differs:
        shown.setdefault(where, "FREE")
    yield "  subgraph cluster_sept {"
    yield '    label="Secure EPT (TDX Module); other entries are FREE";'
    for (level, gfn), text in shown.items():
        color = f' style=filled fillcolor="{_DIFFERS}"' if (level, gfn) in differs else ""
        label = _quoted(f"level {level} gfn {gfn:x}\n{text}")
        yield f"    {_sept_node(level, gfn)} [label={label}{color}];"
        above = gfn >> bits * level << bits * level  # an entry maps 2**(bits * (level - 1)) pages
        if (level + 1, above) in shown:
            yield f"    {_sept_node(level + 1, above)} -> {_sept_node(level, gfn)};"
    yield "  }"


def order_dot(ce: Counterexample, replay: Replay) -> str:
    """The steps shown and their happens-before order, without what follows from the rest."""
    end = last_step(replay, _broken_at(ce, replay))
    marked = {f.step for f in replay.findings if f.task >= 0}
    calls = {at for at, told in replay.traces.items() if any(map(is_call, told))}
    ranks = rank_steps(
        replay.events,
        pair=replay.pair,
        marked=marked,
        focus=(f.obj for f in replay.findings if f.obj),
        calls=calls,
    )
    shown = shown_steps(ranks[: end + 1], BUDGET)
    lines = [*_HEAD, f"  label={_quoted(title(ce))};"]
    for task, name in enumerate(replay.task_names):
        mine = [at for at in shown if replay.events[at].task == task]
        if not mine:
            continue
        lines += [f"  subgraph cluster_{task} {{", f"    label={_quoted(clean(name))};"]
        lines += [f"    {_step(replay, at, at in marked)}" for at in mine]
        lines += [f"    s{a} -> s{b};" for a, b in pairwise(mine)]
        lines.append("  }")
    for a, b in _order(replay, shown, end + 1):
        lines.append(f'  s{a} -> s{b} [color="#1f5fbf"];')
    if replay.pair is not None:
        a, b = replay.pair
        lines.append(
            f'  s{a} -> s{b} [color="#b3261e" penwidth=2 constraint=false label="racing pair"];'
        )
    return "\n".join([*lines, "}"]) + "\n"


def _step(replay: Replay, at: int, broken: bool) -> str:
    event = replay.events[at]
    text = f"{at}  {function_of(event)}\n{describe(event, replay.traces.get(at, ()))}"
    color = _DIFFERS if broken else _PAIR if at in (replay.pair or ()) else ""
    fill = f' style=filled fillcolor="{color}"' if color else ""
    return f"s{at} [label={_quoted(text)}{fill}];"


def _order(replay: Replay, shown: Sequence[int], end: int) -> Iterator[tuple[int, int]]:
    """Pairs of steps shown, of different tasks, of which the first happens before the second
    and nothing shown lies between."""
    steps = steps_of(replay.events[:end])
    analysis, _ = analyse(steps, len(replay.task_names))
    number = {at: n for n, step in enumerate(steps) for at in range(step.at, step.end)}
    latest: dict[int, int] = {}
    for at in shown:
        task = replay.events[at].task
        before = [
            (other, prior)
            for other, priors in _by_task(replay, shown, at).items()
            if other != task
            and (prior := _last_before(analysis, number, priors, number[at])) is not None
        ]
        own = latest.get(task)
        via = [number[prior] for _, prior in before] + ([number[own]] if own is not None else [])
        for _, prior in before:
            n = number[prior]
            if not any(_happens_before(analysis, n, m) for m in via if m != n):
                yield prior, at
        latest[task] = at


def _by_task(replay: Replay, shown: Sequence[int], end: int) -> dict[int, list[int]]:
    out: dict[int, list[int]] = {}
    for at in shown:
        if at < end:
            out.setdefault(replay.events[at].task, []).append(at)
    return out


def _last_before(
    analysis: Analysis, number: Mapping[int, int], priors: Sequence[int], step: int
) -> int | None:
    return next(
        (p for p in reversed(priors) if _happens_before(analysis, number[p], step)),
        None,
    )


def _happens_before(analysis: Analysis, first: int, second: int) -> bool:
    step = analysis.steps[first]
    return first != second and analysis.clocks[second][step.task] > step.number


def _broken_at(ce: Counterexample, replay: Replay) -> int:
    last = len(replay.events) - 1
    return last if ce.finding.task < 0 else min(ce.finding.step, last)


def _port(gfn: int) -> str:
    return f"g{gfn:x}"


def _sept_node(level: int, gfn: int) -> str:
    return f"sept_{level}_{gfn:x}"


def _quoted(text: Any) -> str:
    r"""A DOT string; a line break becomes ``\n``."""
    safe = str(text).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + safe.replace("\n", "\\n") + '"'
