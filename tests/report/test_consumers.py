# SPDX-License-Identifier: GPL-2.0-only
"""What other programs read is read by them: KTAP, Chrome traces, Graphviz."""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import report_samples
from jsonschema import Draft202012Validator, ValidationError
from tap.parser import Parser

from septum.report.chrome_trace import chrome_trace
from septum.report.dot import NoTrees, order_dot, trees_dot
from septum.report.ktap import ktap
from septum.scenarios.counterexample import load, replay
from septum.scenarios.result import Counterexample, Replay
from septum.tdx import sept

ROOT = Path(__file__).parents[2]
KUNIT = Path(os.environ.get("SEPTUM_LINUX") or "/nowhere") / "tools/testing/kunit"
ROWS = report_samples.results()
PASSED = {"holds": "ok", "n/a": "ok"}


def tap_results(text: str) -> tuple[int, list[tuple[str, bool, bool]]]:
    """The plan, and (name, passed, skipped) of each test, as tap.py reads one level."""
    lines = list(Parser().parse_text(text))
    (plan,) = (line for line in lines if line.category == "plan")
    tests = [line for line in lines if line.category == "test"]
    assert [int(test.number) for test in tests] == list(range(1, len(tests) + 1))
    return plan.expected_tests, [(t.description.strip(), t.ok, t.skip) for t in tests]


def test_tap_py_reads_the_outer_tests() -> None:
    planned, tests = tap_results(ktap(ROWS))
    assert planned == 3
    assert tests == [("two-faults", False, False), ("zap", False, False), ("split", False, False)]


def test_tap_py_reads_each_subtest_as_a_document_of_its_own() -> None:
    blocks = re.findall(r"(?:^  .*\n)+", ktap(ROWS), re.M)
    read: dict[tuple[str, str], tuple[bool, bool]] = {}
    for block in blocks:
        (scenario,) = re.findall(r"# Subtest: (.*)", block)
        planned, tests = tap_results(textwrap.dedent(block))
        assert planned == len(tests)
        read |= {(design, scenario): (ok, skip) for design, ok, skip in tests}
    assert read == {(r.design, r.scenario): (r.verdict in PASSED, r.verdict == "n/a") for r in ROWS}


@pytest.mark.skipif(not KUNIT.is_dir(), reason="no kernel tree: set SEPTUM_LINUX to one")
def test_the_kernels_own_parser_counts_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(KUNIT))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    kunit_parser = importlib.import_module("kunit_parser")
    kunit_printer = importlib.import_module("kunit_printer")
    text = ktap(ROWS).splitlines()
    told = io.StringIO()
    root = kunit_parser.parse_run_tests(text, kunit_printer.Printer(output=told))
    assert root.counts.errors == 0, told.getvalue()
    assert (root.counts.passed, root.counts.failed, root.counts.skipped) == (1, 5, 1)
    names = {
        (sub.name, test.name): sub.status.name for test in root.subtests for sub in test.subtests
    }
    wanted = {"holds": "SUCCESS", "n/a": "SKIPPED"}
    assert names == {(r.design, r.scenario): wanted.get(r.verdict, "FAILURE") for r in ROWS}


# --- Chrome traces ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def example() -> tuple[Counterexample, Replay]:
    ce = load(ROOT / "docs/examples/reread-sptep.json")
    return ce, replay(ce, states=True)


def trace_event_validator() -> Draft202012Validator:
    schema = json.loads((ROOT / "tests/data/trace-event-format.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def trace_of(ce: Counterexample, again: Replay) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(chrome_trace(ce, again))
    return document


def test_chrome_trace_follows_the_trace_event_format(
    example: tuple[Counterexample, Replay],
) -> None:
    validator = trace_event_validator()
    for document in (
        trace_of(*example),
        trace_of(report_samples.counterexample(), report_samples.replayed()),
    ):
        validator.validate(document)
        phases = {event["ph"] for event in document["traceEvents"]}
        assert phases >= {"M", "X", "b", "e", "i"}


@pytest.mark.parametrize(
    ("phase", "wrong"),
    [("X", {"dur": -1}), ("b", {"id2": {}}), ("i", {"s": "x"}), ("M", {"pid": ""})],
)
def test_the_schema_of_traces_refuses_what_is_wrong(phase: str, wrong: dict[str, Any]) -> None:
    document = trace_of(report_samples.counterexample(), report_samples.replayed())
    next(e for e in document["traceEvents"] if e["ph"] == phase).update(wrong)
    with pytest.raises(ValidationError):
        trace_event_validator().validate(document)


def test_chrome_trace_calls_are_kernel_functions(example: tuple[Counterexample, Replay]) -> None:
    calls = {e["name"] for e in trace_of(*example)["traceEvents"] if e.get("cat") == "call"}
    assert calls >= {"kvm_mmu_do_page_fault", "kvm_tdp_mmu_map", "__tdp_mmu_set_spte_atomic"}
    machinery = {"body", "<lambda>", "phase", "__init__", "next", "try_cmpxchg", "restart"}
    assert not calls & machinery


def test_a_livelock_ends_its_chrome_trace(example: tuple[Counterexample, Replay]) -> None:
    """Its events go on to the limit of steps; nobody wants to see them."""
    ce, again = example
    endless = Replay(
        again.events + again.events[:1] * 5000, again.task_names, again.findings, again.pair
    )
    steps = [e for e in trace_of(ce, endless)["traceEvents"] if e.get("cat") == "step"]
    assert ce.finding.step < len(steps) < ce.finding.step + 100


# --- Graphviz ---------------------------------------------------------------------------------


def drawn(text: str) -> dict[str, list[str]]:
    """Nodes and edges of Graphviz's drawing: title -> texts."""
    svg = subprocess.run(
        ["dot", "-Tsvg"], input=text, capture_output=True, text=True, check=True, timeout=60
    )
    assert svg.stderr == ""
    space = "{http://www.w3.org/2000/svg}"
    out = {}
    for group in ElementTree.fromstring(svg.stdout).iter(f"{space}g"):
        if group.get("class") in ("node", "edge", "cluster"):
            title = group.findtext(f"{space}title") or ""
            out[title] = [t.text or "" for t in group.iter(f"{space}text")]
    return out


graphviz = pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")


def test_trees_name_what_differs(example: tuple[Counterexample, Replay]) -> None:
    text = trees_dot(*example)
    assert "after step 12" in text
    assert "mirror gfn 0 level 3 is a table, S-EPT is FREE at level 3" in text
    assert text.count("style=dashed") == 1


@graphviz
def test_graphviz_draws_the_trees(example: tuple[Counterexample, Replay]) -> None:
    shapes = drawn(trees_dot(*example))
    assert "gfn 0: table pfn 50800" in shapes["sp13"]
    assert shapes["sept_3_0"] == ["level 3 gfn 0", "FREE"]
    assert "sp13:g0->sept_3_0" in shapes  # the two that disagree
    assert "sp13:g0->sp0.0" in shapes  # an entry and its table


@graphviz
def test_graphviz_draws_the_order(example: tuple[Counterexample, Replay]) -> None:
    ce, again = example
    shapes = drawn(order_dot(ce, again))
    assert shapes["s10"][1] == "cmpxchg sp13[0]: NONPRESENT -> FROZEN"
    assert "s10->s11" in shapes


def test_order_of_two_tasks_has_no_edge_that_follows_from_others() -> None:
    """vcpu0 freezes the entry (3) before vcpu1 meets it (8), and that before vcpu0's store."""
    text = order_dot(report_samples.counterexample(), report_samples.replayed())
    across = re.findall(r"^  s(\d+) -> s(\d+) \[color=\"#1f5fbf\"\];$", text, re.M)
    assert ("3", "8") in across
    tasks = [e.task for e in report_samples.replayed().events]
    assert all(tasks[int(a)] != tasks[int(b)] for a, b in across)
    assert len(across) == len(set(across))


def test_a_protocol_has_no_trees(example: tuple[Counterexample, Replay]) -> None:
    ce, again = example
    bare = Replay(again.events, again.task_names, again.findings, states={-1: {}})
    with pytest.raises(NoTrees, match="dot-order"):
        trees_dot(ce, bare)


def test_trees_of_compiled_code(example: tuple[Counterexample, Replay]) -> None:
    """Its tables have 512 entries whatever the scenario's say, and nobody compared the trees."""
    ce, again = example
    state = {
        "mirror": [("sp1", 2, 0x200, 0x8000000050800D07)],
        "sept": [(3, 0, sept.non_leaf(0x1000)), (2, 0x200, sept.non_leaf(0x2000))],
    }
    compiled = Replay(again.events, again.task_names, again.findings, states={0: state})
    text = trees_dot(replace(ce, kernel={"version": "7.3.4"}), compiled)
    assert "  sept_3_0 -> sept_2_200;" in text and "gfn 200: table pfn 50800" in text


def test_quotes_and_backslashes_stay_inside_their_strings() -> None:
    again = report_samples.replayed()
    again.task_names[0] = 'a"b\\'
    text = order_dot(report_samples.counterexample(), again)
    assert r'label="a\"b\\";' in text
