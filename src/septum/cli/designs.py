# SPDX-License-Identifier: GPL-2.0-only
"""``septum designs`` and ``septum designs diff A B``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import click

from septum.cli.names import complete_design
from septum.designs import Design, DesignError, Toggle, design_names, lookup, toggle_names
from septum.report.listing import design_diff, design_list

__all__ = ["command"]


@click.group(
    "designs",
    short_help="List designs and toggles; compare two (diff A B).",
    invoke_without_command=True,
    subcommand_metavar="[diff A B]",
)
@click.option("--mutants", is_flag=True, help="List the mutants of the test suite too.")
@click.pass_context
def command(ctx: click.Context, /, mutants: bool) -> None:
    """List the designs and toggles (without diff), or compare the text of two designs."""
    if ctx.invoked_subcommand is None:
        kinds = ("toggle", "mutant") if mutants else ("toggle",)
        designs = [lookup(name) for name in design_names()]
        names = [name for kind in kinds for name in toggle_names(kind)]
        click.echo(design_list(designs, [_toggle(name, designs) for name in names]), nl=False)


def _toggle(name: str, designs: Sequence[Design]) -> tuple[Toggle, list[str]]:
    """A toggle and the designs to which it applies."""
    found: list[Design] = []
    for base in [*designs, lookup("v7.3+hugepage"), lookup("v7.3+hugepage+shared-param")]:
        with suppress(DesignError):
            found.append(lookup(f"{base.name}+{name}"))
    bases = [design.predecessor.name for design in found if design.predecessor is not None]
    return found[0].toggles[-1], bases


@command.command("diff")
@click.argument("old", metavar="A", shell_complete=complete_design)
@click.argument("new", metavar="B", shell_complete=complete_design)
def difference(old: str, new: str) -> None:
    """Print the difference between designs A and B, function by function."""
    click.echo(design_diff(lookup(old), lookup(new)), nl=False)
