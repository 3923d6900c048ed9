# SPDX-License-Identifier: GPL-2.0-only
"""Counterexamples of finished rows, replayed for printing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from septum.cli.terminal import painter
from septum.kvm.monitors import MONITORS
from septum.report.counterexample import counterexample_text
from septum.scenarios.counterexample import replay
from septum.scenarios.result import CheckResult
from septum.scenarios.suite import SCENARIOS

__all__ = ["print_counterexamples"]


def print_counterexamples(
    results: Sequence[CheckResult], files: Mapping[tuple[str, str], str]
) -> None:
    """The mail-ready text of every counterexample, each followed by a separator."""
    for r in results:
        ce = r.counterexample
        if ce is None:
            continue
        text = counterexample_text(
            ce,
            replay(ce),
            story=SCENARIOS.get(ce.scenario),
            rule=MONITORS.get(ce.finding.rule),
            path=files.get((r.design, r.scenario), ""),
            paint=painter(),
        )
        click.echo(f"{text}\n{'=' * 78}\n")
