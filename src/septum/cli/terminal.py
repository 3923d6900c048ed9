# SPDX-License-Identifier: GPL-2.0-only
"""What depends on where output goes: colour, width, progress.

Colour only on a terminal, never with ``NO_COLOR`` or ``TERM=dumb``.  Progress goes to
stderr: a bar on a terminal, one line per finished row elsewhere.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from septum.report.layout import WIDTH, Paint, clean, plain
from septum.report.verdicts import progress_line
from septum.scenarios.result import CheckResult

__all__ = ["colour", "painter", "progress", "width"]

_STYLES: dict[str, dict[str, str | bool]] = {
    "violated": {"fg": "red", "bold": True},
    "holds": {"fg": "green"},
    "bounded": {"fg": "yellow"},
    "sampled": {"fg": "yellow"},
    "vacuous": {"fg": "yellow"},
    "error": {"fg": "red"},
    "n/a": {"dim": True},
    "finding": {"fg": "red", "bold": True},
    "racing": {"bold": True},
    "function": {"dim": True},
    "state": {"dim": True},
    "differs": {"bold": True},
}


def colour(stream: TextIO) -> bool:
    """Whether ``stream`` shall get colour."""
    return (
        stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "") != "dumb"
    )


def painter() -> Paint:
    """Colours for stdout, or none."""
    if not colour(sys.stdout):
        return plain

    def paint(kind: str, text: str) -> str:
        style = _STYLES.get(kind)
        return click.style(text, **style) if style else text  # type: ignore[arg-type]

    return paint


def width(wide: bool) -> int:
    """Columns for text: 78, or with ``--wide`` what the terminal has (132 elsewhere)."""
    if not wide:
        return WIDTH
    return max(shutil.get_terminal_size((132, 24)).columns - 1, WIDTH)


@contextmanager
def progress(total: int) -> Iterator[Callable[[CheckResult], None]]:
    """Call the yielded function with every finished row."""
    done = 0
    if not colour(sys.stderr):

        def log(result: CheckResult) -> None:
            nonlocal done
            done += 1
            click.echo(progress_line(result, done, total), err=True)

        yield log
        return
    bar = Progress(
        BarColumn(24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task("", total=total)

        def advance(result: CheckResult) -> None:
            name = clean(f"{result.design} / {result.scenario}: {result.verdict}")
            bar.update(task, advance=1, description=name)

        yield advance
