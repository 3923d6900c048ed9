# SPDX-License-Identifier: GPL-2.0-only
"""Searching near a counterexample that the program no longer follows.

The recorded schedule is followed as far as it goes (`septum.scenarios.follow`); then its
beginning is kept, and what can come after it is explored: first after nearly all of it,
then after less and less.  A finding is a real one, as every execution is; none says
little, so the verdict is at best ``bounded``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter

from septum.explore import MachineProgram, Options, SearchResult, search
from septum.explore.minimise import minimise
from septum.explore.result import Found
from septum.machine import Decision, Event, Execution, Limits, Policy
from septum.machine.dependency import Footprint, Sleep
from septum.machine.events import CONTINUE, DEFAULT_LIMITS, step_start
from septum.scenarios.check import primary
from septum.scenarios.counterexample import rebuild, record, script_of
from septum.scenarios.result import CheckResult, Counterexample
from septum.scenarios.subject import Recordable

__all__ = ["EXECUTIONS", "search_near", "search_near_on"]

EXECUTIONS = 2000
"""Executions after each beginning, unless ``--max-executions`` says otherwise."""

_KEPT = (1.0, 0.75, 0.5, 0.25)


class _After(MachineProgram):
    """A program whose first decisions are made: explorers see what comes after them."""

    def __init__(self, whole: MachineProgram, kept: Sequence[Decision]) -> None:
        super().__init__(whole.machine, whole.bodies, whole.settle)
        self.whole = whole
        self.kept = list(kept)

    def run(
        self,
        prefix: Sequence[Decision] = (),
        sleep: Sleep = (),
        policy: Policy = CONTINUE,
        limits: Limits = DEFAULT_LIMITS,
        *,
        fingerprint: bool = False,
        covered: Sequence[Footprint] = (),
        survivors: bool = False,
    ) -> Execution:
        self.machine.forget()  # its events are changed below
        whole = self.whole.run(
            [*self.kept, *prefix],
            sleep,
            policy,
            limits,
            fingerprint=fingerprint,
            covered=covered,
            survivors=survivors,
        )
        cut = len(self.kept)
        whole.events = whole.events[cut:]
        for event in (*whole.events, *whole.pending):
            _shift(event, cut)
        whole.findings = [replace(f, step=f.step - cut) for f in whole.findings]
        whole.halts = [at - cut for at in whole.halts]
        return whole


def _shift(event: Event, cut: int) -> None:
    """Log positions count from the end of what was kept."""
    event.off = max(event.off - cut, -1)
    if event.could is not None:
        event.could = tuple(tuple(at - cut for at in s) for s in event.could if min(s) >= cut)
    if event.since is not None:
        event.since = {obj: max(at - cut, -1) for obj, at in event.since.items()}


def search_near(ce: Counterexample, options: Options) -> CheckResult:
    """A row for the design and scenario of ``ce``, searched near its schedule."""
    return search_near_on(rebuild(ce), ce, options)


def search_near_on(built: Recordable, ce: Counterexample, options: Options) -> CheckResult:
    """The same on a program that stands."""
    options = replace(options, retries=options.retries or ce.retries)
    begun = perf_counter()
    followed = built.program.run((), (), script_of(ce))
    total = SearchResult(options.strategy)
    total.take(followed)
    bound = "only a recorded schedule was followed, as far as it goes"
    if not total.found:
        bounded = replace(options, max_executions=options.max_executions or EXECUTIONS)
        for part in _KEPT:
            kept = _boundary(
                followed.events, int(part * min(len(ce.decisions), len(followed.events)))
            )
            bound = _bound(kept)
            _search_after(built, followed.decisions[:kept], bounded, total)
            if total.found:
                break
    row = CheckResult(
        ce.design,
        ce.scenario,
        built.params,
        "bounded",
        strategy=options.strategy,
        memory_model=built.machine.memory_model,
        executions=total.executions,
        traces=total.traces,
        blocked=total.blocked,
        retries_folded=total.folded,
        bounds_hit=[bound],
        reached=sorted(total.reached),
        steps=total.steps,
        hypothetical=built.hypothetical,
    )
    found = primary(total)
    if found is not None:
        small = minimise(built.program, built.program.actors, found, Limits(options.steps))
        row.verdict = "violated"
        row.finding = small.finding
        row.counterexample = replace(record(built, small), design=ce.design)
        row.other_findings = sorted(rule for rule in total.found if rule != small.finding.rule)
    row.seconds = perf_counter() - begun
    return row


def _bound(kept: int) -> str:
    if kept == 0:
        return "only near a recorded schedule, at last from its start"
    return f"only near a recorded schedule, with at least {kept} of its steps kept"


def _boundary(events: Sequence[Event], at: int) -> int:
    """The last position up to ``at`` that does not part a step from its choices."""
    return max(step_start(events, min(at, len(events) - 1)), 0)


def _search_after(
    built: Recordable, kept: Sequence[Decision], options: Options, total: SearchResult
) -> None:
    """Explore what can follow ``kept``, and add it to ``total``."""
    result = search(_After(built.program, kept), options)
    total.executions += result.executions
    total.blocked += result.blocked
    total.matched += result.matched
    total.steps += result.steps
    total.reached |= result.reached
    total.folded = total.folded or result.folded
    for rule, found in result.found.items():
        finding = replace(found.finding, step=found.finding.step + len(kept))
        total.found.setdefault(rule, Found(finding, [*kept, *found.decisions], found.times))
