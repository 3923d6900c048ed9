# SPDX-License-Identifier: GPL-2.0-only
"""A real Dask cluster on this machine: same results, also if a worker is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from septum.explore import units
from septum.scenarios.check import check_many
from septum.scenarios.cluster import ClusterCrew, NoCluster

distributed = pytest.importorskip("distributed", reason="the extra septum[cluster] is absent")

ROWS = [("feb06", "install-accept"), ("v7.3", "fault-fault"), ("v7.3", "split-tripwire")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        silence_logs=50,
    ) as made:
        yield made


def test_same_results_although_a_worker_is_killed(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("septum.explore.frontier.UNIT", units.Size(17, 2000))
    alone = {n: replace(r, seconds=0.0) for n, r in check_many(ROWS)}
    crew = ClusterCrew(cluster.scheduler_address)
    merged = 0

    def kill_one(n: int, found: object) -> None:
        nonlocal merged
        merged += 1
        if merged == 4:
            client = crew._client
            pids = client.run(os.getpid)
            os.kill(next(iter(pids.values())), signal.SIGKILL)

    try:
        shared = {
            n: replace(r, seconds=0.0) for n, r in check_many(ROWS, crew=crew, progress=kill_one)
        }
    finally:
        crew.close()
    assert merged > 4
    assert shared == alone


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("septum.scenarios.cluster._WAIT_S", 1)
    with pytest.raises(NoCluster, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        ClusterCrew("tcp://127.0.0.1:9")


@pytest.mark.parametrize("address", ["nowhere", "tcp://host", "host:port", ""])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(NoCluster, match="is no address"):
        ClusterCrew(address)


def test_workers_with_another_septum(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("septum.scenarios.cluster._here", lambda: "9.9 abc")
    with pytest.raises(NoCluster, match=r"has another septum .*; here 9\.9 abc\)"):
        ClusterCrew(cluster.scheduler_address)
