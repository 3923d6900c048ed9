# SPDX-License-Identifier: GPL-2.0-only
"""An interleaving in the Chrome trace event format, which Perfetto and chrome://tracing
read: a track per task with its kernel functions, a track per lock with its holders.

Time has no meaning in an interleaving: step n is drawn at n * `STEP_US` microseconds.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from septum.machine import Event
from septum.report.counterexample import title
from septum.report.interleaving import calls_of, describe, story_end
from septum.report.locks import holders
from septum.scenarios.result import Counterexample, Replay

__all__ = ["STEP_US", "chrome_trace"]

STEP_US: Final = 10

_TASKS: Final = 1  # process ids: the two groups of tracks
_LOCKS: Final = 2
_FIRST_TID: Final = 11  # Perfetto takes thread ids for global, and 0 and the pids for taken

Json = dict[str, Any]


def chrome_trace(ce: Counterexample, replay: Replay) -> str:
    """The whole document, JSON object format; some steps behind the one that breaks the rule
    it ends."""
    end = story_end(replay, ce.finding.step)
    kept = [f for f in replay.findings if f.task < 0 or f.step < end]
    replay = dataclasses.replace(replay, events=replay.events[:end], findings=kept)
    events = [
        _name("process_name", _TASKS, _TASKS, title(ce)),
        _name("process_name", _LOCKS, _LOCKS, "locks"),
        *(_name("thread_name", _TASKS, _tid(t), name) for t, name in enumerate(replay.task_names)),
        # A slice before those inside it: that is how readers nest slices that begin at once.
        *sorted([*_calls(replay), *_steps(replay)], key=lambda e: (e["ts"], -e["dur"])),
        *_holders(replay),
        *_pair(replay),
        *_findings(replay),
    ]
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}, indent=1) + "\n"


def _tid(task: int) -> int:
    return _FIRST_TID + task


def _name(kind: str, pid: int, tid: int, name: str) -> Json:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}


def _calls(replay: Replay) -> Iterator[Json]:
    """A slice per call, from its first step to its last one."""
    for task in range(len(replay.task_names)):
        mine = [(at, e) for at, e in enumerate(replay.events) if e.task == task]
        open_: list[tuple[str, int]] = []
        last = 0
        for at, event in [*mine, (-1, None)]:
            stack: Sequence[str] = calls_of(event) if event is not None else ()
            common = 0
            while common < min(len(stack), len(open_)) and stack[common] == open_[common][0]:
                common += 1
            closed = [_slice(task, name, begun, last + 1) for name, begun in open_[common:]]
            yield from closed
            open_ = [*open_[:common], *((name, at) for name in stack[common:])]
            last = at


def _slice(task: int, name: str, begun: int, end: int) -> Json:
    return {
        "ph": "X",
        "name": name,
        "cat": "call",
        "pid": _TASKS,
        "tid": _tid(task),
        "ts": begun * STEP_US,
        "dur": (end - begun) * STEP_US,
    }


def _steps(replay: Replay) -> Iterator[Json]:
    """A slice per step, inside that of the function that made it."""
    for at, event in enumerate(replay.events):
        args: Json = {"step": at, "told": list(replay.traces.get(at, ()))}
        if event.where is not None:
            function, path, line = event.where
            args["source"] = f"{function} {'/'.join(path.split('/')[-2:])}:{line}"
        yield {
            "ph": "X",
            "name": describe(event, replay.traces.get(at, ())),
            "cat": "step",
            "pid": _TASKS,
            "tid": _tid(event.task),
            "ts": at * STEP_US + 1,
            "dur": STEP_US - 2,
            "args": args,
        }


def _holders(replay: Replay) -> Iterator[Json]:
    """An asynchronous slice per holder of a lock: shared holders overlap."""
    for n, held in enumerate(holders(replay.events)):
        args = {"holder": replay.task_names[held.task], "mode": held.mode}
        yield _async("b", held.lock, n, held.begin * STEP_US + 1, args)
        yield _async("e", held.lock, n, held.end * STEP_US - 1, {})


def _async(phase: str, lock: str, id_: int, ts: int, args: Json) -> Json:
    return {
        "ph": phase,
        "name": lock,
        "cat": "lock",
        "id2": {"local": str(id_)},  # of this process, not of all
        "pid": _LOCKS,
        "tid": _LOCKS,
        "ts": ts,
        "args": args,
    }


def _pair(replay: Replay) -> Iterator[Json]:
    """An arrow from the first step of the racing pair to the second."""
    if replay.pair is None:
        return
    for phase, at in zip(("s", "f"), replay.pair, strict=True):
        event: Event = replay.events[at]
        arrow: Json = {
            "ph": phase,
            "name": "racing pair",
            "cat": "race",
            "id": 0,
            "pid": _TASKS,
            "tid": _tid(event.task),
            "ts": at * STEP_US + 2,
        }
        yield arrow | ({"bp": "e"} if phase == "f" else {})


def _findings(replay: Replay) -> Iterator[Json]:
    for finding in replay.findings:
        at = len(replay.events) if finding.task < 0 else finding.step
        yield {
            "ph": "i",
            "s": "g",
            "name": f"{finding.rule}: {finding.message}",
            "cat": "finding",
            "pid": _TASKS,
            "tid": _tid(max(finding.task, 0)),
            "ts": at * STEP_US + STEP_US // 2,
        }
