# SPDX-License-Identifier: GPL-2.0-only
"""Counterexamples as files: versioned JSON, replayed step by step.

Replay decides.  A file recorded by another version is replayed all the same; the first
step whose label differs is named, and `Diverged` says what to do.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from septum import __version__
from septum.explore.minimise import deciding_race
from septum.explore.result import Found
from septum.machine import MEMORY_MODELS, Decision, Event, Execution, Finding, Limits, Policy
from septum.scenarios.build import Built, build
from septum.scenarios.protocols import BuiltProtocol, build_protocol, is_protocol_row
from septum.scenarios.result import Counterexample, Replay
from septum.scenarios.subject import Recordable

__all__ = [
    "FORMAT",
    "BadCounterexample",
    "Diverged",
    "check_tasks",
    "label",
    "load",
    "operation_starts",
    "rebuild",
    "record",
    "replay",
    "replay_on",
    "run_traced",
    "save",
    "script",
    "script_of",
    "states_along",
]

FORMAT = 1
_KEYS = {
    "format": int,
    "septum": str,
    "design": str,
    "scenario": str,
    "params": dict,
    "geometry": dict,
    "profile": str,
    "memory_model": str,
    "finding": dict,
    "decisions": list,
}
_KERNEL = {"version": str, "content": str, "tree": str, "words": list}


class BadCounterexample(ValueError):
    """A counterexample file that cannot be used: what is wrong, where, what to do."""


class Diverged(ValueError):
    """A schedule that the program no longer follows: names the first divergent step."""


def label(event: Event, names: list[str]) -> tuple[str, str, str, str]:
    """(task, function, operation, object) of a traced event."""
    function = event.where[0] if event.where else ""
    return (names[event.task], function, event.op, event.obj)


def run_traced(
    built: Recordable, decisions: list[Decision]
) -> tuple[Execution, dict[int, list[str]]]:
    """Execute a schedule with source locations and the model's own messages."""
    machine = built.machine
    told: dict[int, list[str]] = {}

    def listen(what: str, args: tuple[Any, ...]) -> None:
        text = built.describe(what, args) if machine.exploring else ""  # not the epilogue
        if text:
            told.setdefault(len(machine.log) - 1, []).append(text)

    machine.listeners.append(listen)
    machine.tracing = True
    try:
        execution = built.program.run(decisions)
    finally:
        machine.tracing = False
        machine.listeners.remove(listen)
    return execution, told


def record(built: Recordable, found: Found) -> Counterexample:
    """A found schedule with its labels, cut behind the step that breaks the rule."""
    execution, _ = run_traced(built, found.decisions)
    names = built.program.task_names
    last = found.finding.step + 1
    return Counterexample(
        design=built.design_name,
        scenario=built.scenario_name,
        params=built.params,
        profile=built.params.get("profile", ""),
        memory_model=built.machine.memory_model,
        decisions=tuple(execution.decisions[:last]),
        labels=tuple(label(e, names) for e in execution.events[:last]),
        finding=found.finding,
        septum=__version__,
        geometry={key: built.params[key] for key in ("bits", "levels") if key in built.params},
        kernel=built.origin,
        retries=built.machine.retries_allowed,
    )


def rebuild(ce: Counterexample) -> Built | BuiltProtocol:
    """What the counterexample was recorded on, as this version makes it.

    :raises DesignError, UnknownScenario, BadParameter, StartError: it cannot.
    """
    built: Built | BuiltProtocol
    if is_protocol_row(ce.scenario):
        built = build_protocol(ce.design, ce.scenario, ce.memory_model)
    else:
        built = build(ce.design, ce.scenario, ce.params, memory_model=ce.memory_model)
    built.machine.retries_allowed = ce.retries
    return built


def save(ce: Counterexample, path: Path) -> None:
    """Write the file (docs/schemas/counterexample.json)."""
    finding = {
        "id": ce.finding.rule,
        "message": ce.finding.message,
        "step": ce.finding.step,
        "task": ce.finding.task,
        "object": ce.finding.obj,
    }
    if ce.finding.since >= 0:
        finding["since"] = ce.finding.since
    data: dict[str, Any] = {
        "format": FORMAT,
        "septum": ce.septum,
        "design": ce.design,
        "scenario": ce.scenario,
        "params": dict(ce.params),
        "geometry": dict(ce.geometry),
        "profile": ce.profile,
        "memory_model": ce.memory_model,
        "retries": ce.retries,
        "finding": finding,
        "decisions": [
            [d.task, d.choice, *words] for d, words in zip(ce.decisions, ce.labels, strict=True)
        ],
    }
    if ce.kernel:
        data["kernel"] = dict(ce.kernel)
    lines = json.dumps(data, indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(lines + "\n")


def load(path: Path) -> Counterexample:
    """Read a file.

    :raises BadCounterexample: what is wrong and where.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise BadCounterexample(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadCounterexample(f"{path}: not a counterexample file: it is not text") from None
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        if not text.lstrip().startswith("{"):
            raise BadCounterexample(
                f"{path}:1:1: not a counterexample file: a JSON object was expected"
            ) from None
        raise BadCounterexample(
            f"{path}:{error.lineno}:{error.colno}: not complete JSON ({error.msg}); the file is "
            "cut or was edited: save it again with `septum check --save DIR`"
        ) from None
    if not isinstance(data, dict):
        raise BadCounterexample(f"{path}: not a counterexample file: a JSON object was expected")
    for key, kind in _KEYS.items():
        if key not in data:
            raise BadCounterexample(f"{path}: not a counterexample file: {key!r} is missing")
        if not isinstance(data[key], kind) or isinstance(data[key], bool):
            raise BadCounterexample(f"{path}: {key!r} should be a JSON {kind.__name__}")
    if data["format"] > FORMAT:
        raise BadCounterexample(
            f"{path}: format {data['format']} is newer than this septum reads ({FORMAT}): take a "
            "newer septum"
        )
    if data["memory_model"] not in MEMORY_MODELS:
        raise BadCounterexample(
            f"{path}: memory model {data['memory_model'][:20]!r}; this septum knows "
            f"{' and '.join(MEMORY_MODELS)}"
        )
    decisions, labels = _decisions(path, data["decisions"])
    finding = data["finding"]
    for key in ("id", "message", "step"):
        if key not in finding:
            raise BadCounterexample(f"{path}: finding: {key!r} is missing")
    for key in ("step", "since", "task"):
        if type(finding.get(key, -1)) is not int:
            raise BadCounterexample(f"{path}: finding: {key!r} should be a number")
    if not isinstance(data.get("retries", 0), int):
        raise BadCounterexample(f"{path}: 'retries' should be a number")
    return Counterexample(
        design=data["design"],
        scenario=data["scenario"],
        params=data["params"],
        profile=data["profile"],
        memory_model=data["memory_model"],
        decisions=decisions,
        labels=labels,
        finding=Finding(
            str(finding["id"]),
            str(finding["message"]),
            finding["step"],
            finding.get("task", -1),
            str(finding.get("object", "")),
            finding.get("since", -1),
        ),
        septum=data["septum"],
        geometry=data["geometry"],
        kernel=_kernel(path, data.get("kernel", {})),
        retries=data.get("retries", 0),
    )


def _kernel(path: Path, data: Any) -> dict[str, Any]:
    """Where compiled code comes from; empty for designs."""
    if not isinstance(data, dict):
        raise BadCounterexample(f"{path}: 'kernel' should be a JSON object")
    for key, kind in _KERNEL.items() if data else ():
        if not isinstance(data.get(key), kind):
            raise BadCounterexample(f"{path}: kernel: {key!r} should be a JSON {kind.__name__}")
    if not all(isinstance(word, str) for word in data.get("words", ())):
        raise BadCounterexample(f"{path}: kernel: 'words' should be texts")
    return data


def _decisions(
    path: Path, rows: list[Any]
) -> tuple[tuple[Decision, ...], tuple[tuple[str, str, str, str], ...]]:
    decisions: list[Decision] = []
    labels: list[tuple[str, str, str, str]] = []
    for n, row in enumerate(rows):
        good = (
            isinstance(row, list)
            and len(row) == 6
            and all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in row[:2])
            and all(isinstance(v, str) for v in row[2:])
        )
        if not good:
            raise BadCounterexample(
                f"{path}: decisions[{n}] should be [task, choice, task name, function, operation, "
                f"object], not {json.dumps(row)[:60]}"
            )
        decisions.append(Decision(row[0], row[1]))
        labels.append((row[2], row[3], row[4], row[5]))
    return tuple(decisions), tuple(labels)


def script_of(ce: Counterexample) -> Policy:
    """A counterexample's schedule as a script."""
    ops = [op for _, _, op, _ in ce.labels]
    return script(list(zip(ce.decisions, ops, strict=True)))


def script(schedule: Sequence[tuple[Decision, str]]) -> Policy:
    """Decisions with their operations as a script.  Choices are no decisions of who runs."""
    tasks: list[int] = []
    choices: dict[int, list[int]] = {}
    for decision, op in schedule:
        if op == "choose":
            choices.setdefault(decision.task, []).append(decision.choice)
        else:
            tasks.append(decision.task)
    count = max(tasks, default=0) + 1
    return Policy(
        "script",
        script=tuple(tasks),
        choices=tuple(tuple(choices.get(task, ())) for task in range(count)),
    )


def replay(ce: Counterexample, *, states: bool = False) -> Replay:
    """Run a counterexample of a design or a protocol again.

    :param states: also keep both trees after every step (`Replay.states`).
    :raises Diverged: the schedule no longer fits the program.
    """
    built = rebuild(ce)
    check_tasks(built, ce)
    kept = states_along(rebuild(ce), script_of(ce)) if states else {}
    return replay_on(built, ce, kept)


def check_tasks(built: Recordable, ce: Counterexample) -> None:
    """:raises Diverged: the schedule names a task that does not exist."""
    names = built.program.task_names
    for n, decision in enumerate(ce.decisions):
        if decision.task >= len(names):
            raise Diverged(f"step {n}: there is no task {decision.task} in {ce.scenario}")


def replay_on(built: Recordable, ce: Counterexample, kept: dict[int, Any]) -> Replay:
    """The same on a program that stands.

    :param kept: what `states_along` gave.
    """
    names = built.program.task_names
    built.machine.retries_allowed = ce.retries
    execution, told = run_traced(built, list(ce.decisions))
    for n, (event, was) in enumerate(zip(execution.events, ce.labels, strict=False)):
        now = label(event, names)
        if now[0] != was[0] or now[2:] != was[2:]:
            raise Diverged(
                f"step {n}: recorded {' '.join(was)}, now {' '.join(now)}"
                f"{_other_version(ce)}{_search(ce)}"
            )
    if execution.status == "diverged":
        raise Diverged(f"{execution.diverged}{_other_version(ce)}{_search(ce)}")
    pair = None
    broken = next((f for f in execution.findings if f.rule == ce.finding.rule), None)
    if broken is not None and broken.since < 0:  # a cycle hangs on no single pair
        found = Found(broken, execution.decisions)
        pair = deciding_race(built.program, len(names), found, Limits())
    buffers = built.program.actors - len(built.program.bodies)
    return Replay(execution.events, names, execution.findings, pair, told, kept, buffers)


def states_along(built: Recordable, policy: Policy) -> dict[int, Any]:
    """The state after every step (-1: before the first) of a schedule.

    Looking widens footprints, so ``built`` is for this run alone; the schedule is a
    script, because only then the machine asks before every step.
    """
    machine = built.machine
    kept: dict[int, Any] = {}

    def look() -> bool:
        kept[len(machine.log) - 1] = built.snapshot()
        return True

    def listen(what: str, args: tuple[Any, ...]) -> None:
        if machine.exploring:  # not the epilogue
            look()  # the last step has nothing behind it

    machine.state_hook = look
    machine.listeners.append(listen)
    try:
        built.program.run((), (), policy)
    finally:
        machine.state_hook = None
        machine.listeners.remove(listen)
    return kept


def operation_starts(ce: Counterexample) -> dict[tuple[str, int], int]:
    """(task, number of its operation) -> how many steps of all tasks precede its code, in a
    counterexample of a design."""
    built = rebuild(ce)
    machine = built.machine
    starts: dict[tuple[str, int], int] = {}

    def listen(what: str, args: tuple[Any, ...]) -> None:
        if what == "operation":
            starts[args] = len(machine.log)

    machine.listeners.append(listen)
    built.program.run(list(ce.decisions))
    return starts


def _other_version(ce: Counterexample) -> str:
    if ce.septum != __version__:
        return f" (recorded by septum {ce.septum}, this is {__version__})"
    return ""


def _search(ce: Counterexample) -> str:
    words = "kernel check --linux TREE" if ce.kernel else "check"
    return f"; search near it with `septum {words} --from FILE`"
