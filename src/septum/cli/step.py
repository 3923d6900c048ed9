# SPDX-License-Identifier: GPL-2.0-only
"""``septum step FILE``: walk through a counterexample or a recording in the terminal."""

from __future__ import annotations

from pathlib import Path

import click

from septum.cli.again import kernel_option, replay
from septum.cli.errors import Problem
from septum.cli.options import INPUT
from septum.cli.printing import told
from septum.kvm.versions import NPT
from septum.report.html import Code
from septum.report.recording_story import before, recording_story, window
from septum.report.walk import StoryWalk, Walk
from septum.scenarios.counterexample import Diverged, load
from septum.trace.replay import follow
from septum.trace.watch import Row, Watch

__all__ = ["command"]

_AROUND = 5_000  # changes of a recording before and after the one to begin at


@click.command("step", short_help="Walk through a counterexample or a recording.")
@click.argument("file", type=INPUT)
@click.option("--line", type=click.IntRange(min=1), help="Of a recording: begin there.")
@kernel_option
@click.pass_context
def command(ctx: click.Context, /, file: Path, line: int | None, tree: Path | None) -> None:
    """Walk through the counterexample or the recording in FILE, forward and back.

    Trees, locks and code stand beside each step; b sets a breakpoint on a GFN, an object,
    a task or the finding.  A recording begins at its first finding.  Needs the extra
    septum[tui].
    """
    try:
        from septum.cli.stepper import Stepper
    except ModuleNotFoundError:
        raise Problem("step needs Textual: pip install 'septum[tui]'") from None
    try:
        walk = recording_walk(file, line) if _is_recording(file) else story_walk(file, tree)
    except Diverged as error:
        click.echo(f"septum: {file}: stale: {error}", err=True)
        ctx.exit(3)
    Stepper(walk).run()


def _is_recording(file: Path) -> bool:
    """A counterexample is a JSON object; nothing that replay reads begins with a brace."""
    with file.open("rb") as stream:
        return not stream.read(64).lstrip().startswith(b"{")


def story_walk(file: Path, tree: Path | None = None) -> Walk:
    """The counterexample in ``file``.

    :param tree: the kernel tree to run compiled code from.
    :raises BadCounterexample: it cannot be read.
    :raises Diverged: the program no longer follows it.
    """
    ce = load(file)
    code = Code()
    story = told(ce, replay(ce, tree=tree, file=str(file)), path=str(file), code=code)
    title = f"{ce.design} breaks {ce.finding.rule} in {ce.scenario}"
    return StoryWalk(title, story.data, code.blocks)


def recording_walk(file: Path, line: int | None = None) -> Walk:
    """The changes of the recording in ``file`` around its first finding, or a line.

    :raises TraceInputError: it cannot be read.
    :raises Problem: it has no change of an SPTE.
    """
    rows: list[Row] = []
    run = follow(file, watch=Watch(sink=rows.append))
    if not rows:
        raise Problem(f"{file}: no kvm_tdp_mmu_spte_changed line, so nothing to walk through")
    findings = [(f.line, f"{f.rule}: {f.message}") for f in run.result.findings]
    middle = line if line is not None else findings[0][0] if findings else None
    first, end = window(rows, middle, _AROUND)
    shown = rows[first:end]
    start, _ = before(rows[:first], shown, run.tables.format or NPT)
    data = recording_story(shown, findings, run.tables.format, start)
    if line is not None:
        data["first"] = next((n for n, r in enumerate(shown) if r.line >= line), len(shown) - 1)
    left = len(rows) - len(shown)
    more = f" ({left} changes before and after left out)" if left else ""
    return StoryWalk(f"{file.name}{more}", data, [])
