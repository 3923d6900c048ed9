# SPDX-License-Identifier: GPL-2.0-only
"""Counterexamples, replayed for printing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from septum.cli.terminal import painter
from septum.designs import lookup
from septum.kvm.monitors import MONITORS
from septum.report.counterexample import counterexample_text
from septum.report.fold import BUDGET
from septum.report.layout import WIDTH
from septum.report.listing import first_sentence
from septum.scenarios.counterexample import replay
from septum.scenarios.result import CheckResult, Counterexample, Replay
from septum.scenarios.suite import SCENARIOS

__all__ = ["mail_text", "print_counterexamples", "replay_with_states"]


def replay_with_states(ce: Counterexample) -> Replay:
    """A replay and both trees after each step.  Looking at the trees widens footprints,
    so it is done in a replay of its own."""
    again = replay(ce)
    again.states = replay(ce, states=True).states
    return again


def mail_text(
    ce: Counterexample,
    again: Replay,
    *,
    path: str,
    width: int = WIDTH,
    everything: bool = False,
    states: bool = False,
    sources: bool = False,
) -> str:
    """The counterexample with what this version knows of its scenario and rule."""
    return counterexample_text(
        ce,
        again,
        story=SCENARIOS.get(ce.scenario),
        rule=MONITORS.get(ce.finding.rule),
        doc=first_sentence(lookup(ce.design).doc),
        path=path,
        width=width,
        budget=-1 if everything else BUDGET,
        states=states,
        sources=sources,
        paint=painter(),
    )


def print_counterexamples(
    results: Sequence[CheckResult], files: Mapping[tuple[str, str], str]
) -> None:
    """The mail-ready text of every counterexample, each followed by a separator."""
    for r in results:
        if r.counterexample is not None:
            path = files.get((r.design, r.scenario), "")
            text = mail_text(r.counterexample, replay_with_states(r.counterexample), path=path)
            click.echo(f"{text}\n{'=' * WIDTH}\n")
