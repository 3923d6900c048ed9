# SPDX-License-Identifier: GPL-2.0-only
"""Verdicts as JUnit XML, which CI systems show: a suite per scenario, a case per design.

A broken rule is a ``failure``; a search that did not finish, or in which nothing
interesting happened, an ``error``; a design that cannot run the scenario is ``skipped``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from septum.report.verdicts import HYPOTHETICAL, how_earned
from septum.scenarios.result import CheckResult

__all__ = ["junit"]

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(
    results: Sequence[CheckResult], files: Mapping[tuple[str, str], str] | None = None
) -> str:
    """The whole document.

    :param files: saved counterexample of a (design, scenario).
    """
    root = ElementTree.Element("testsuites", _counts(results), name="septum check")
    for scenario in dict.fromkeys(r.scenario for r in results):
        rows = [r for r in results if r.scenario == scenario]
        suite = ElementTree.SubElement(root, "testsuite", _counts(rows), name=_text(scenario))
        for row in rows:
            _case(suite, row, files or {})
    ElementTree.indent(root)
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return head + ElementTree.tostring(root, encoding="unicode") + "\n"


def _case(suite: ElementTree.Element, r: CheckResult, files: Mapping[tuple[str, str], str]) -> None:
    case = ElementTree.SubElement(
        suite,
        "testcase",
        name=_text(r.design),
        classname=_text(f"septum.{r.scenario}"),
        time=f"{r.seconds:.3f}",
    )
    earned = f"{r.verdict}; {how_earned(r)}; memory model {r.memory_model}"
    if r.hypothetical:
        earned += f"; {HYPOTHETICAL}"
    kind = _kind(r)
    if kind == "skipped":
        ElementTree.SubElement(case, kind, message=_text(r.note or "n/a"))
    elif kind:
        why = f"{r.finding.rule}: {r.finding.message}" if r.finding else r.note or r.verdict
        told = ElementTree.SubElement(case, kind, message=_text(why), type=_text(_type(r)))
        path = files.get((r.design, r.scenario))
        told.text = _text(f"{why}\n{earned}" + (f"\nseptum show {path}" if path else ""))
    ElementTree.SubElement(case, "system-out").text = _text(earned)


def _kind(r: CheckResult) -> str:
    """What the case has: failure, error, skipped or (it passed) nothing."""
    if r.verdict == "holds":
        return ""
    return {"violated": "failure", "n/a": "skipped"}.get(r.verdict, "error")


def _type(r: CheckResult) -> str:
    return r.finding.rule if r.finding is not None else r.verdict


def _counts(rows: Sequence[CheckResult]) -> dict[str, str]:
    kinds = [_kind(r) for r in rows]
    return {
        "tests": str(len(rows)),
        "failures": str(kinds.count("failure")),
        "errors": str(kinds.count("error")),
        "skipped": str(kinds.count("skipped")),
        "time": f"{sum(r.seconds for r in rows):.3f}",
    }


def _text(text: str) -> str:
    """Without the characters that XML 1.0 cannot hold."""
    return _NOT_XML.sub("\ufffd", text)
