# SPDX-License-Identifier: GPL-2.0-only
"""Campaigns: the same rows, counts and findings, however often the work was cut short."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pytest

from septum.explore import Options
from septum.explore import units as explore_units
from septum.explore.frontier import Frontier
from septum.explore.plain import Damaged, pack, unpack
from septum.scenarios.campaign import FILE, BadCampaign, Campaign, _opened, look
from septum.scenarios.check import check_many
from septum.scenarios.crew import Crew, ProcessCrew
from septum.scenarios.result import CheckResult
from septum.scenarios.rows import Row, make

P = ParamSpec("P")
T = TypeVar("T")

ROWS = [("v7.3", "fault-neighbours"), ("v7.3", "fault-punch"), ("v7.3", "split-tripwire")]
OPTIONS = Options()
FACTS = {"options": asdict(OPTIONS), "params": {}, "force": False}


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that short rows have many of them."""
    monkeypatch.setattr("septum.explore.frontier.UNIT", explore_units.Size(17, 2000))


def judged(rows: Sequence[tuple[int, CheckResult]]) -> list[CheckResult]:
    """Results without what a clock says."""
    return [replace(result, seconds=0.0) for _, result in sorted(rows, key=lambda r: r[0])]


def run(
    crew: Crew | None = None, store: Campaign | None = None
) -> Iterator[tuple[int, CheckResult]]:
    return check_many(ROWS, options=OPTIONS, crew=crew, store=store)


@pytest.fixture(scope="module")
def whole() -> list[CheckResult]:
    """An undisturbed check."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("septum.explore.frontier.UNIT", explore_units.Size(17, 2000))
        return judged(list(run()))


def opened(directory: Path, rows: Sequence[tuple[str, str]] = ROWS) -> Campaign:
    return Campaign(directory, FACTS, [make(*row, OPTIONS) for row in rows])


def test_the_number_of_workers_changes_nothing(whole: list[CheckResult]) -> None:
    crew = ProcessCrew(3)
    try:
        assert judged(list(run(crew))) == whole
    finally:
        crew.close()


@pytest.mark.parametrize("stop_after", [0, 3, 12])
def test_interrupted_and_resumed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_after: int,
    whole: list[CheckResult],
) -> None:
    """Cut after so many merged units: the rest is done later, nothing is counted twice."""
    campaign = opened(tmp_path)
    saves = 0
    save = campaign.save

    def counting(n: int, row: Row, frontier: Frontier) -> None:
        nonlocal saves
        if saves == stop_after:
            raise KeyboardInterrupt
        saves += 1
        save(n, row, frontier)

    monkeypatch.setattr(campaign, "save", counting)
    with pytest.raises(KeyboardInterrupt):
        list(run(store=campaign))
    campaign.close()
    before = sum(row.executions for row in look(tmp_path).rows)
    campaign = opened(tmp_path)
    assert judged(list(run(store=campaign))) == whole
    campaign.close()
    glance = look(tmp_path)
    assert [row.state for row in glance.rows] == ["done"] * len(ROWS)
    assert sum(row.executions for row in glance.rows) == sum(r.executions for r in whole) >= before


def test_a_finished_campaign_explores_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: list[CheckResult]
) -> None:
    campaign = opened(tmp_path)
    list(run(store=campaign))
    campaign.close()
    monkeypatch.setattr("septum.scenarios.scheduling.explore", None)
    campaign = opened(tmp_path)
    assert judged(list(run(store=campaign))) == whole
    campaign.close()


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
import test_campaign as t
from septum.scenarios.crew import ProcessCrew
from septum.explore import units
import septum.explore.frontier
septum.explore.frontier.UNIT = units.Size(17, 2000)
crew = ProcessCrew(2)
campaign = t.opened(Path({directory!r}))
print("begun", flush=True)
list(t.run(crew, campaign))
"""


def test_killed_at_any_moment(tmp_path: Path, whole: list[CheckResult]) -> None:
    """kill -9 of the process; its workers end too, and the next one goes on."""
    text = KILLED.format(path=sys.path, directory=str(tmp_path))
    for delay in (0.01, 0.2):
        process = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"begun\n"
        workers = children(process.pid)
        time.sleep(delay)
        process.kill()
        process.wait()
        process.stdout.close()
        gone_by = time.monotonic() + 10
        while any(alive(pid) for pid in workers) and time.monotonic() < gone_by:
            time.sleep(0.02)
        assert not any(alive(pid) for pid in workers)
    campaign = opened(tmp_path)
    assert judged(list(run(store=campaign))) == whole
    campaign.close()


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_worker_that_is_killed_is_replaced(whole: list[CheckResult]) -> None:
    crew = ProcessCrew(2)
    results = []
    try:
        for n, result in run(crew):
            results.append((n, result))
            if len(results) == 1:
                os.kill(children(os.getpid())[-1], signal.SIGKILL)
        assert judged(results) == whole
    finally:
        crew.close()


class Lossy(Executor):
    """Does what is submitted at once, until the worker dies: while it works on the
    ``dies``-th piece, or with that piece done and before the next is handed out."""

    def __init__(self, dies: int, *, idle: bool) -> None:
        self.dies, self.idle = dies, idle
        self.pieces = 0

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        self.pieces += 1
        future: Future[T] = Future()
        if self.pieces == self.dies + 1 and self.idle:
            raise BrokenExecutor("found when something is submitted")
        if self.pieces == self.dies and not self.idle:
            future.set_exception(BrokenExecutor("found in the result"))
        else:
            future.set_result(fn(*args, **kwargs))
        return future


class LossyCrew(Crew):
    """Two workers of which one dies once."""

    def __init__(self, dies: int, *, idle: bool) -> None:
        super().__init__(Lossy(dies, idle=idle), 2)
        self.renewed = 0

    def renew(self) -> bool:
        self.renewed += 1
        return True


@pytest.mark.parametrize("idle", [False, True])
@pytest.mark.parametrize("dies", [1, 2, 5, 8])
def test_a_loss_may_be_noticed_anywhere(dies: int, idle: bool, whole: list[CheckResult]) -> None:
    """In a result, or when the next piece is handed out: nothing is missed or counted twice."""
    crew = LossyCrew(dies, idle=idle)
    assert judged(list(run(crew))) == whole
    assert crew.renewed == 1


class Backwards(Executor):
    """Works only while it is waited for, and then on what came last."""

    def __init__(self) -> None:
        self.left: list[tuple[Future[Any], Callable[[], Any]]] = []
        self.waits = 0
        self.most = 0

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        self.left.append((future, partial(fn, *args, **kwargs)))
        self.most = max(self.most, len(self.left))
        return future

    def wait(self, futures: set[Future[Any]], return_when: str) -> None:
        assert not any(future.done() for future in futures), "there is nothing to wait for"
        assert self.most <= 3, "more than asked for is handed out"
        self.waits += 1
        future, work = self.left.pop()
        if future.set_running_or_notify_cancel():
            future.set_result(work())


def test_results_that_come_too_early_are_kept_without_asking_again_and_again(
    monkeypatch: pytest.MonkeyPatch, whole: list[CheckResult]
) -> None:
    """Workers are kept busy meanwhile; what waits for them sleeps."""
    executor = Backwards()
    monkeypatch.setattr("septum.scenarios.scheduling.wait", executor.wait)
    assert judged(list(run(Crew(executor, 2)))) == whole
    assert executor.waits > 10


# --- what cannot go on ------------------------------------------------------------------------


def test_other_options_are_refused(tmp_path: Path) -> None:
    opened(tmp_path).close()
    other = {**FACTS, "options": asdict(replace(OPTIONS, retries=1))}
    with pytest.raises(BadCampaign, match=r"begun with retries=0, not 1: use the options"):
        Campaign(tmp_path, other, [])


def test_another_septum_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(tmp_path).close()
    monkeypatch.setattr("septum.scenarios.campaign.code", lambda: "9.9 abc")
    with pytest.raises(BadCampaign, match=r"begun by another septum .* this one is 9\.9 abc"):
        opened(tmp_path)
    assert not look(tmp_path).ours


def test_an_edited_design_is_checked_again(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    directory = tmp_path / "campaign"
    text = "def tdx_track(kvm):\n    return None\n"
    rows = [(str(mine), "vm-dies"), ("v7.3", "vm-dies")]
    mine.write_text(text)
    campaign = opened(directory, rows)
    assert len(list(check_many(rows, options=OPTIONS, store=campaign))) == 2
    campaign.close()
    mine.write_text(text + "# edited\n")
    campaign = opened(directory, rows)
    assert [row.design for row in campaign.again] == [str(mine)]
    assert [row["state"] for row in look_elsewhere(directory)] == ["waiting", "done"]
    campaign.close()


def look_elsewhere(directory: Path) -> list[sqlite3.Row]:
    """Rows as another connection sees them (`look` would drop this process's lock)."""
    db = sqlite3.connect(directory / FILE)
    db.row_factory = sqlite3.Row
    rows: list[sqlite3.Row] = db.execute("SELECT * FROM rows ORDER BY position").fetchall()
    db.close()
    return rows


def test_two_processes_do_not_share_a_campaign(tmp_path: Path) -> None:
    text = (
        "import sys, fcntl; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX);"
        "print('held', flush=True); sys.stdin.read()"
    )
    opened(tmp_path).close()
    process = subprocess.Popen(
        [sys.executable, "-c", text, str(tmp_path / "campaign.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    assert look(tmp_path).running
    with pytest.raises(BadCampaign, match="another process is working on it"):
        opened(tmp_path)
    process.communicate(b"")
    assert not look(tmp_path).running


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({FILE: b"no database at all" * 99}, "damaged .*begin a new campaign"),
        ({"notes.txt": b"mine"}, "holds notes.txt and no campaign"),
    ],
)
def test_a_directory_of_something_else(
    tmp_path: Path, made: dict[str, bytes], message: str
) -> None:
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(BadCampaign, match=message):
        opened(tmp_path)
    for name, data in made.items():
        assert (tmp_path / name).read_bytes() == data


def test_another_database(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / FILE)
    db.execute("CREATE TABLE mails (body TEXT)")
    db.close()
    with pytest.raises(BadCampaign, match="a database, but no campaign"):
        opened(tmp_path)
    with pytest.raises(BadCampaign, match="a database, but no campaign"):
        look(tmp_path)


def test_damaged_rows(tmp_path: Path) -> None:
    campaign = opened(tmp_path)
    list(run(store=campaign))
    campaign.close()
    db = sqlite3.connect(tmp_path / FILE)
    db.execute("UPDATE rows SET data = x'00ff'")
    db.commit()
    db.close()
    campaign = opened(tmp_path)
    with pytest.raises(BadCampaign, match="damaged"):
        list(run(store=campaign))
    campaign.close()


def test_a_full_disk(tmp_path: Path, whole: list[CheckResult]) -> None:
    """What was committed is kept, and the campaign goes on when there is room."""
    campaign = opened(tmp_path)
    db = campaign._db
    db.execute(
        "CREATE TRIGGER fat AFTER INSERT ON ticks BEGIN"
        " INSERT INTO facts VALUES (random(), zeroblob(9000)); END"
    )
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    assert db.execute(f"PRAGMA max_page_count = {pages + 1}").fetchone() == (pages + 1,)
    with pytest.raises(BadCampaign, match=r"full; what was committed is kept: make room"):
        list(run(store=campaign))
    db.execute("PRAGMA max_page_count = 9999")
    db.executescript("DROP TRIGGER fat; DELETE FROM facts WHERE typeof(value) = 'blob'")
    campaign.close()
    campaign = opened(tmp_path)
    assert judged(list(run(store=campaign))) == whole
    campaign.close()


def test_no_campaign_to_look_at(tmp_path: Path) -> None:
    with pytest.raises(BadCampaign, match="no campaign is there"):
        look(tmp_path / "nowhere")


# --- the plain form ---------------------------------------------------------------------------


def test_a_campaign_that_is_only_being_begun(tmp_path: Path) -> None:
    """Killed before it knew what it is about: whoever looks is told, and it may begin."""
    _opened(tmp_path).close()
    with pytest.raises(BadCampaign, match="only being begun: look again"):
        look(tmp_path)
    begun = Campaign(tmp_path, FACTS, [])
    assert look(tmp_path).rows == []
    begun.close()


def test_plain_form() -> None:
    value = {1: [(2, "x"), {"b", "a"}, frozenset({3}), None, True, 0.5], (1, 2): {}}
    assert unpack(pack(value, ()), ()) == value


@pytest.mark.parametrize("text", ["", "{", '{"Popen": ["x"]}', '{"a": 1, "b": 2}', '{"()": 3}'])
def test_text_that_is_no_plain_form(text: str) -> None:
    with pytest.raises(Damaged):
        unpack(text, ())
