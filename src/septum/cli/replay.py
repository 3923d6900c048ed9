# SPDX-License-Identifier: GPL-2.0-only
"""``septum replay FILE...``: what a recording of a real kernel shows."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click

from septum.cli.options import format_option, html_option, write_html
from septum.cli.replaying import Interrupted, one_progress, replay_all
from septum.report.documents import dump, replay_document, replay_look_document, replay_status
from septum.report.replay_more import comparison_lines, history_lines
from septum.report.replay_page import replay_page
from septum.report.replay_text import replay_lines
from septum.trace import ReplayResult, replay
from septum.trace.export import exporter
from septum.trace.replay import RELEASES, follow
from septum.trace.watch import Row, Watch, tree_lines, tree_objects

__all__ = ["command"]

_KEPT = 300_000  # changes from which an HTML report takes those that it shows


class _Gfn(click.ParamType[int]):
    """A GFN as recordings print it: hexadecimal, with or without 0x."""

    name = "gfn"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        try:
            return int(str(value), 16)
        except ValueError:
            self.fail(f"{value!r} is no GFN: hexadecimal, as in the recording", param, ctx)


@click.command("replay", short_help="Fold recordings onto page tables and judge them.")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option(
    "--kernel", type=click.Choice(list(RELEASES)), help="Event formats, if the file misleads."
)
@click.option("--gfn", type=_Gfn(), help="Show all changes that touch this GFN (hexadecimal).")
@click.option("--at", "at", metavar="TIME|LINE", help="Stop there and show the trees.")
@click.option(
    "--around", metavar="LINE", type=click.IntRange(min=1), help="Middle of what --html shows."
)
@click.option("--against", metavar="FILE", help="Compare one FILE with this recording.")
@html_option
@click.option(
    "--export", type=click.Path(path_type=Path), help="Also write the changes: .parquet or .csv."
)
@click.option("--jobs", type=click.IntRange(min=1), default=1, help="Recordings at once.")
@format_option()
@click.pass_context
def command(
    ctx: click.Context,
    /,
    files: tuple[str, ...],
    kernel: str | None,
    gfn: int | None,
    at: str | None,
    around: int | None,
    against: str | None,
    html: Path | None,
    export: Path | None,
    jobs: int,
    form: str,
) -> None:
    """Fold the events of ftrace recordings onto page tables and judge them.

    FILE is tracefs text, trace-cmd report text, perf script text or a trace.dat, plain or
    compressed; - is stdin.  Exit status 1: a finding; 3: none, but a file is cut or
    damaged; 2: no recording; else 0.
    """
    one_file = gfn is not None or at is not None or against is not None or export is not None
    if one_file and len(files) != 1:
        raise click.UsageError("--gfn, --at, --against and --export take one FILE")
    if around is not None and (html is None or len(files) != 1):
        raise click.UsageError("--around chooses what --html shows of one FILE")
    if gfn is not None or at is not None:
        _look(files[0], kernel, gfn, at, as_json=form == "json")
        return
    if html is not None:
        results, changes = _with_changes(files, kernel, export)
        write_html(html, replay_page(results, changes, around))
    elif export is not None:
        results = _exported(files[0], kernel, export)
    else:
        try:
            results = _results(files, kernel, jobs)
        except Interrupted as stop:
            results = stop.results
            click.echo(f"septum: interrupted: {len(results)} of {len(files)} replayed", err=True)
            _show(results, form)
            ctx.exit(130)
    _tell_cuts(results)
    if against is not None:
        other = replay(against, kernel=kernel)
        click.echo("\n".join(comparison_lines(results[0], other)))
    else:
        _show(results, form)
    ctx.exit(replay_status(results))


def _show(results: Sequence[ReplayResult], form: str) -> None:
    if form == "json":
        click.echo(dump(replay_document(results)), nl=False)
    else:
        click.echo("\n\n".join("\n".join(replay_lines(result)) for result in results))


def _results(files: Sequence[str], kernel: str | None, jobs: int) -> list[ReplayResult]:
    if jobs > 1 and len(files) > 1:
        if "-" in files:
            raise click.UsageError("--jobs: stdin (-) cannot be read in a worker; give it alone")
        return replay_all(files, kernel, jobs)
    results: list[ReplayResult] = []
    try:
        for file in files:
            results.append(replay(file, kernel=kernel, progress=one_progress(file)))
    except KeyboardInterrupt:
        raise Interrupted(results) from None
    return results


def _exported(file: str, kernel: str | None, export: Path) -> list[ReplayResult]:
    with ExitStack() as stack:
        sink = stack.enter_context(exporter(export))
        run = follow(file, kernel=kernel, watch=Watch(sink=sink), progress=one_progress(file))
    return [run.result]


def _with_changes(
    files: Sequence[str], kernel: str | None, export: Path | None
) -> tuple[list[ReplayResult], list[Sequence[Row]]]:
    """Results with their changes (the last `_KEPT`), exported on the way if asked."""
    results: list[ReplayResult] = []
    changes: list[Sequence[Row]] = []
    with ExitStack() as stack:
        sink = stack.enter_context(exporter(export)) if export is not None else None
        for file in files:
            rows: deque[Row] = deque(maxlen=_KEPT)

            def keep(row: Row, rows: deque[Row] = rows) -> None:
                rows.append(row)
                if sink is not None:
                    sink(row)

            watch = Watch(sink=keep)
            run = follow(file, kernel=kernel, watch=watch, progress=one_progress(file))
            results.append(run.result)
            changes.append(list(rows))
    return results, changes


def _look(file: str, kernel: str | None, gfn: int | None, at: str | None, *, as_json: bool) -> None:
    """The history of a GFN, or the trees at a moment."""
    watch = Watch(gfn=gfn)
    if at is not None:
        watch.line, watch.time = _moment(at)
    run = follow(file, kernel=kernel, watch=watch, progress=one_progress(file))
    if as_json:
        trees = None if at is None else tree_objects(run.tables, gfn)
        history = None if gfn is None else watch.history
        click.echo(dump(replay_look_document(run.result, history, trees)), nl=False)
        return
    if gfn is not None and at is None:
        click.echo("\n".join(history_lines(watch.history, watch.more, run.result, gfn)))
        return
    click.echo(f"after line {run.result.lines}, time {run.result.last_time:.6f}")
    click.echo("\n".join(tree_lines(run.tables, gfn)) or "no table is known")


def _moment(text: str) -> tuple[int | None, float | None]:
    """A line number, or a time: a number with a point."""
    if re.fullmatch(r"\d*\.\d+|\d+\.", text):
        return None, float(text)
    if re.fullmatch(r"0*[1-9]\d*", text):
        return int(text), None
    raise click.UsageError(
        f"--at {text!r}: a line number, or a time stamp with its point, e.g. 12.345678"
    )


def _tell_cuts(results: Sequence[ReplayResult]) -> None:
    for result in results:
        if result.cut is not None:
            click.echo(f"septum: {result.file}: {result.cut}; replayed up to there", err=True)
