# SPDX-License-Identifier: GPL-2.0-only
"""Workers of a Dask cluster, through its executor (extra ``septum[cluster]``)."""

from __future__ import annotations

import re
from concurrent.futures import CancelledError
from importlib import import_module
from typing import Any, Final

from septum.scenarios.crew import Crew
from septum.scenarios.identity import code

__all__ = ["ClusterCrew", "NoCluster"]

_WAIT_S = 10
_here = code  # asked here, while `code` is sent to the workers
_ADDRESS: Final = ": give the one that `dask scheduler` printed, e.g. tcp://host:8786"


class NoCluster(RuntimeError):
    """A cluster that cannot be used: why, and what to do."""


class ClusterCrew(Crew):
    """All workers of the cluster at ``address`` (``tcp://host:8786`` or ``host:8786``).

    :raises NoCluster: Dask is not installed, nobody answers, there is no worker, or the
        workers have another septum.
    """

    def __init__(self, address: str) -> None:
        try:
            distributed: Any = import_module("distributed")
        except ImportError:
            raise NoCluster(
                "--cluster needs Dask: install it with `pip install 'septum[cluster]'`"
            ) from None
        if not re.fullmatch(r"inproc://\S+|(\w+://)?\S+:\d+", address):
            # A Client of nonsense prints a traceback when it is collected.
            raise NoCluster(f"{address!r} is no address{_ADDRESS}")
        try:
            self._client = distributed.Client(address, timeout=_WAIT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise NoCluster(
                f"no Dask scheduler answers at {address} ({type(error).__name__}){_ADDRESS}"
            ) from None
        try:
            super().__init__(self._client.get_executor(pure=False), self._check(address))
        except BaseException:
            self._client.close()
            raise

    def _check(self, address: str) -> int:
        """How many threads the workers have; all with this septum."""
        threads = self._client.nthreads()
        if not threads:
            raise NoCluster(f"{address} has no workers: start some with `dask worker {address}`")
        for worker, theirs in self._client.run(code, on_error="return").items():
            if theirs != _here():
                raise NoCluster(
                    f"{worker} has another septum ({theirs}; here {_here()}): install the same "
                    "one in all places"
                )
        return sum(threads.values())

    def lost(self, error: BaseException) -> bool:
        """Dask gives a dead worker's work to others by itself, until it has failed often."""
        return isinstance(error, CancelledError) or type(error).__name__ == "KilledWorker"

    def renew(self) -> bool:
        """The scheduler still has workers, or gets some soon."""
        try:
            self._client.wait_for_workers(1, timeout=_WAIT_S)
        except (OSError, TimeoutError):
            return False
        return True

    def close(self) -> None:
        """Leave the cluster; it goes on without us."""
        self.executor.shutdown(wait=False)
        self._client.close(timeout=_WAIT_S)
