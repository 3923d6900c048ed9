# SPDX-License-Identifier: GPL-2.0-only
"""Designs side by side: who keeps which rule, and one schedule under two designs.

The second table answers "why does the other one not break?": the failing design's
counterexample is run on a design that holds, every task in the same order as far as it
can go, and both logs are laid side by side.  The margin shows where they part: ``<`` only
in the left column, ``>`` only in the right one, ``|`` different.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import SequenceMatcher

from septum.report.interleaving import describe, function_of
from septum.report.layout import (
    WIDTH,
    Paint,
    clean,
    columns,
    fill,
    number,
    plain,
    shorten,
    steps,
)
from septum.report.verdicts import HYPOTHETICAL, how_earned
from septum.scenarios.result import CheckResult, Replay

__all__ = ["compare_table", "contrasts", "differing", "same_schedule"]

_CONTEXT = 2

_Opcode = tuple[str, int, int, int, int]

_Step = tuple[tuple[str, str], str, str]
"""What is matched (task, step), the rule that breaks there, what is shown."""


def differing(results: Sequence[CheckResult]) -> list[str]:
    """Scenarios in which the designs do not all get the same verdict and finding."""
    seen: dict[str, set[tuple[str, str]]] = {}
    for r in results:
        rule = r.finding.rule if r.finding is not None else ""
        seen.setdefault(r.scenario, set()).add((r.verdict, rule))
    return [scenario for scenario, outcomes in seen.items() if len(outcomes) > 1]


def contrasts(results: Sequence[CheckResult]) -> list[tuple[CheckResult, CheckResult]]:
    """Per scenario, each failing row with a row that does not fail in the same way: one
    that holds if there is one."""
    pairs = []
    for bad in results:
        if bad.counterexample is None:
            continue
        others = [
            r
            for r in results
            if r.scenario == bad.scenario and r.verdict in ("holds", "bounded", "sampled")
        ]
        if others:
            pairs.append((bad, min(others, key=lambda r: r.verdict != "holds")))
    return pairs


def compare_table(
    results: Sequence[CheckResult], *, width: int = WIDTH, paint: Paint = plain
) -> str:
    """One row per scenario, one column per design; differing rows are marked ``*``."""
    designs = list(dict.fromkeys(r.design for r in results))
    scenarios = list(dict.fromkeys(r.scenario for r in results))
    cells = {(r.design, r.scenario): _cell(r) for r in results}
    odd = set(differing(results))
    label = min(max([len(clean(s)) for s in scenarios] + [8]), 26)
    letters = [_letter(i) for i in range(len(designs))]
    most = max([len(text) for text in cells.values()] + [8])
    per_block = max((width - 4 - label) // (min(most, 20) + 2), 1)
    room = (width - 4 - label) // per_block - 2
    lines = [
        f"  {letter}  {shorten(clean(d), width - 8)}"
        for letter, d in zip(letters, designs, strict=True)
    ]
    for start in range(0, len(designs), per_block):
        block = designs[start : start + per_block]
        rows = [["", "scenario", *letters[start : start + per_block]]]
        for scenario in scenarios:
            texts = [_fitting(cells.get((d, scenario), "-"), room) for d in block]
            mark = "*" if scenario in odd else ""
            rows.append([mark, shorten(clean(scenario), label), *texts])
        lines += ["", *columns(rows, widths=(1, label), paint=_painter(paint))]
    lines += [""]
    if odd:
        lines += fill(f"* {number(len(odd), 'row')} in which the designs differ", width)
    else:
        lines += fill("The designs do not differ in any row.", width)
    lines += _earned(results, letters, designs, width, room)
    return "\n".join(lines) + "\n"


def same_schedule(
    failing: tuple[str, Replay],
    passing: tuple[str, Replay],
    *,
    rule: str,
    upto: int | None = None,
    scenario: str = "",
    width: int = WIDTH,
    paint: Paint = plain,
) -> str:
    """The failing design's schedule, and what it becomes under the passing design.

    :param upto: the step at which the rule breaks; what comes after it is only counted.
    """
    left_name, left = failing
    right_name, right = passing
    half = (width - 5) // 2
    one, other = _cells(left), _cells(right)
    end = len(one) if upto is None else min(upto + 1, len(one))
    lines = fill(
        f"The same schedule{' of ' + clean(scenario) if scenario else ''}: "
        f"{clean(left_name)} breaks {clean(rule)}, {clean(right_name)} "
        f"{_outcome(right, rule)}",
        width,
    )
    lines += [
        "",
        f"{shorten(clean(left_name), half):<{half}}     {shorten(clean(right_name), half)}",
    ]
    lines.append(f"{'-' * half}     {'-' * half}")
    matcher = SequenceMatcher(
        a=[key for key, *_ in one], b=[key for key, *_ in other], autojunk=False
    )
    at = (0, 0)
    for tag, i1, i2, j1, j2 in _broken(_until(matcher.get_opcodes(), end), one, other):
        at = (i2, j2)
        if tag == "equal":
            lines += _alike(one[i1:i2], other[j1:j2], i1 == 0, i2 == len(one), half)
        else:
            lines += _apart(one[i1:i2], other[j1:j2], half, paint)
    if at != (len(one), len(other)):
        lines += _pair(_more(len(one) - at[0]), _more(len(other) - at[1]), " ", half)
    lines += ["", "< only left, > only right, | different; (n steps) are alike in both"]
    for name, replay in (failing, passing):
        rules = ", ".join(dict.fromkeys(clean(f.rule) for f in replay.findings)) or "no finding"
        lines += fill(f"{clean(name)}: {rules}", width, rest="  ")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _until(opcodes: Sequence[_Opcode], end: int) -> Iterator[_Opcode]:
    """The blocks up to ``end`` on the left; the last one cut to the same length."""
    for tag, i1, i2, j1, j2 in opcodes:
        if i1 >= end:
            return
        if i2 > end:
            yield tag, i1, end, j1, min(j2, j1 + end - i1)
            return
        yield tag, i1, i2, j1, j2


def _broken(
    blocks: Iterable[_Opcode], one: Sequence[_Step], other: Sequence[_Step]
) -> Iterator[_Opcode]:
    """The blocks; a step that breaks a rule on one side only is no equal one."""
    for tag, i1, i2, j1, j2 in blocks:
        if tag == "equal":
            for i in range(i1, i2):
                j = j1 + i - i1
                if one[i][1] != other[j][1]:
                    if i > i1:
                        yield tag, i1, i, j1, j
                    yield "replace", i, i + 1, j, j + 1
                    i1, j1 = i + 1, j + 1
        if (i1, j1) != (i2, j2):
            yield tag, i1, i2, j1, j2


def _more(n: int) -> str:
    return f"({number(n, 'more step')})" if n else ""


def _outcome(replay: Replay, rule: str) -> str:
    if any(f.rule == rule for f in replay.findings):
        return "breaks it too"
    return "keeps it" if not replay.findings else "keeps it, but breaks another rule"


def _cells(replay: Replay) -> list[_Step]:
    """The steps.  Values are shown and compared: a step that reads something else is a
    different step."""
    broken = {f.step: f.rule for f in replay.findings if f.task >= 0}
    cells = []
    for at, event in enumerate(replay.events):
        name = clean(replay.task_names[event.task])
        text = clean(describe(event, replay.traces.get(at, ())))
        rule = clean(broken.get(at, ""))
        key = (name, text)
        if rule:
            text = f"! {text}: {rule}"
        function = function_of(event)
        where = f" [{function}()]" if function else ""
        cells.append((key, rule, f"{name}: {text}{where}"))
    return cells


def _alike(
    one: Sequence[_Step], other: Sequence[_Step], first: bool, last: bool, half: int
) -> list[str]:
    """Equal steps: a little context next to the differences, the rest folded.  Each side
    names its own function."""
    head = 0 if first else _CONTEXT
    tail = 0 if last else _CONTEXT
    rows = [(left, right) for (*_, left), (*_, right) in zip(one, other, strict=True)]
    if len(rows) > head + tail + 1:
        fold = steps(len(rows) - head - tail)
        rows = [*rows[:head], (fold, fold), *(rows[len(rows) - tail :] if tail else ())]
    return [line for left, right in rows for line in _pair(left, right, " ", half)]


def _apart(
    one: Sequence[_Step],
    other: Sequence[_Step],
    half: int,
    paint: Paint,
) -> list[str]:
    lines: list[str] = []
    for i in range(max(len(one), len(other))):
        left = one[i][-1] if i < len(one) else ""
        right = other[i][-1] if i < len(other) else ""
        mark = "|" if left and right else "<" if left else ">"
        lines += [paint("differs", line) for line in _pair(left, right, mark, half)]
    return lines


def _pair(left: str, right: str, mark: str, half: int) -> list[str]:
    """Two wrapped cells beside each other, the mark between their first lines."""
    lefts = fill(left, half, rest="  ") if left else [""]
    rights = fill(right, half, rest="  ") if right else [""]
    lines = []
    for i in range(max(len(lefts), len(rights))):
        a = lefts[i] if i < len(lefts) else ""
        b = rights[i] if i < len(rights) else ""
        lines.append(f"{a:<{half}}  {mark if i == 0 else ' '}  {b}".rstrip())
    return lines


def _letter(i: int) -> str:
    return chr(ord("A") + i) if i < 26 else f"D{i}"


def _cell(result: CheckResult) -> str:
    rule = f" {clean(result.finding.rule)}" if result.finding is not None else ""
    return result.verdict + rule


def _fitting(cell: str, room: int) -> str:
    """A cell; a rule that does not fit is left to the lines below the table."""
    return cell if len(cell) <= room else cell.split(" ", 1)[0]


def _painter(paint: Paint) -> Callable[[int, str], str]:
    def cell(i: int, text: str) -> str:
        return paint(text.split(" ", 1)[0], text) if i >= 2 else text

    return cell


def _earned(
    results: Sequence[CheckResult],
    letters: Sequence[str],
    designs: Sequence[str],
    width: int,
    room: int,
) -> list[str]:
    """How each verdict was earned: a comparison is no better than its weaker side."""
    lines = ["", "How the verdicts were earned:"]
    letter = dict(zip(designs, letters, strict=True))
    for r in results:
        text = f"{clean(r.scenario)} {letter[r.design]}: {how_earned(r)}"
        if r.finding is not None and len(_cell(r)) > room:
            text += f"; finding {clean(r.finding.rule)}"
        if r.note:
            text += f" ({clean(r.note)})"
        if r.hypothetical:
            text += f"; {HYPOTHETICAL}"
        lines += fill(text, width, first="  ", rest="      ")
    return lines
