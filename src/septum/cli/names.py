# SPDX-License-Identifier: GPL-2.0-only
"""Names that a shell completes: designs (with toggles), scenarios, rules; and the options that take
them."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import CompletionItem

__all__ = [
    "complete_design",
    "complete_rule",
    "complete_scenario",
    "design_option",
    "scenario_option",
]


def complete_design(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Designs; behind a ``+``, toggles; and files."""
    from septum.designs import design_names, toggle_names

    base, plus, _ = incomplete.rpartition("+")
    names = [f"{base}+{t}" for t in toggle_names()] if plus else list(design_names())
    known = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return known or [CompletionItem(incomplete, type="file")]


def complete_scenario(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from septum.scenarios import SCENARIOS

    return [name for name in SCENARIOS if name.startswith(incomplete)]


def complete_rule(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from septum.kvm.monitors import MONITORS

    return [name for name in MONITORS if name.startswith(incomplete)]


design_option: Final = click.option(
    "--design",
    "-d",
    "designs",
    multiple=True,
    metavar="NAME|FILE",
    help="A design.",
    shell_complete=complete_design,
)

scenario_option: Final = click.option(
    "--scenario",
    "-s",
    "scenarios",
    multiple=True,
    metavar="NAME",
    help="A scenario.",
    shell_complete=complete_scenario,
)
