# SPDX-License-Identifier: GPL-2.0-only
"""``septum check``: explore designs in scenarios and judge every step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from septum.cli.names import complete_design, design_option, scenario_option
from septum.cli.options import (
    INPUT,
    explorer,
    format_option,
    html_option,
    search_options,
    words_of,
    write_html,
)
from septum.cli.printing import html_page, print_counterexamples
from septum.cli.running import Outcome, Places, default_directory, go_on, run, save_all, select_rows
from septum.cli.terminal import painter, width
from septum.report.documents import check_document, dump
from septum.report.junit import junit
from septum.report.ktap import ktap
from septum.report.verdicts import difference_lines, exit_code, summary_line, verdict_table
from septum.scenarios import expect
from septum.scenarios.counterexample import load
from septum.scenarios.near import search_near

__all__ = ["command"]

_TEST_REPORTS = {"ktap": ktap, "junit": junit}


@click.command("check")
@click.argument("positional", metavar="[DESIGN|FILE]...", nargs=-1, shell_complete=complete_design)
@design_option
@scenario_option
@click.option("--expect", "expected", type=INPUT, help="Compare with reviewed verdicts.")
@click.option("--from", "near", type=INPUT, help="Search near the counterexample in this file.")
@click.option(
    "--save",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write counterexamples to DIR (default: the user's cache; with --expect, nowhere).",
)
@click.option(
    "--tables/--no-tables",
    default=None,
    help="Print each counterexample's interleaving (default: unless --expect is given).",
)
@click.option(
    "--campaign",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Keep all work in DIR: after an interruption, the same command goes on.",
)
@click.option("--wide", is_flag=True, help="Every count, not bound to 78 columns.")
@html_option
@format_option("ktap", "junit")
@search_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    positional: tuple[str, ...],
    designs: tuple[str, ...],
    scenarios: tuple[str, ...],
    expected: Path | None,
    near: Path | None,
    save: Path | None,
    tables: bool | None,
    campaign: Path | None,
    wide: bool,
    html: Path | None,
    form: str,
    jobs: int,
    cluster: str | None,
    force: bool,
    params: tuple[tuple[str, int | str], ...],
    **search: Any,
) -> None:
    """Explore every interleaving of scenarios under designs, and judge every step.

    A DESIGN is a name (septum designs), a name with toggles (v7.3+shared-param), or the
    FILE of your own.  Without any, the default suite is checked.

    Exit status 0: everything holds (or, with --expect, is as reviewed); 1: a rule broke;
    3: inconclusive; 2: wrong usage; 130: interrupted.
    """
    options = explorer(**search)
    reviewed = None if expected is None else expect.load(expected)
    places = Places(jobs, cluster, campaign, words_of(ctx))
    if near is not None:
        if positional or designs or scenarios or expected or campaign:
            raise click.UsageError("--from names design and scenario itself: give nothing else")
        if options.strategy == "bounded":
            raise click.UsageError("--from knows no bound on preemptions: give another strategy")
        row = search_near(load(near), options)
        outcome = Outcome([row], row.seconds, [])
    else:
        rows = select_rows([*positional, *designs], scenarios)
        outcome = run(rows, places=places, options=options, params=dict(params), force=force)
    results = outcome.results
    files = {}
    if save is not None or expected is None:
        files = save_all(results, save or default_directory())
    differences: list[str] | None = None
    if reviewed is not None:
        if positional or designs or scenarios or outcome.interrupted:
            wanted = {(r.design, r.scenario) for r in results}
            reviewed = {key: row for key, row in reviewed.items() if key in wanted}
        differences = expect.compare(results, reviewed)
    if form == "json":
        click.echo(
            dump(
                check_document(
                    results,
                    seconds=outcome.seconds,
                    files=files,
                    differences=differences,
                    interrupted=outcome.interrupted,
                )
            ),
            nl=False,
        )
    elif form in _TEST_REPORTS:
        click.echo(_TEST_REPORTS[form](results, files), nl=False)
    else:
        if tables or (tables is None and expected is None):
            print_counterexamples(results, files)
        click.echo(
            verdict_table(results, files=files, width=width(wide), wide=wide, paint=painter()),
            nl=False,
        )
        click.echo(summary_line(results, outcome.seconds))
        if differences is not None:
            click.echo("\n".join(difference_lines(differences, str(expected))))
    if html is not None:  # last: what cannot be written must not cost the verdicts
        write_html(html, html_page(results, files, outcome.seconds))
    _end(ctx, outcome, places, differences)


def _end(
    ctx: click.Context, outcome: Outcome, places: Places, differences: Sequence[str] | None
) -> None:
    if outcome.interrupted:
        click.echo("\n".join(go_on(outcome, places)), err=True)
        ctx.exit(130)
    if differences is not None:
        ctx.exit(1 if differences else 0)
    ctx.exit(exit_code(outcome.results))
