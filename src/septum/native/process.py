# SPDX-License-Identifier: GPL-2.0-only
"""A process with one image and one scenario in it, which does what it is asked.

An image can be loaded once per process, and a crash of it must not take the report along: the
process keeps the schedule that it is about to run in memory that both share.
"""

from __future__ import annotations

import atexit
import mmap
import multiprocessing
import pickle
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from septum.machine import Decision
from septum.native.code import Code
from septum.native.image import Image, ImageError, forget_inherited
from septum.native.program import NativeBuilt, build_native
from septum.native.symbols import Lines, read_symbols
from septum.scenarios.crew import begin_worker
from septum.scenarios.model import Scenario
from septum.scenarios.start import StartError

__all__ = ["ImageDied", "ImageProcess", "Wanted", "end", "here"]

P = ParamSpec("P")
T = TypeVar("T")

_SHARED: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an image process is for."""

    code: Code
    scenario: Scenario
    params: tuple[tuple[str, Any], ...] = ()
    monitors_off: tuple[str, ...] = ()

    def build(self) -> NativeBuilt:
        """Load the image into this process (once!) and bring up the start state.

        :raises ImageError, StartError: why not.
        """
        code = self.code
        image = Image(code.image, read_symbols(code.image))
        return build_native(
            image,
            Lines(code.image, str(code.source), str(code.image.parent.parent / "farm")),
            self.scenario,
            name=code.name,
            params=dict(self.params),
            monitors_off=self.monitors_off,
            origin={"version": code.version, "content": code.content, "tree": code.tree},
        )


class ImageDied(RuntimeError):
    """The process ended while it ran the image: with which status, and the schedule."""


class ImageProcess:
    """The process.  It leaves Ctrl-C to us and ends when we do.

    :ivar usable: it can be asked: it did not die, and no question was interrupted.
    """

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.usable = True
        self._board = mmap.mmap(-1, _SHARED)
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(self._pipe, theirs, self._board, wanted), daemon=True
        )
        self._process.start()
        theirs.close()

    def ask(
        self, function: Callable[Concatenate[NativeBuilt, P], T], /, *args: P.args, **kw: P.kwargs
    ) -> T:
        """``function``, called there with what was built.

        :raises StartError, ImageError: it could not be built.
        :raises ImageDied: the process ended meanwhile.
        """
        idle, self.usable = self.usable, False
        assert idle, "a process whose answer nobody waited for"
        try:
            self._pipe.send((function, args, kw))
            good, answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            raise ImageDied(self._last_words()) from None
        self.usable = True
        if not good:
            raise answer
        result: T = answer
        return result

    def _last_words(self) -> str:
        size = int.from_bytes(self._board[:8], "little")
        prefix: list[Decision] = pickle.loads(self._board[8 : 8 + size]) if size else []
        names = [task.name for task in self.wanted.scenario.tasks]
        steps = " ".join(names[max(d.task, ~d.task)] for d in prefix)
        return (
            f"the image's process ended with status {self._process.exitcode} while it ran this "
            f"schedule: {steps or 'the start state, or the first schedule'}"
        )

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.join()
        self._pipe.close()
        self._board.close()


def _serve(ours: Connection, pipe: Connection, board: mmap.mmap, wanted: Wanted) -> None:
    ours.close()
    begin_worker()
    forget_inherited()

    def before(prefix: Sequence[Decision]) -> None:
        data = pickle.dumps(list(prefix))
        if len(data) < _SHARED - 8:
            board[:8] = len(data).to_bytes(8, "little")
            board[8 : 8 + len(data)] = data

    built: NativeBuilt | Exception
    try:
        built = wanted.build()
        built.program.before_run = before
        built.program.use_engine(built.plans)
    except (StartError, ImageError) as error:
        built = error
    while True:
        try:
            function, args, kw = pipe.recv()
        except EOFError:
            return
        pipe.send(_answer(built, function, args, kw))


def _answer(
    built: NativeBuilt | Exception, function: Callable[..., Any], args: Any, kw: Any
) -> tuple[bool, Any]:
    if isinstance(built, Exception):
        return False, built
    try:
        return True, function(built, *args, **kw)
    except Exception as error:
        with suppress(Exception):
            pickle.loads(pickle.dumps(error))
            return False, error
        return False, RuntimeError(f"{type(error).__name__}: {error}")


_present: list[ImageProcess] = []


def here(wanted: Wanted) -> ImageProcess:
    """This process's one image process, made anew if it is for something else."""
    if _present and (not _present[0].usable or _present[0].wanted != wanted):
        end()
    if not _present:
        _present.append(ImageProcess(wanted))
    return _present[0]


def end() -> None:
    """End this process's image process, if there is one."""
    while _present:
        _present.pop().close()


atexit.register(end)
