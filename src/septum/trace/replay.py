# SPDX-License-Identifier: GPL-2.0-only
"""Reads a recording once, from start to end, and returns what it shows.

`replay(path_or_stream)` is the whole interface; `Replay` is the same in steps, for
callers that follow a live trace_pipe.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from septum.trace.dat import TraceDat
from septum.trace.recording import RELEASES, Replay
from septum.trace.result import ReplayResult
from septum.trace.source import Lines, TraceInputError, open_trace
from septum.trace.watch import Watch

__all__ = ["RELEASES", "Progress", "Replay", "follow", "replay"]

Progress = Callable[[int], None]


def replay(
    source: str | Path | BinaryIO,
    *,
    kernel: str | None = None,
    name: str | None = None,
    progress: Progress | None = None,
) -> ReplayResult:
    """Replay a recording: a path, ``-`` for stdin, or a binary stream.

    ``kernel`` is one of `RELEASES` and overrides what the recording shows.  Raises
    `TraceInputError` if the input cannot be read at all.  ``progress`` is called now and
    then with the bytes read.
    """
    return follow(source, kernel=kernel, name=name, progress=progress).result


def follow(
    source: str | Path | BinaryIO,
    *,
    kernel: str | None = None,
    name: str | None = None,
    watch: Watch | None = None,
    progress: Progress | None = None,
) -> Replay:
    """`replay`, and the whole state at its end: tables, history, statistics."""
    if kernel is not None and kernel not in RELEASES:
        raise TraceInputError(f"unknown kernel {kernel!r}; known: {', '.join(RELEASES)}")
    if isinstance(source, str | Path):
        if str(source) == "-":
            source, name = sys.stdin.buffer, name or "-"
        else:
            with open_trace(source) as stream:
                return follow(
                    stream, kernel=kernel, name=name or str(source), watch=watch, progress=progress
                )
    run = Replay(name or getattr(source, "name", None) or "-", kernel, watch)
    try:
        _run(run, source, progress)
        return run
    except TraceInputError as problem:
        raise TraceInputError(f"{run.result.file}: {problem}") from None


def _run(run: Replay, source: BinaryIO, progress: Progress | None = None) -> None:
    lines = Lines(source)
    binary = lines.trace_dat()
    if binary is not None:
        try:
            dat = TraceDat.read(binary)
            size = dat.size if binary is source else lines.taken

            def told() -> None:
                if progress is not None and dat.size:
                    progress(size * dat.done // dat.size)

            run.feed_dat(dat, told)
        finally:
            if binary is not source:
                binary.close()
        run.finish(lines)
        return
    for batch in lines:
        run.feed(batch)
        if progress is not None:
            progress(lines.taken)
        if run.stopped:
            break
    result = run.finish(None if run.stopped else lines)
    if not result.events and not result.headed:
        raise TraceInputError(_no_recording(result))


def _no_recording(result: ReplayResult) -> str:
    if not result.lines:
        return result.cut or "is empty"
    reason = result.first_unreadable[0].reason if result.first_unreadable else "no event"
    return (
        f"no line is of a recording (line 1: {reason}); septum reads tracefs trace,"
        " trace-cmd report, perf script and trace.dat"
    )
