# SPDX-License-Identifier: GPL-2.0-only
"""Counterexamples, replayed for printing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from septum.cli.again import replay
from septum.cli.running import file_names
from septum.cli.terminal import painter
from septum.designs import lookup
from septum.kvm.monitors import MONITORS
from septum.report.counterexample import (
    Rule,
    counterexample_text,
    order_sentence,
    story_facts,
    title,
)
from septum.report.fold import BUDGET
from septum.report.html import Code, Told, page, story
from septum.report.layout import WIDTH, Paint, plain
from septum.report.listing import first_sentence
from septum.report.verdicts import summary_line
from septum.scenarios.protocols import find_protocol, is_protocol_row
from septum.scenarios.result import CheckResult, Counterexample, Replay
from septum.scenarios.suite import SCENARIOS

__all__ = ["html_page", "mail_text", "print_counterexamples", "told"]


def mail_text(
    ce: Counterexample,
    again: Replay,
    *,
    path: str,
    width: int = WIDTH,
    everything: bool = False,
    states: bool = False,
    sources: bool = False,
    paint: Paint | None = None,
) -> str:
    """The counterexample with what this version knows of its scenario and rule."""
    return counterexample_text(
        ce,
        again,
        story=SCENARIOS.get(ce.scenario),
        rule=_rule(ce),
        doc=_doc(ce),
        path=path,
        width=width,
        budget=-1 if everything else BUDGET,
        states=states,
        sources=sources,
        paint=paint or painter(),
    )


@dataclass(frozen=True, slots=True)
class _OwnRule:
    """A rule that a protocol names (`septum.explore.Protocol.rules`)."""

    id: str
    statement: str
    source: str


def _rule(ce: Counterexample) -> Rule | None:
    if is_protocol_row(ce.scenario):
        statement = find_protocol(ce.design, ce.scenario).rules.get(ce.finding.rule, "")
        return _OwnRule(ce.finding.rule, statement, ce.scenario) if statement else None
    return MONITORS.get(ce.finding.rule)


def _doc(ce: Counterexample) -> str:
    if ce.kernel:
        return f"the kernel's own C code, content {ce.kernel['content'][:12]}"
    if is_protocol_row(ce.scenario):
        return find_protocol(ce.design, ce.scenario).doc
    return first_sentence(lookup(ce.design).doc)


def print_counterexamples(
    results: Sequence[CheckResult], files: Mapping[tuple[str, str], str]
) -> None:
    """The mail-ready text of every counterexample, each followed by a separator."""
    for r in results:
        if r.counterexample is not None:
            path = files.get((r.design, r.scenario), "")
            all_of_it = (r.counterexample, *r.others)
            for ce, name in zip(all_of_it, file_names(r), strict=True):
                own = str(Path(path).parent / name) if path else ""
                text = mail_text(ce, replay(ce), path=own)
                click.echo(f"{text}\n{'=' * WIDTH}\n")


def told(ce: Counterexample, again: Replay, *, path: str, code: Code) -> Told:
    """The counterexample for the HTML report."""
    scenario = SCENARIOS.get(ce.scenario)
    facts = story_facts(ce, story=scenario, rule=_rule(ce), doc=_doc(ce))
    monitor = MONITORS.get(ce.finding.rule)
    facts.insert(-1, ("example", monitor.example if monitor is not None else ""))
    facts.insert(-1, ("order", order_sentence(ce, again)))
    if scenario is not None:
        facts += [(task.name, "; ".join(op.text for op in task.ops)) for task in scenario.tasks]
    data = story(
        ce,
        again,
        mail=mail_text(ce, again, path=path, paint=plain),
        levels=int(ce.params.get("levels", 4)),
        code=code,
    )
    return Told(title(ce), facts, data, (ce.design, ce.scenario))


def html_page(
    results: Sequence[CheckResult], files: Mapping[tuple[str, str], str], seconds: float
) -> str:
    """The HTML report of a check."""
    code = Code()
    stories = [
        told(
            r.counterexample,
            replay(r.counterexample),
            path=files.get((r.design, r.scenario), ""),
            code=code,
        )
        for r in results
        if r.counterexample is not None
    ]
    return page(
        "septum check",
        results=results,
        told=stories,
        code=code,
        summary=summary_line(results, seconds),
    )
