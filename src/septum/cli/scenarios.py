# SPDX-License-Identifier: GPL-2.0-only
"""``septum scenarios [NAME]``: the scenarios, or one in full."""

from __future__ import annotations

import click

from septum.cli.names import complete_scenario
from septum.report.listing import scenario_list, scenario_text
from septum.scenarios.suite import SCENARIOS, find

__all__ = ["command"]


@click.command("scenarios")
@click.argument("name", required=False, shell_complete=complete_scenario)
def command(name: str | None) -> None:
    """List the scenarios, or explain the one called NAME."""
    if name is None:
        click.echo(scenario_list(list(SCENARIOS.values())), nl=False)
    else:
        click.echo(scenario_text(find(name)), nl=False)
