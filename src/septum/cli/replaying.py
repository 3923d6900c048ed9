# SPDX-License-Identifier: GPL-2.0-only
"""Several recordings at once, on the workers that checks use too (`septum.scenarios.crew`).

Workers write how far they are into a small file that this process reads, so that one line on
stderr can say how far all are.  A recording whose worker is lost is replayed again; Ctrl-C keeps
the results that are there.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from struct import Struct
from typing import Final

import click

from septum.cli.errors import Problem
from septum.scenarios.crew import ProcessCrew
from septum.trace import ReplayResult, replay
from septum.trace.replay import Progress

__all__ = ["Interrupted", "one_progress", "replay_all"]

_count: Final = Struct("<Q")
_EVERY: Final = 0.5  # seconds between two looks at the workers
_TRIES: Final = 3


class Interrupted(Exception):
    """Ctrl-C; ``results`` are those that were there."""

    def __init__(self, results: list[ReplayResult]) -> None:
        super().__init__()
        self.results = results


def replay_all(files: Sequence[str], kernel: str | None, jobs: int) -> list[ReplayResult]:
    """The results, in the order of ``files``."""
    with _board(len(files)) as board:
        crew = ProcessCrew(min(jobs, len(files)))
        try:
            return _collect(crew, files, kernel, board)
        finally:
            crew.close()


def _collect(
    crew: ProcessCrew, files: Sequence[str], kernel: str | None, board: Path
) -> list[ReplayResult]:
    results: dict[int, ReplayResult] = {}
    left, tries = list(range(len(files))), 0
    told = _Told(files, board)
    while left:
        jobs: dict[Future[ReplayResult], int] = {
            crew.executor.submit(_one, files[n], kernel, str(board), n): n for n in left
        }
        try:
            for future in _done(jobs, told):
                results[jobs[future]] = future.result()
            return [results[n] for n in range(len(files))]
        except KeyboardInterrupt:
            raise Interrupted([results[n] for n in sorted(results)]) from None
        except Exception as error:
            if not crew.lost(error):
                raise
            tries += 1
            if tries >= _TRIES or not crew.renew():
                raise Problem(
                    f"workers died {tries} times (out of memory?): use fewer --jobs, or give "
                    f"{files[min(left)]} alone"
                ) from None
            left = [n for n in left if n not in results]
        finally:
            told.end()
    return []


def _done(jobs: dict[Future[ReplayResult], int], told: _Told) -> Iterator[Future[ReplayResult]]:
    waiting = set(jobs)
    while waiting:
        done, waiting = wait(waiting, timeout=_EVERY, return_when=FIRST_COMPLETED)
        yield from sorted(done, key=jobs.__getitem__)
        told.tell(len(jobs) - len(waiting))


def _one(file: str, kernel: str | None, board: str, number: int) -> ReplayResult:
    """In a worker."""
    out = os.open(board, os.O_WRONLY)

    def tell(taken: int) -> None:
        os.pwrite(out, _count.pack(taken), number * _count.size)

    try:
        return replay(file, kernel=kernel, progress=tell)
    finally:
        os.close(out)


@contextmanager
def _board(count: int) -> Iterator[Path]:
    handle, name = tempfile.mkstemp(prefix="septum-replay-")
    try:
        os.ftruncate(handle, count * _count.size)
        os.close(handle)
        yield Path(name)
    finally:
        with suppress(OSError):
            os.unlink(name)


class _Told:
    """How far all recordings are, on stderr if someone looks at it."""

    def __init__(self, files: Sequence[str], board: Path) -> None:
        self.files = files
        self.board = board
        self.begin = time.monotonic()
        self.shown = False
        self.size = sum(_size(file) for file in files)

    def tell(self, done: int) -> None:
        if not sys.stderr.isatty() or not self.size:
            return
        data = self.board.read_bytes()
        taken = min(sum(n for (n,) in _count.iter_unpack(data)), self.size)
        text = f"{len(self.files)} recordings: {done} done, {100 * taken // self.size} %"
        click.echo(f"\r{text}{_left(self.begin, taken, self.size)}", nl=False, err=True)
        self.shown = True

    def end(self) -> None:
        if self.shown:
            click.echo("", err=True)
            self.shown = False


def _size(file: str) -> int:
    try:
        return Path(file).stat().st_size
    except OSError:
        return 0


def _left(begin: float, taken: int, size: int) -> str:
    if not taken:
        return " "
    left = (time.monotonic() - begin) * (size - taken) / taken
    return f", {left:.0f} s left "


def one_progress(file: str) -> Progress | None:
    """How far, and how long still, on stderr if someone looks at it."""
    size = 0 if file == "-" else _size(file)
    if not size or not sys.stderr.isatty():
        return None
    begin, last = time.monotonic(), 0.0

    def tell(taken: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _EVERY or not taken:
            return
        last = now
        text = f"\r{file}: {100 * taken // size} %{_left(begin, taken, size)}"
        click.echo(text, nl=False, err=True)

    return tell
