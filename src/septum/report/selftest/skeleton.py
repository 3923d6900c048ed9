# SPDX-License-Identifier: GPL-2.0-only
"""The C file: the TD is built, each task of the scenario is a thread, and operations that did
not overlap in the counterexample do not overlap in the test.

Userspace decides when an ioctl() begins, no more.  What has to happen inside two of them that
overlap is told in comments, and left to chance and repetition.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Final

from septum.report.counterexample import finding_lines, order_sentence, title
from septum.report.interleaving import interleaving
from septum.report.layout import fill
from septum.report.selftest.calls import NoSelftest, call
from septum.scenarios.model import Scenario, Start
from septum.scenarios.result import Counterexample, Replay

__all__ = ["NoSelftest", "selftest"]

_WIDTH: Final = 84  # of a comment, so that a line stays below checkpatch's 100 columns


@dataclass(frozen=True, slots=True)
class _Operation:
    """One operation of a task, with the steps [begin, end) of the counterexample in which it
    ran."""

    task: int
    text: str
    statement: str
    begin: int
    end: int


def selftest(
    ce: Counterexample,
    replay: Replay,
    story: Scenario | None,
    starts: Mapping[tuple[str, int], int] | None,
) -> str:
    """The whole file.

    :param starts: `septum.scenarios.counterexample.operation_starts`; None if it is not known,
        which only matters where a task has several operations.
    :raises NoSelftest: what of the counterexample no selftest can do.
    """
    if story is None:
        raise NoSelftest(f"{ce.scenario} is no scenario of KVM: no selftest can run it")
    _possible(story)
    if starts is None:
        if any(len(task.ops) > 1 for task in story.tasks):
            raise NoSelftest(
                "of compiled code it is not known where a task's second operation begins"
            )
        starts = {(task.name, 0): 0 for task in story.tasks}
    operations = _operations(story, replay, starts)
    guest = bool(_programs(story))
    parts = {
        "HEADER": _comment(_header(ce, replay, story, guest)),
        "VCPUS": str(story.start.vcpus),
        "BITS": str(ce.params["bits"]),
        "OPS": str(len(operations)),
        "TASKS": str(len(story.tasks)),
        "PAGES": str(story.start.slot_pages),
        "INIT_MEM": _text("source.c.in") if _needs_source(story) else "",
        "GUEST": _text("image.c.in") if guest else "",
        "LOAD": "\tload_image(image);\n" if guest else "",
        "THREADS": "\n".join(_threads(story, operations)),
        "START": "".join(f"\t{line}\n" for line in _start(story.start)),
        "IMAGE_NEEDED": "\tTEST_REQUIRE(image);\t/* -i: see above */\n" if guest else "",
    }
    template = _text("test.c.in")
    return re.sub(r"@([A-Z_]+)@", lambda m: parts[m[1]], template)


def _possible(story: Scenario) -> None:
    start = story.start
    if start.default_vm is not None:
        raise NoSelftest("this skeleton is for TDs; the scenario has an ordinary VM")
    unable = ("before", "huge", "mapped_shared", "shared", "slots", "zero_step")
    for what in unable:
        if getattr(start, what):
            raise NoSelftest(f"no selftest is written for the start state's {what!r}")
    if max(start.folio_level, start.shared_level) > 1:
        raise NoSelftest("the scenario has huge folios: no selftest can ask for them")
    if story.inject is not None or story.interrupts or story.alloc_failures:
        raise NoSelftest("the scenario makes a SEAMCALL or an allocation fail: no selftest can")


def _operations(
    story: Scenario, replay: Replay, starts: Mapping[tuple[str, int], int]
) -> list[_Operation]:
    out = []
    for number, task in enumerate(story.tasks):
        steps = [at for at, e in enumerate(replay.events) if replay.owner(e.task) == number]
        for n, op in enumerate(task.ops):
            first = starts.get((task.name, n), len(replay.events))
            following = starts.get((task.name, n + 1), len(replay.events))
            mine = [at for at in steps if first <= at < following]
            begin, end = (mine[0], mine[-1] + 1) if mine else (first, first)
            out.append(_Operation(number, op.text, call(op, task.vcpu), begin, end))
    return out


def _needs_source(story: Scenario) -> bool:
    ops = {op.name for task in story.tasks for op in task.ops}
    return bool(story.start.built) or "init_mem_region" in ops


def _header(ce: Counterexample, replay: Replay, story: Scenario, guest: bool) -> Iterator[str]:
    yield from fill(f"{title(ce)}: {ce.finding.message}", _WIDTH)
    yield ""
    yield from fill(
        f"Made by septum {ce.septum} from a counterexample of its model. The test repeats the "
        "operations in the order of the counterexample. Userspace can order those that do not "
        "overlap; which steps happen inside two that do is left to chance, so it repeats (-n). "
        "It fails if KVM kills the VM. A rule that KVM does not assert itself is judged by "
        "`septum replay` of a trace recorded meanwhile (`septum record`).",
        _WIDTH,
    )
    if guest:
        yield ""
        yield from fill(
            "The selftests cannot boot a TD, so the guest's part is an image of yours (-i). Each "
            "vCPU enters it with its number in RCX and does, in parts that end with a write to "
            "an I/O port (TDG.VP.VMCALL):",
            _WIDTH,
        )
        for vcpu, parts in sorted(_programs(story).items()):
            yield f"  vCPU {vcpu}: " + "; then ".join(parts)
    yield ""
    yield from fill(order_sentence(ce, replay), _WIDTH)
    yield ""
    yield from interleaving(replay, width=_WIDTH, upto=ce.finding.step)
    yield ""
    yield from finding_lines(replay, width=_WIDTH)


def _programs(story: Scenario) -> dict[int, list[str]]:
    """vCPU -> what its guest does, by parts."""
    out: dict[int, list[str]] = {}
    if story.start.accepted:
        out[0] = [", ".join(f"accept({gfn})" for gfn in story.start.accepted)]
    for task in story.tasks:
        for op in task.ops:
            if op.name == "run_vcpu":
                out.setdefault(task.vcpu, []).append(", ".join(g.text for g in op.guest))
    return out


def _threads(story: Scenario, operations: list[_Operation]) -> Iterator[str]:
    for number, task in enumerate(story.tasks):
        name = _identifier(task.name)
        yield f"static void *{name}(void *unused)"
        yield "{"
        for n, op in enumerate(operations):
            if op.task == number:
                yield from _operation(story, operations, n)
        yield from ("\treturn NULL;", "}", "")
    tasks = ", ".join(_identifier(task.name) for task in story.tasks)
    yield f"static void *(*const task[])(void *) = {{ {tasks} }};"


def _operation(story: Scenario, operations: list[_Operation], n: int) -> Iterator[str]:
    op = operations[n]
    others = [(m, o) for m, o in enumerate(operations) if o.task != op.task]
    beside = [
        f"{story.tasks[o.task].name}'s {o.text}"
        for _, o in others
        if o.begin < op.end and op.begin < o.end
    ]
    said = [f"{op.text}: steps {op.begin} to {op.end - 1}."]
    if beside:
        said.append(f"Cannot be ordered against what it overlaps: {', '.join(beside)}.")
    yield "\t/*"
    for line in fill(" ".join(said), _WIDTH - 8):
        yield f"\t * {line}"
    yield "\t */"
    for task in range(len(story.tasks)):
        before = [m for m, o in others if o.task == task and o.end <= op.begin]
        if before:
            yield f"\twait_for(&ended[{before[-1]}]);"
        overlapped = [m for m, o in others if o.task == task and o.begin < op.begin < o.end]
        if overlapped:
            yield f"\twait_for(&begun[{overlapped[-1]}]);"
    yield f"\tWRITE_ONCE(begun[{n}], true);"
    yield f"\t{op.statement}"
    yield f"\tWRITE_ONCE(ended[{n}], true);"
    yield ""


def _start(start: Start) -> Iterator[str]:
    for gfn in start.built:
        yield f"td_init_mem_region(gpa_of({gfn:#x}), source);"
    if start.finalized:
        yield 'td_ioctl(vm->fd, KVM_TDX_FINALIZE_VM, NULL, "KVM_TDX_FINALIZE_VM");'
    for gfn in start.mapped:
        yield f"pre_fault(vcpus[0], {gfn:#x});"
    if start.accepted:
        yield f"run_image(vcpus[0]);\t/* accepts {', '.join(map(hex, start.accepted))} */"


def _text(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _comment(lines: Iterable[str]) -> str:
    return "\n".join(f" * {line.replace('*/', '* /')}".rstrip() for line in lines)


def _identifier(name: str) -> str:
    return "task_" + re.sub(r"\W", "_", name)
