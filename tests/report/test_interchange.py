# SPDX-License-Identifier: GPL-2.0-only
"""KTAP, JUnit XML and the Chrome trace of an interleaving, read back by others."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import report_samples
from junitparser import Error, Failure, JUnitXml, Skipped
from report_golden import check_golden

from septum.report.chrome_trace import STEP_US, chrome_trace
from septum.report.junit import junit
from septum.report.ktap import ktap
from septum.scenarios.result import CheckResult

ROWS = report_samples.results()
FILES = {("v7.3+reread-sptep", "two-faults"): "out/ce.json"}


def test_ktap_text() -> None:
    check_golden("ktap", ktap(ROWS, FILES))


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.verdict)
def test_ktap_takes_nothing_but_holds_for_a_pass(row: CheckResult) -> None:
    result = re.findall(r"^  (ok|not ok) 1 (.*)$", ktap([row]), re.M)
    passed = row.verdict in ("holds", "n/a")
    assert [status for status, _ in result] == ["ok" if passed else "not ok"]
    assert ("# SKIP" in result[0][1]) == (row.verdict == "n/a")


def test_ktap_plans_count_their_tests() -> None:
    lines = ktap(ROWS).splitlines()
    for indent in ("", "  "):
        planned = [int(n) for n in re.findall(rf"^{indent}1\.\.(\d+)$", "\n".join(lines), re.M)]
        results = [li for li in lines if re.match(rf"{indent}(not )?ok \d", li)]
        assert sum(planned) == len(results) > 0


def test_a_name_cannot_begin_a_directive() -> None:
    hostile = replace(ROWS[0], design="v7.3 # SKIP\nok 9 everything")
    results = [li for li in ktap([hostile]).splitlines() if "ok" in li.split()[:2]]
    assert len(results) == 2 and not any("# SKIP" in line for line in results)


def test_junit_as_junitparser_reads_it() -> None:
    suites = JUnitXml.fromstring(junit(ROWS, FILES).encode())
    assert (suites.tests, suites.failures, suites.errors, suites.skipped) == (7, 1, 4, 1)
    kinds = {(s.name, c.name): [type(r) for r in c.result] for s in suites for c in s}
    assert kinds["two-faults", "v7.3"] == []
    assert kinds["two-faults", "v7.3+reread-sptep"] == [Failure]
    assert kinds["split", "v7.3"] == [Skipped]
    assert kinds["zap", "v7.3+reread-sptep"] == [Error]
    (failure,) = next(c for s in suites for c in s if c.is_failure).result
    assert failure.type == "I1" and "septum show out/ce.json" in failure.text


def test_junit_survives_what_xml_cannot_hold() -> None:
    suites = JUnitXml.fromstring(junit([replace(ROWS[6], note="cut\x00 <at> \ud800")]).encode())
    assert "<at>" in next(c for s in suites for c in s).result[0].message


def test_chrome_trace_has_a_track_per_task_and_lock() -> None:
    replay = report_samples.replayed()
    events = json.loads(chrome_trace(report_samples.counterexample(), replay))["traceEvents"]
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert list(names.values()) == replay.task_names
    steps = [e for e in events if e.get("cat") == "step"]
    assert [(names[e["tid"]], e["ts"] // STEP_US) for e in steps] == [
        (replay.task_names[event.task], at) for at, event in enumerate(replay.events)
    ]
    begun = [e for e in events if e["ph"] == "b"]
    ended = {e["id2"]["local"]: e["ts"] for e in events if e["ph"] == "e"}
    assert [(e["name"], e["args"]["holder"]) for e in begun] == [
        ("mmu_lock", "vcpu0"),
        ("mmu_lock", "vcpu1"),
    ]
    assert all(ended[e["id2"]["local"]] > e["ts"] for e in begun)
    arrow = [(e["ph"], e["ts"] // STEP_US) for e in events if e.get("cat") == "race"]
    assert arrow == [("s", replay.pair[0]), ("f", replay.pair[1])] if replay.pair else not arrow


def test_chrome_trace_slices_of_a_task_nest_in_the_order_written() -> None:
    """Perfetto drops a slice that is written after one inside it that begins at once."""
    events = json.loads(chrome_trace(report_samples.counterexample(), report_samples.replayed()))[
        "traceEvents"
    ]
    tasks = {e["tid"] for e in events if e["name"] == "thread_name"}
    for task in tasks:
        open_: list[int] = []
        latest = 0
        for e in (e for e in events if e["ph"] == "X" and e["tid"] == task):
            begin, end = e["ts"], e["ts"] + e["dur"]
            assert begin >= latest
            while open_ and open_[-1] <= begin:
                open_.pop()
            assert not open_ or end <= open_[-1], "slices overlap without nesting"
            open_.append(end)
            latest = begin


def test_chrome_trace_threads_are_of_one_process() -> None:
    """Perfetto takes thread ids for global, and 0 for no thread."""
    events = json.loads(chrome_trace(report_samples.counterexample(), report_samples.replayed()))[
        "traceEvents"
    ]
    processes = {e["tid"]: e["pid"] for e in events}
    assert 0 not in processes
    assert all(processes[e["tid"]] == e["pid"] for e in events)
