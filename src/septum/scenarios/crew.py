# SPDX-License-Identifier: GPL-2.0-only
"""Who explores: this process, worker processes, a Dask cluster, any executor.

A crew may lose workers.  What they had is given to others: a unit does the same wherever
and however often it is run.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from multiprocessing import active_children, parent_process
from typing import Any, ParamSpec, TypeVar

__all__ = ["Crew", "ProcessCrew", "begin_worker", "here"]

P = ParamSpec("P")
T = TypeVar("T")


class Crew:
    """An executor and how many workers it has.

    :ivar ahead: pieces of work handed out at a time.
    :ivar unmerged: those together with results that wait for an earlier one's.
    """

    def __init__(self, executor: Executor, workers: int) -> None:
        self.executor = executor
        self.ahead = workers + 1 if workers > 1 else 1
        self.unmerged = 4 * self.ahead if workers > 1 else 1

    def lost(self, error: BaseException) -> bool:
        """Whether ``error`` means that a worker is gone, and not what it was doing."""
        return isinstance(error, BrokenExecutor)

    def renew(self) -> bool:
        """Make the crew work again after a loss; whether it can."""
        return False

    def close(self) -> None:
        """Let go of all workers, without waiting for what they do."""


class _Here(Executor):
    """Runs what is submitted at once."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def here() -> Crew:
    """This process, one piece of work after the other."""
    return Crew(_Here(), 1)


class ProcessCrew(Crew):
    """Worker processes on this machine.  They leave Ctrl-C to us and end when we do."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        super().__init__(self._pool(), workers)

    def _pool(self) -> Executor:
        pool = ProcessPoolExecutor(self.workers, initializer=begin_worker)
        # All of them are made now, before this process has threads and open files.
        pool.submit(os.getpid).result()
        return pool

    def renew(self) -> bool:
        # A broken pool ends what is left of it; after that all its futures are done.
        self.executor.shutdown(wait=True, cancel_futures=True)
        self.executor = self._pool()
        return True

    def close(self) -> None:
        processes = active_children()
        self.executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()


def begin_worker() -> None:
    """Called first in a worker process: Ctrl-C is its parent's, with which it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> Any:
    """A parent that is killed cannot tell its workers to end."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
