# SPDX-License-Identifier: GPL-2.0-only
"""From exceptions to one line on stderr.

The package's own error classes carry messages that are ready to print.  Anything else is
a fault of septum itself; it is said so, with how to get the traceback.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from difflib import get_close_matches
from errno import EDQUOT, EIO, ENOSPC
from typing import IO, Any

import click

from septum.cli import WORDS
from septum.explore.outcomes import NondeterminismError
from septum.machine import MachineError
from septum.report.layout import clean

__all__ = ["Problem", "please_report", "problem", "unknown", "wrong_usage"]


class Problem(click.ClickException):
    """What went wrong, where, and how to mend it; exit status 2."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"septum: {self.format_message()}", file=file, err=file is None)


def unknown(kind: str, name: str, known: Iterable[str], then: str) -> Problem:
    """A name that does not exist, with the nearest ones and the next command to type."""
    near = get_close_matches(name, list(known), n=3, cutoff=0.5)
    hint = f" (nearest: {', '.join(near)})" if near else ""
    return Problem(clean(f"unknown {kind} {name!r}{hint}; {then}"))


def problem(error: Exception) -> Problem:
    """``error`` as a message."""
    if isinstance(error, OSError) and error.filename is not None:
        return Problem(clean(f"{error.filename}: {error.strerror or error}"))
    if isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT, EIO):
        return Problem(f"the output cannot be written: {error.strerror}")
    ours = isinstance(error, NondeterminismError | MachineError)
    if isinstance(error, OSError) or (type(error).__module__.startswith("septum.") and not ours):
        return Problem(clean(error))
    return Problem(
        clean(
            f"internal error: {type(error).__name__}: {error}; a bug in septum: {please_report()} "
            "(SEPTUM_DEBUG=1 in the environment shows where)"
        )
    )


def please_report() -> str:
    """What to do about a fault of septum's own."""
    ctx = click.get_current_context(silent=True)
    words = ctx.meta.get(WORDS, []) if ctx is not None else []
    return f"please report it with this command: {shlex.join(['septum', *words])}"


def wrong_usage(error: click.UsageError) -> Problem:
    """A command line that cannot be understood."""
    command = error.ctx.command_path if error.ctx is not None else "septum"
    message = error.format_message().rstrip(".")
    return Problem(clean(f"{message}; {command} --help shows what there is"))
