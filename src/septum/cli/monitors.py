# SPDX-License-Identifier: GPL-2.0-only
"""``septum monitors [ID]``: the rules that are judged, or one explained."""

from __future__ import annotations

import click

from septum.cli.errors import unknown
from septum.cli.names import complete_rule
from septum.kvm.monitors import MONITORS
from septum.report.listing import monitor_list, monitor_text

__all__ = ["command"]


@click.command("monitors")
@click.argument("rule", metavar="[ID]", required=False, shell_complete=complete_rule)
def command(rule: str | None) -> None:
    """List the rules, or explain the one called ID (for example I4)."""
    if rule is None:
        click.echo(monitor_list(list(MONITORS.values())), nl=False)
        return
    name = rule.upper()
    if name not in MONITORS:
        raise unknown("monitor", rule, MONITORS, "septum monitors lists them")
    click.echo(monitor_text(MONITORS[name]), nl=False)
