# SPDX-License-Identifier: GPL-2.0-only
"""``septum show FILE``: run a counterexample again and print it."""

from __future__ import annotations

from pathlib import Path

import click

from septum.cli.options import INPUT
from septum.cli.terminal import painter, width
from septum.kvm.monitors import MONITORS
from septum.report.counterexample import counterexample_text, reproduced
from septum.report.fold import BUDGET
from septum.scenarios.counterexample import Diverged, load, replay
from septum.scenarios.suite import SCENARIOS

__all__ = ["command"]


@click.command("show")
@click.argument("file", type=INPUT)
@click.option("--all", "everything", is_flag=True, help="Show every step.")
@click.option("--states", is_flag=True, help="Show what each step changed in the tables.")
@click.option("--wide", is_flag=True, help="Use the terminal's width; name source lines.")
@click.pass_context
def command(ctx: click.Context, /, file: Path, everything: bool, states: bool, wide: bool) -> None:
    """Run the counterexample in FILE again and print it.

    Exit status 0 if it still breaks its rule, 3 if the program no longer follows it.
    """
    ce = load(file)
    try:
        again = replay(ce, states=states)
    except Diverged as error:
        click.echo(f"septum: {file}: stale: {error}", err=True)
        ctx.exit(3)
    click.echo(
        counterexample_text(
            ce,
            again,
            story=SCENARIOS.get(ce.scenario),
            rule=MONITORS.get(ce.finding.rule),
            path=str(file),
            width=width(wide),
            budget=-1 if everything else BUDGET,
            states=states,
            sources=wide,
            paint=painter(),
        ),
        nl=False,
    )
    ctx.exit(0 if reproduced(ce, again) else 3)
