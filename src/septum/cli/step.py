# SPDX-License-Identifier: GPL-2.0-only
"""``septum step FILE``: walk through a counterexample in the terminal."""

from __future__ import annotations

from pathlib import Path

import click

from septum.cli.errors import Problem
from septum.cli.options import INPUT
from septum.cli.printing import told
from septum.report.html import Code
from septum.report.walk import StoryWalk, Walk
from septum.scenarios.counterexample import Diverged, load, replay

__all__ = ["command"]


@click.command("step")
@click.argument("file", type=INPUT)
@click.pass_context
def command(ctx: click.Context, /, file: Path) -> None:
    """Walk through the counterexample in FILE, forward and back.

    Trees, locks and code stand beside each step; b sets a breakpoint on a GFN, an object,
    a task or the finding.  Needs the extra septum[tui].
    """
    try:
        from septum.cli.stepper import Stepper
    except ModuleNotFoundError:
        raise Problem("step needs Textual: pip install 'septum[tui]'") from None
    try:
        walk = story_walk(file)
    except Diverged as error:
        click.echo(f"septum: {file}: stale: {error}", err=True)
        ctx.exit(3)
    Stepper(walk).run()


def story_walk(file: Path) -> Walk:
    """The counterexample in ``file``.

    :raises BadCounterexample: it cannot be read.
    :raises Diverged: the program no longer follows it.
    """
    ce = load(file)
    code = Code()
    story = told(ce, replay(ce, states=True), path=str(file), code=code)
    title = f"{ce.design} breaks {ce.finding.rule} in {ce.scenario}"
    return StoryWalk(title, story.data, code.blocks)
