# SPDX-License-Identifier: GPL-2.0-only
"""``septum replay FILE...``: what a recording of a real kernel shows."""

from __future__ import annotations

import click

from septum.cli.options import format_option
from septum.report.documents import dump, replay_document, replay_status
from septum.report.replay_text import replay_lines
from septum.trace import replay
from septum.trace.replay import RELEASES

__all__ = ["command"]


@click.command("replay")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option(
    "--kernel",
    type=click.Choice(list(RELEASES)),
    help="Event formats, if the file misleads.",
)
@format_option()
@click.pass_context
def command(ctx: click.Context, /, files: tuple[str, ...], kernel: str | None, form: str) -> None:
    """Fold the events of ftrace recordings onto page tables and judge them.

    FILE is tracefs text, trace-cmd report text, perf script text or a trace.dat, plain or
    compressed; - is stdin.  Exit status 1: a finding; 3: none, but a file is cut or
    damaged; 2: no recording; else 0.
    """
    results = [replay(file, kernel=kernel) for file in files]
    for result in results:
        if result.cut is not None:
            click.echo(f"septum: {result.file}: {result.cut}; replayed up to there", err=True)
    if form == "json":
        click.echo(dump(replay_document(results)), nl=False)
    else:
        click.echo("\n\n".join("\n".join(replay_lines(result)) for result in results))
    ctx.exit(replay_status(results))
