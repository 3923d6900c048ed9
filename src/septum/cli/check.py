# SPDX-License-Identifier: GPL-2.0-only
"""``septum check``: explore designs in scenarios and judge every step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from septum.cli.names import complete_design, design_option, scenario_option
from septum.cli.options import INPUT, campaign_option, explorer, search_options, words_of
from septum.cli.output import Output, output_options
from septum.cli.running import Outcome, Places, go_on, run, select_rows
from septum.scenarios.counterexample import load
from septum.scenarios.near import search_near
from septum.scenarios.result import Counterexample

__all__ = ["command"]


@click.command("check", short_help="Explore designs in scenarios and judge every step.")
@click.argument("positional", metavar="[DESIGN|FILE]...", nargs=-1, shell_complete=complete_design)
@design_option
@scenario_option
@click.option("--from", "near", type=INPUT, help="Search near the counterexample in this file.")
@output_options
@campaign_option
@search_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    positional: tuple[str, ...],
    designs: tuple[str, ...],
    scenarios: tuple[str, ...],
    near: Path | None,
    campaign: Path | None,
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
    output = Output.taken_from(search)
    options = explorer(**search)
    rest = words_of(ctx, without=("positional", "designs", "scenarios"))[1:]
    places = Places(jobs, cluster, campaign, words_of(ctx), rest)
    if near is not None:
        if positional or designs or scenarios or output.expected or campaign:
            raise click.UsageError("--from names design and scenario itself: give nothing else")
        if options.strategy == "bounded":
            raise click.UsageError("--from knows no bound on preemptions: give another strategy")
        row = search_near(_of_design(near), options)
        outcome = Outcome([row], row.seconds, [])
    else:
        rows = select_rows([*positional, *designs], scenarios)
        outcome = run(rows, places=places, options=options, params=dict(params), force=force)
    named = bool(positional or designs or scenarios)
    ctx.exit(output.tell(outcome, named=named, after=lambda: go_on(outcome, places)))


def _of_design(path: Path) -> Counterexample:
    """
    :raises UsageError: it was found in compiled code.
    """
    ce = load(path)
    if ce.kernel:
        raise click.UsageError(
            f"{path}: found in a kernel's own code: septum kernel check --linux TREE --from {path}"
        )
    return ce
