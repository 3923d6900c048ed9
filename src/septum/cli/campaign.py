# SPDX-License-Identifier: GPL-2.0-only
"""``septum campaign DIR``: how far a campaign is."""

from __future__ import annotations

from pathlib import Path

import click

from septum.report.campaign import campaign_text
from septum.scenarios.campaign import look

__all__ = ["command"]


@click.command("campaign", short_help="Say how far a campaign is.")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
def command(directory: Path) -> None:
    """Show the progress of a campaign (septum check --campaign DIR), also while it runs.

    Rows, executions, how fast it goes, and the command that goes on.
    """
    click.echo(campaign_text(look(directory)), nl=False)
