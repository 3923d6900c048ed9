# SPDX-License-Identifier: GPL-2.0-only
"""A counterexample as text that can be pasted into a mail.

In this order: what was checked and which rule broke, what each task does, the
interleaving, the order that breaks the rule, every finding, the command that replays it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from septum.machine import Finding
from septum.report.fold import BUDGET
from septum.report.interleaving import describe, function_of, interleaving, legend
from septum.report.layout import WIDTH, Paint, clean, command, facts, fill, number, plain
from septum.report.states import table_names
from septum.scenarios.model import Inject, Scenario, Start
from septum.scenarios.result import Counterexample, Replay
from septum.tdx.profiles import find_profile

__all__ = [
    "Rule",
    "counterexample_text",
    "finding_lines",
    "inject_text",
    "order_sentence",
    "parameters",
    "reproduced",
    "start_text",
    "story_facts",
    "task_table",
    "title",
]


class Rule(Protocol):
    """What is told of a monitor (a class of `septum.kvm.monitors`)."""

    @property
    def id(self) -> str: ...
    @property
    def statement(self) -> str: ...
    @property
    def source(self) -> str: ...


_NOT_MONITORS = {
    "BUG": "the kernel asserts this with KVM_BUG_ON(), TDX_BUG_ON() or BUG()",
    "WARN": "the kernel asserts this with WARN_ON()",
    "DEADLOCK": "every unfinished task waits for a lock",
    "STUCK": "a task waits for what no other task will change",
    "LIVELOCK": "tasks go round for ever in a cycle of states, although the schedule is fair",
    "RACE": "two unordered accesses, one of them a write, one of them plain",
    "EXCEPTION": "the code of the design or of the model raised a Python exception",
}


def counterexample_text(
    ce: Counterexample,
    replay: Replay,
    *,
    story: Scenario | None = None,
    rule: Rule | None = None,
    path: str = "",
    doc: str = "",
    width: int = WIDTH,
    budget: int = BUDGET,
    states: bool = False,
    sources: bool = False,
    paint: Paint = plain,
) -> str:
    """The whole text.

    :param story: the scenario, if this version of septum knows it.
    :param rule: the monitor of the finding, if a monitor reported it.
    :param path: the counterexample's file, for the replay command.
    :param doc: the design in one line.
    """
    broken = ce.finding.rule
    verb = "breaks" if reproduced(ce, replay) else "no longer breaks"
    lines = fill(
        f"{clean(ce.design)} {verb} {clean(broken)} in scenario {clean(ce.scenario)}", width
    )
    lines.append("")
    lines += facts(story_facts(ce, story=story, rule=rule, doc=doc), width=width)
    if story is not None:
        lines += ["", *task_table(story, width=width)]
    table = interleaving(
        replay,
        width=width,
        upto=ce.finding.step,
        budget=budget,
        paint=paint,
        states=states,
        sources=sources,
    )
    lines += ["", *table, ""]
    folded = any("step)" in line or "steps)" in line for line in table)
    lines += fill(legend(replay, folded), width)
    tables = ", ".join(f"{name} is {where}" for name, where in table_names(replay).items())
    if tables:
        lines += fill(f"Mirror tables: {tables}", width, rest="  ")
    lines += ["", *fill(order_sentence(ce, replay), width)]
    lines += ["", *finding_lines(replay, width=width)]
    if path:
        lines += ["", "Replay:", *command(["septum", "show", path], width=width)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def story_facts(
    ce: Counterexample, *, story: Scenario | None, rule: Rule | None, doc: str
) -> list[tuple[str, str]]:
    """What is said before the interleaving: name and text, empty where there is nothing."""
    return [
        ("design", doc if doc.startswith(ce.design) else f"{ce.design}: {doc}".rstrip(": ")),
        ("scenario", f"{ce.scenario}: {story.summary}" if story is not None else ce.scenario),
        ("question", story.question if story is not None else ""),
        ("start", start_text(story.start) if story is not None else ""),
        ("injected", inject_text(story) if story is not None else ""),
        ("parameters", parameters(ce.params)),
        ("rule", f"{ce.finding.rule}: {_statement(ce.finding.rule, rule)}"),
        ("source", rule.source if rule is not None else ""),
        ("finding", ce.finding.message),
        ("model", _model(ce)),
    ]


def title(ce: Counterexample) -> str:
    """What it shows, in one line."""
    return clean(f"{ce.design} breaks {ce.finding.rule} in {ce.scenario}")


def task_table(story: Scenario, *, width: int = WIDTH) -> list[str]:
    """What each task does, from its first operation on."""
    names = [clean(task.name) for task in story.tasks]
    column = min(max([len(n) for n in names] + [4]), 24)
    lines = [f"  {'task':<{column}}  operations", f"  {'-' * column}  {'-' * 10}"]
    for name, task in zip(names, story.tasks, strict=True):
        text = clean("; ".join(op.text for op in task.ops)) or "nothing"
        first = f"  {name:<{column}}  "
        lines += fill(text, width, first=first, rest=" " * (column + 4))
    return lines


def start_text(start: Start) -> str:
    """The state in which the tasks begin."""
    parts = [number(start.vcpus, "vCPU"), number(start.slot_pages, "page")]
    if not start.finalized:
        parts.append("TD not finalized")
    for what in ("built", "mapped", "accepted", "huge", "huge_accepted"):
        gfns = getattr(start, what)
        if gfns:
            name = what.replace("_", ", ")
            parts.append(f"{name}: gfn {', '.join(f'{gfn:x}' for gfn in gfns)}")
    if start.folio_level > 1:
        parts.append(f"guest_memfd folios of level {start.folio_level}")
    for vcpu, gfn in start.zero_step:
        parts.append(f"vCPU {vcpu} about to zero-step at gfn {gfn:x}")
    return "; ".join(parts)


def inject_text(scenario: Scenario) -> str:
    """What the environment may make fail."""
    inject: Inject | None = scenario.inject
    parts = []
    if inject is not None:
        parts.append(
            f"{' or '.join(inject.leafs)} may fail with {' or '.join(inject.statuses)}, "
            f"{number(inject.budget, 'time')} per execution"
        )
    if scenario.interrupts:
        parts.append(f"{number(scenario.interrupts, 'pending interrupt')} in the module")
    if scenario.alloc_failures:
        parts.append(f"{number(scenario.alloc_failures, 'allocation')} may fail")
    return "; ".join(parts)


def order_sentence(ce: Counterexample, replay: Replay) -> str:
    """Which order breaks the rule."""
    rule = clean(ce.finding.rule)
    if not reproduced(ce, replay):
        return f"This version of septum does not find {rule} on this schedule."
    if replay.pair is not None:
        first, second = replay.pair
        return (
            f"Steps {first} ({_who(replay, first)}) and {second} ({_who(replay, second)}) race: "
            f"{first} before {second} breaks {rule}, {second} before {first} keeps it."
        )
    until = ce.finding.step
    tasks = {replay.owner(event.task) for event in replay.events[: until + 1]}
    if ce.finding.task >= 0 and len(tasks) == 1:
        name = clean(replay.task_names[next(iter(tasks))])
        return f"Only {name} has run by then: {rule} breaks without any race."
    return (
        f"No racing pair is marked: {rule} does not depend on the order of one pair of steps alone."
    )


def finding_lines(replay: Replay, *, width: int = WIDTH) -> list[str]:
    """Every finding with the step at which it was made."""
    lines = ["Findings, in order:"]
    for finding in replay.findings:
        first = f"  {clean(finding.rule)}: "
        text = f"{clean(finding.message)} ({_when(replay, finding)})"
        lines += fill(text, width, first=first, rest="      ")
    if not replay.findings:
        lines.append("  none")
    return lines


def reproduced(ce: Counterexample, replay: Replay) -> bool:
    """Whether the replay breaks the rule that the counterexample says."""
    return any(finding.rule == ce.finding.rule for finding in replay.findings)


def parameters(params: Mapping[str, object]) -> str:
    """``a=1 b=2``."""
    return " ".join(f"{name}={value}" for name, value in params.items())


def _when(replay: Replay, finding: Finding) -> str:
    if finding.task < 0 or not 0 <= finding.task < len(replay.task_names):
        return "judged after all tasks had finished"
    return f"step {finding.step}, {clean(replay.task_names[finding.task])}"


def _who(replay: Replay, at: int) -> str:
    event = replay.events[at]
    told = replay.traces.get(at, ())
    text = f"{clean(replay.task_names[event.task])}, {clean(describe(event, told))}"
    function = function_of(event)
    return f"{text} in {function}()" if function else text


def _statement(broken: str, rule: Rule | None) -> str:
    if rule is not None:
        return rule.statement
    kind, _, function = broken.partition(":")
    text = _NOT_MONITORS.get(kind, "no such rule in this version of septum")
    return f"{function}(): {text}" if function else text


def _model(ce: Counterexample) -> str:
    parts = [f"memory model {ce.memory_model}"]
    if ce.profile:
        profile = find_profile(ce.profile)
        parts.append(f"TDX Module profile {profile or clean(ce.profile)}")
    parts.append(f"recorded by septum {ce.septum}")
    return ", ".join(parts)
