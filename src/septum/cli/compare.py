# SPDX-License-Identifier: GPL-2.0-only
"""``septum compare D1 D2 ...``: designs side by side."""

from __future__ import annotations

from typing import Any

import click

from septum.cli.names import complete_design, scenario_option
from septum.cli.options import explorer, format_option, search_options
from septum.cli.running import (
    Places,
    default_directory,
    go_on,
    others_of,
    run,
    save_all,
    select_rows,
)
from septum.cli.terminal import painter, width
from septum.report.compare import compare_table, contrasts, same_schedule
from septum.report.documents import compare_document, dump
from septum.report.verdicts import exit_code, summary_line
from septum.scenarios.counterexample import replay
from septum.scenarios.follow import follow

__all__ = ["command"]


@click.command("compare")
@click.argument(
    "designs", metavar="DESIGN|FILE...", nargs=-1, required=True, shell_complete=complete_design
)
@scenario_option
@click.option("--wide", is_flag=True, help="Use the terminal's width.")
@format_option()
@search_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    designs: tuple[str, ...],
    scenarios: tuple[str, ...],
    wide: bool,
    form: str,
    jobs: int,
    cluster: str | None,
    force: bool,
    params: tuple[tuple[str, int | str], ...],
    **search: Any,
) -> None:
    """Check several designs and show where they differ.

    For a scenario in which one design breaks a rule and another one holds, the failing
    schedule is shown beside what becomes of it under the other design.
    """
    if len(set(designs)) < 2:
        raise click.UsageError("name at least two designs; septum designs lists them")
    rows = select_rows(designs, scenarios)
    options = explorer(**search)
    outcome = run(
        rows, places=Places(jobs, cluster), options=options, params=dict(params), force=force
    )
    results = outcome.results
    files = save_all(results, default_directory())
    if form == "json":
        doc = compare_document(
            results,
            seconds=outcome.seconds,
            files=files,
            others=others_of(results, files),
            interrupted=outcome.interrupted,
        )
        click.echo(dump(doc), nl=False)
    else:
        columns = width(wide)
        for bad, good in contrasts(results):
            ce = bad.counterexample
            assert ce is not None
            text = same_schedule(
                (bad.design, replay(ce)),
                (good.design, follow(ce, good.design)),
                rule=ce.finding.rule,
                upto=ce.finding.step,
                scenario=bad.scenario,
                width=columns,
                paint=painter(),
            )
            click.echo(f"{text}\n{'=' * columns}\n")
        click.echo(compare_table(results, width=columns, paint=painter()), nl=False)
        click.echo(summary_line(results, outcome.seconds))
    if outcome.interrupted:
        click.echo("\n".join(go_on(outcome)), err=True)
        ctx.exit(130)
    ctx.exit(exit_code(results))
