# SPDX-License-Identifier: GPL-2.0-only
"""A check that outlives its process: rows, results and frontiers in an SQLite file.

Every merged unit of work is one transaction, so at any moment the file holds a state that
the search really was in, and nothing is counted twice.  One process works on a campaign at
a time; others may look on (`look`).
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import sleep, time
from typing import Any

from septum.explore.estimate import left_text
from septum.explore.frontier import CLASSES as SEARCH_CLASSES
from septum.explore.frontier import Frontier
from septum.explore.plain import Damaged, pack, unpack
from septum.scenarios.identity import code
from septum.scenarios.result import CheckResult, Counterexample
from septum.scenarios.rows import Row

__all__ = ["FILE", "BadCampaign", "Campaign", "Glance", "RowGlance", "look"]

FILE = "campaign.sqlite"
LOCK = "campaign.lock"
_MARK = 0x53457074  # application_id: "SEpt"
_CLASSES = (*SEARCH_CLASSES, CheckResult, Counterexample)
_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE rows (
    design TEXT NOT NULL, scenario TEXT NOT NULL, position INTEGER NOT NULL,
    text TEXT NOT NULL, state TEXT NOT NULL,
    executions INTEGER NOT NULL DEFAULT 0, seconds REAL NOT NULL DEFAULT 0,
    done REAL, told TEXT NOT NULL DEFAULT '', data BLOB,
    PRIMARY KEY (design, scenario)
);
CREATE TABLE ticks (at REAL NOT NULL, executions INTEGER NOT NULL);
"""
_TRIES = 3
_TICKS = 40  # of the last units, for the present rate


class BadCampaign(ValueError):
    """A campaign that cannot be opened or written: what is wrong, and what to do."""


class Campaign:
    """An open campaign: the `Store` of a check.

    :ivar again: rows that were known, but whose design's text has changed since.
    """

    def __init__(self, directory: Path, facts: Mapping[str, Any], rows: Sequence[Row]) -> None:
        """Open or begin.

        :param facts: what must be the same when it goes on: options and parameters.
        :param rows: what is to be checked; rows that the campaign does not know are added.
        :raises BadCampaign: with one line that says what to do.
        """
        self.directory = directory
        self.again: list[Row] = []
        with _told(directory):
            _prepare(directory)
            self._lock = _locked(directory)
            self._db = _opened(directory)
            with self._db:
                self._agree({"septum": code(), **facts})
                for n, row in enumerate(rows):
                    self._know(n, row)

    def close(self) -> None:
        """Let go of the file and the lock."""
        with suppress(sqlite3.Error):
            self._db.close()
        os.close(self._lock)

    def note(self, name: str, value: Any) -> None:
        """Keep a fact that may differ when the campaign goes on."""
        with _told(self.directory), self._db:
            self._put(name, value)

    # --- the Store of septum.scenarios.scheduling ---------------------------------------

    def restore(self, n: int, row: Row) -> Frontier | CheckResult | None:
        """What is known of the row."""
        with _told(self.directory):
            (data,) = self._db.execute(
                "SELECT data FROM rows WHERE design = ? AND scenario = ?", (row.design, row.name)
            ).fetchone()
            if data is None:
                return None
            known = _read(data)
            if not isinstance(known, Frontier | CheckResult):
                raise Damaged(type(known).__name__)
            return known

    def save(self, n: int, row: Row, frontier: Frontier) -> None:
        """One unit more of a row."""
        found = frontier.found
        left = len(frontier.tasks)
        told = left_text(found) or f"{left} branch{'es' * (left != 1)} left"
        self._write(row, "running", found.executions, found.seconds, None, told, frontier)

    def finish(self, n: int, row: Row, result: CheckResult) -> None:
        """A row's result."""
        rule = result.finding.rule if result.finding is not None else ""
        told = f"{result.verdict} {rule}".strip()
        self._write(row, "done", result.executions, result.seconds, 1.0, told, result)

    def _write(
        self,
        row: Row,
        state: str,
        executions: int,
        seconds: float,
        done: float | None,
        told: str,
        data: Frontier | CheckResult,
    ) -> None:
        blob = zlib.compress(pack(data, _CLASSES).encode(), 1)
        with _told(self.directory), self._db:
            self._db.execute(
                "UPDATE rows SET state = ?, executions = ?, seconds = ?, done = ?, told = ?,"
                " data = ? WHERE design = ? AND scenario = ?",
                (state, executions, seconds, done, told, blob, row.design, row.name),
            )
            self._db.execute("INSERT INTO ticks SELECT ?, total(executions) FROM rows", (time(),))
            self._db.execute(
                "DELETE FROM ticks WHERE rowid <= (SELECT max(rowid) FROM ticks) - ?", (_TICKS,)
            )

    # --- what the campaign is about -------------------------------------------------------

    def _agree(self, facts: Mapping[str, Any]) -> None:
        """The facts are those the campaign was begun with, or it begins."""
        known = {n: json.loads(v) for n, v in self._db.execute("SELECT name, value FROM facts")}
        for name, value in facts.items():
            if not known:
                self._put(name, value)
            elif known.get(name) != json.loads(json.dumps(value)):
                raise BadCampaign(_other(self.directory, name, known.get(name), value))

    def _put(self, name: str, value: Any) -> None:
        self._db.execute("REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))

    def _know(self, position: int, row: Row) -> None:
        key = (row.design, row.name)
        known = self._db.execute(
            "SELECT text FROM rows WHERE design = ? AND scenario = ?", key
        ).fetchone()
        if known is None:
            self._db.execute(
                "INSERT INTO rows (design, scenario, position, text, state)"
                " SELECT ?, ?, coalesce(max(position) + 1, ?), ?, 'waiting' FROM rows",
                (*key, position, row.text),
            )
        elif known[0] != row.text:
            self.again.append(row)
            self._db.execute(
                "UPDATE rows SET text = ?, state = 'waiting', executions = 0, seconds = 0,"
                " done = NULL, told = '', data = NULL WHERE design = ? AND scenario = ?",
                (row.text, *key),
            )


def _other(directory: Path, name: str, was: Any, now: Any) -> str:
    if name == "septum":
        return (
            f"{directory}: begun by another septum ({was}; this one is {now}): go on with that "
            "one, or begin a new campaign in another directory"
        )
    if isinstance(was, dict) and isinstance(now, dict):
        part = next((k for k in {**was, **now} if was.get(k) != now.get(k)), "")
        name, was, now = part or name, was.get(part), now.get(part)
    before = f"without {name}" if was is None else f"with {name}={was}"
    return (
        f"{directory}: begun {before}, not {now}: use the options it was begun with "
        f"(`septum campaign {directory}` shows the command), or another directory"
    )


# --- files ------------------------------------------------------------------------------------


@contextmanager
def _told(directory: Path) -> Iterator[None]:
    """Errors of the file system and of SQLite as `BadCampaign`."""
    try:
        yield
    except BadCampaign:
        raise
    except Damaged as error:
        raise BadCampaign(
            f"{directory / FILE}: damaged ({error}): begin a new campaign in another directory"
        ) from None
    except sqlite3.OperationalError as error:
        raise BadCampaign(
            f"{directory / FILE}: cannot be written: {error}; what was committed is kept: make "
            "room or mend it, and give the same command again"
        ) from None
    except (sqlite3.DatabaseError, zlib.error) as error:
        raise BadCampaign(
            f"{directory / FILE}: damaged ({error}): begin a new campaign in another directory"
        ) from None
    except OSError as error:
        raise BadCampaign(
            f"{error.filename or directory}: {error.strerror}: name another place for --campaign"
        ) from None


def _prepare(directory: Path) -> None:
    """A directory that is a campaign's or may become one's."""
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / FILE).exists():
        others = sorted(p.name for p in directory.iterdir() if p.name != LOCK)
        if others:
            raise BadCampaign(
                f"{directory}: holds {others[0]} and no campaign: name a new or empty directory"
            )


def _locked(directory: Path) -> int:
    """The lock, held until this process ends, however it ends."""
    lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    for _ in range(_TRIES):
        with suppress(OSError):
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        sleep(0.1)  # it may only be somebody who looks on
    os.close(lock)
    raise BadCampaign(
        f"{directory}: another process is working on it: wait for it, or watch it with "
        f"`septum campaign {directory}`"
    )


def _opened(directory: Path) -> sqlite3.Connection:
    db = sqlite3.connect(directory / FILE)
    (mark,) = db.execute("PRAGMA application_id").fetchone()
    if mark != _MARK:
        if db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            raise BadCampaign(f"{directory / FILE}: a database, but no campaign of septum's")
        db.execute("PRAGMA journal_mode = WAL")
        with db:
            db.executescript(f"BEGIN; {_TABLES} PRAGMA application_id = {_MARK}; COMMIT;")
    db.execute("PRAGMA synchronous = NORMAL")
    return db


def _read(data: bytes) -> Any:
    return unpack(zlib.decompress(data), _CLASSES)


# --- looking on -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RowGlance:
    """One row of a campaign.  ``state``: waiting, running, done; ``told``: the verdict."""

    design: str
    scenario: str
    state: str
    executions: int
    seconds: float
    told: str


@dataclass(frozen=True, slots=True)
class Glance:
    """A campaign as it is now.

    :ivar running: a process is working on it.
    :ivar rate: executions per second lately (0: unknown).
    """

    directory: Path
    septum: str
    command: Sequence[str]
    rows: Sequence[RowGlance]
    running: bool
    rate: float

    @property
    def ours(self) -> bool:
        """This septum can go on with it."""
        return self.septum == code()


def look(directory: Path) -> Glance:
    """Read a campaign, also while a process works on it; changes nothing.

    :raises BadCampaign: there is none, or it cannot be read.
    """
    if not (directory / FILE).is_file():
        raise BadCampaign(
            f"{directory}: no campaign is there; `septum check --campaign {directory}` begins one"
        )
    with _told(directory):
        db = sqlite3.connect(f"{(directory / FILE).resolve().as_uri()}?mode=ro", uri=True)
        try:
            (mark,) = db.execute("PRAGMA application_id").fetchone()
            if mark != _MARK:
                raise BadCampaign(f"{directory / FILE}: a database, but no campaign of septum's")
            facts = {n: json.loads(v) for n, v in db.execute("SELECT name, value FROM facts")}
            if "septum" not in facts:  # its tables are there, and nothing else yet
                raise BadCampaign(f"{directory}: is only being begun: look again in a moment")
            rows = [
                RowGlance(*values)
                for values in db.execute(
                    "SELECT design, scenario, state, executions, seconds, told FROM rows"
                    " ORDER BY position"
                )
            ]
            ticks = db.execute("SELECT at, executions FROM ticks ORDER BY at").fetchall()
        finally:
            db.close()
    rate = 0.0
    if len(ticks) > 1 and ticks[-1][0] > ticks[0][0]:
        rate = (ticks[-1][1] - ticks[0][1]) / (ticks[-1][0] - ticks[0][0])
    running = _held(directory)
    return Glance(directory, facts["septum"], facts.get("command", []), rows, running, rate)


def _held(directory: Path) -> bool:
    """Whether some process holds the lock."""
    try:
        lock = os.open(directory / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.lockf(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False
