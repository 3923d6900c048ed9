# SPDX-License-Identifier: GPL-2.0-only
"""``septum doctor``: what of septum works on this machine."""

from __future__ import annotations

import click

from septum.cli.terminal import width
from septum.report.doctor import doctor_lines, examine

__all__ = ["command"]


@click.command("doctor", short_help="Say what works on this machine.")
@click.option("--wide", is_flag=True, help="Use the terminal's width.")
@click.pass_context
def command(ctx: click.Context, /, wide: bool) -> None:
    """Say what works on this machine, and how to get what is missing.

    Exit status 1 if something is missing without which septum does not work.
    """
    answers = examine()
    click.echo("\n".join(doctor_lines(answers, width(wide))))
    ctx.exit(1 if any(a.probe.required and not a.found for a in answers) else 0)
