# SPDX-License-Identifier: GPL-2.0-only
"""``septum coverage``: what the default suite never reaches, and why."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

import click

from septum.cli.names import design_option, scenario_option
from septum.cli.options import INPUT, format_option
from septum.cli.running import select_rows
from septum.report.coverage import coverage_document, coverage_text
from septum.report.documents import dump
from septum.scenarios.coverage import measure
from septum.scenarios.coverage_review import load, review
from septum.scenarios.result import CheckResult

__all__ = ["command"]


@click.command("coverage", short_help="List what the default suite never reaches, and why.")
@click.argument("positional", metavar="[DESIGN|FILE]...", nargs=-1)
@design_option
@scenario_option
@click.option(
    "--reasons",
    type=INPUT,
    metavar="FILE",
    help="Reviewed reasons (docs/coverage.toml in the source tree).",
)
@click.option(
    "--max-executions",
    type=click.IntRange(min=-1),
    default=500,
    show_default=True,
    metavar="N",
    help="Stop a row after that many (0: the scenario's own bound, if any; -1: never).",
)
@click.option("--explained", is_flag=True, help="List what has a reason too.")
@click.option(
    "--jobs", "-j", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
    help="Worker processes.",
)  # fmt: skip
@format_option()
@click.pass_context
def command(
    ctx: click.Context,
    /,
    positional: tuple[str, ...],
    designs: tuple[str, ...],
    scenarios: tuple[str, ...],
    reasons: Path | None,
    max_executions: int,
    explained: bool,
    jobs: int,
    form: str,
) -> None:
    """List what rows of the suite never reach of kvm/, designs/ and SEAMCALL statuses.

    Each such branch or status is a missing scenario, or has a reason in the reviewed file.
    Without designs and scenarios the default suite runs.  Needs septum[coverage].

    Exit status 0: everything unreached has a reason, and no reason is stale; 3: not so.
    """
    known = load(reasons) if reasons is not None else []
    rows = select_rows([*positional, *designs], scenarios)
    begun = perf_counter()
    done = 0

    def progress(result: CheckResult) -> None:
        nonlocal done
        done += 1
        click.echo(f"[{done}/{len(rows)}] {result.design} / {result.scenario}", err=True)

    measured = measure(rows, max_executions=max_executions, jobs=jobs, progress=progress)
    reviewed = review(measured.items, known)
    seconds = perf_counter() - begun
    if form == "json":
        click.echo(dump(coverage_document(measured, reviewed, seconds)), nl=False)
    else:
        file = str(reasons) if reasons is not None else "no file (--reasons names one)"
        text = coverage_text(measured, reviewed, seconds, file=file, explained=explained)
        click.echo(text, nl=False)
    ctx.exit(reviewed.status)
