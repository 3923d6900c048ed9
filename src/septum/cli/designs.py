# SPDX-License-Identifier: GPL-2.0-only
"""``septum designs`` and ``septum designs diff A B``."""

from __future__ import annotations

import click

from septum.designs import design_names, lookup, toggle_names
from septum.report.listing import design_diff, design_list

__all__ = ["command"]


@click.group("designs", invoke_without_command=True)
@click.option("--mutants", is_flag=True, help="List the mutants of the test suite too.")
@click.pass_context
def command(ctx: click.Context, /, mutants: bool) -> None:
    """List the designs, or compare the text of two."""
    if ctx.invoked_subcommand is None:
        kinds = ("toggle", "mutant") if mutants else ("toggle",)
        designs = [lookup(name) for name in design_names()]
        names = [name for kind in kinds for name in toggle_names(kind)]
        toggles = [lookup(f"{designs[0].name}+{name}").toggles[-1] for name in names]
        click.echo(design_list(designs, toggles), nl=False)


@command.command("diff")
@click.argument("old", metavar="A")
@click.argument("new", metavar="B")
def difference(old: str, new: str) -> None:
    """Print the difference between designs A and B, function by function."""
    click.echo(design_diff(lookup(old), lookup(new)), nl=False)
