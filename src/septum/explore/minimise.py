# SPDX-License-Identifier: GPL-2.0-only
"""Smaller schedules for a finding, and the race that decides it.

A schedule is better with fewer context switches, then shorter, then lexicographically
smaller (`result.schedule_key`), counted up to the finding.  First blocks of steps are moved
as long as that helps; then everything that could be better is tried (`fewest`), as far as
``tries`` go.  Every candidate is executed; nothing is reported that was not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from septum.explore.distinct import kind_of
from septum.explore.fewest import fewest
from septum.explore.program import Program
from septum.explore.races import analyse
from septum.explore.result import Found, schedule_key
from septum.explore.steps import steps_of
from septum.machine import Decision, Execution, Finding, Limits, Policy
from septum.machine.events import CONTINUE

__all__ = ["deciding_race", "minimise"]


def _script(tasks: Sequence[int], choices: Sequence[Sequence[int]]) -> Policy:
    return Policy("script", script=tuple(tasks), choices=tuple(tuple(c) for c in choices))


def _choices(decisions: Sequence[Decision], execution: Execution, tasks: int) -> list[list[int]]:
    out: list[list[int]] = [[] for _ in range(tasks)]
    for event in execution.events[: len(decisions)]:
        if event.op == "choose":
            out[event.task].append(event.choice)
    return out


def _find(execution: Execution, wanted: Finding, kind: str = "") -> Finding | None:
    for finding in execution.findings:
        if finding.rule == wanted.rule and (not kind or kind_of(finding, execution.events) == kind):
            return finding
    return None


def minimise(
    program: Program,
    tasks: int,
    found: Found,
    limits: Limits,
    *,
    tries: int = 3000,
) -> Found:
    """The best schedule for the same rule, and kind if one is given (`Found.minimal`), or, if
    that takes more than ``tries`` executions, one that no single move of a block of steps
    improves.

    :param tries: executions at most, of each of the two parts.
    """
    wanted = found.finding
    first = program.run(found.decisions, (), CONTINUE, limits)
    finding = _find(first, wanted, found.kind)
    if finding is None:
        raise RuntimeError(f"{wanted.rule} does not show when its own schedule is run again")
    near = replace(found, finding=finding, decisions=first.decisions)
    near = _near(program, tasks, near, limits, tries)
    cut = near.decisions[: near.finding.step + 1]
    if not cut:  # before the first step
        near.minimal = True
        return near
    best, all_tried = fewest(
        program,
        tasks,
        lambda execution: _find(execution, wanted, found.kind),
        schedule_key(cut)[:2],
        limits,
        tries,
    )
    if best is None or (
        not all_tried and schedule_key(best[1][: best[0].step + 1]) > schedule_key(cut)
    ):
        return near
    return Found(*best, found.times, minimal=all_tried, kind=found.kind)


def _near(program: Program, tasks: int, found: Found, limits: Limits, tries: int) -> Found:
    """A schedule that no single move of a block of steps improves."""
    best = found
    first = program.run(found.decisions, (), CONTINUE, limits)
    choices = _choices(first.decisions, first, tasks)
    left = tries

    def attempt(order: Sequence[int], taken: Sequence[Sequence[int]]) -> bool:
        nonlocal best, left, choices
        left -= 1
        execution = program.run((), (), _script(order, taken), limits)
        seen = _find(execution, found.finding, found.kind)
        if seen is None:
            return False
        decisions = execution.decisions
        if schedule_key(decisions[: seen.step + 1]) >= schedule_key(
            best.decisions[: best.finding.step + 1]
        ):
            return False
        best = replace(found, finding=seen, decisions=decisions)
        choices = _choices(decisions, execution, tasks)
        return True

    improved = True
    while improved and left > 0:
        improved = False
        for order, taken in _candidates(best, choices, tasks):
            if left <= 0:
                break
            if attempt(order, taken):
                improved = True
                break
    return best


def _candidates(
    best: Found, choices: list[list[int]], tasks: int
) -> list[tuple[list[int], list[list[int]]]]:
    """Schedules one move away: a later block of a task joined to an earlier one, the tail
    left to run on its own, one task first, one choice set back to its first option."""
    decisions = best.decisions[: best.finding.step + 1]
    blocks = [(t, len(list(g))) for t, g in groupby(d.task for d in decisions)]
    out: list[tuple[list[int], list[list[int]]]] = []

    def flat(parts: Sequence[tuple[int, int]]) -> list[int]:
        return [t for t, n in parts for _ in range(n)]

    for start in range(tasks):
        out.append((flat([(start, len(decisions))]), choices))
    for i, (task, _) in enumerate(blocks):
        for k in range(i + 2, len(blocks)):
            if blocks[k][0] == task:
                # Block k moves up behind block i, or block i down before block k.
                out.append(
                    (
                        flat([*blocks[: i + 1], blocks[k], *blocks[i + 1 : k], *blocks[k + 1 :]]),
                        choices,
                    )
                )
                out.append(
                    (flat([*blocks[:i], *blocks[i + 1 : k], blocks[i], *blocks[k:]]), choices)
                )
                break
    for i in range(1, len(blocks)):
        out.append((flat(blocks[:i]), choices))
    for task, taken in enumerate(choices):
        for n, option in enumerate(taken):
            if option:
                changed = [list(c) for c in choices]
                changed[task][n] = 0
                out.append((flat(blocks), changed))
    return out


def deciding_race(
    program: Program, tasks: int, found: Found, limits: Limits
) -> tuple[int, int] | None:
    """Log positions of the latest race whose other order does not break the rule."""
    execution = program.run(found.decisions, (), CONTINUE, limits)
    steps = steps_of(execution.events)
    analysis, all_races = analyse(steps, tasks)
    last = found.finding.step
    choices = _choices(execution.decisions, execution, tasks)
    races = [(out[0], i) for out, i in all_races if steps[i].at <= last]
    for j, i in sorted(races, key=lambda r: (-r[1], -r[0])):
        mine = steps[j]
        order = [s.task for s in steps[:j]]
        order += [
            steps[k].task for k in range(j + 1, i) if analysis.clocks[k][mine.task] <= mine.number
        ]
        order += [steps[i].task, mine.task]
        other = program.run((), (), _script(order, choices), limits)
        if other.status != "diverged" and _find(other, found.finding) is None:
            return (steps[j].at, steps[i].at)
    return None
