# SPDX-License-Identifier: GPL-2.0-only
"""Skeletons of KVM selftests, as a C compiler reads them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import report_samples

from septum.report.selftest import NoSelftest, selftest
from septum.scenarios.counterexample import load, operation_starts, replay
from septum.scenarios.model import DefaultVm, Inject, Scenario, Start, TaskSpec, op, run_vcpu
from septum.scenarios.suite import find

ROOT = Path(__file__).parents[2]
STUB = ROOT / "tests/data/selftest-stub"
TREE = Path(os.environ.get("SEPTUM_LINUX") or "/nowhere")
FLAGS = ["-fsyntax-only", "-std=gnu99", "-D_GNU_SOURCE", "-DCONFIG_64BIT", "-O2", "-Werror"]
FLAGS += ["-Wall", "-Wstrict-prototypes", "-Wuninitialized"]


def compiled(text: str, *includes: str) -> None:
    done = subprocess.run(
        ["gcc", *FLAGS, *includes, "-x", "c", "-"],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def of_the_kernel(tree: Path) -> list[str]:
    """Include paths as in tools/testing/selftests/kvm/Makefile.kvm."""
    tools = tree / "tools"
    own = tools / "testing/selftests/kvm/include"
    system = (tools / "include/uapi", tools / "arch/x86/include/uapi", own, own / "x86")
    plain = (tools / "include", tools / "arch/x86/include", tools / "testing/selftests")
    return [f"-I{path}" for path in plain] + [
        word for path in system for word in ("-isystem", str(path))
    ]


STORY = Scenario(
    "two-faults",
    "",
    "",
    (
        TaskSpec("vcpu0", (op("prefault", 3), op("migrate_vcpu", 1), op("fault", 0)), 0),
        TaskSpec("vcpu1", (run_vcpu(op("accept", 0), op("touch", 1)), op("fault", 2)), 1),
        TaskSpec(
            "host-1",
            (
                op("punch_hole", 0, 2),
                op("set_attributes", 0, 1, 0),
                op("set_attributes", 0, 1, 1),
                op("delete_slot", 0),
            ),
        ),
    ),
    Start(mapped=(2,), accepted=(2,)),
)
STARTS = {("vcpu0", 0): 0, ("vcpu0", 1): 5, ("vcpu0", 2): 8, ("vcpu1", 0): 0, ("vcpu1", 1): 13}


def text_of(story: Scenario) -> str:
    ce = report_samples.counterexample()
    return selftest(ce, report_samples.replayed(), story, STARTS)


def built() -> Scenario:
    """A TD that is not finalized yet."""
    tasks = (TaskSpec("build", (op("init_mem_region", 1), op("finalize")), 0),)
    return replace(STORY, tasks=tasks, start=Start(finalized=False, built=(0,)))


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
@pytest.mark.parametrize("story", [STORY, built()], ids=["finalized", "building"])
def test_every_operation_compiles(story: Scenario) -> None:
    compiled(text_of(story), f"-I{STUB}")
    if TREE.is_dir():
        compiled(text_of(story), *of_the_kernel(TREE))


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_a_real_counterexample_compiles() -> None:
    ce = load(ROOT / "docs/examples/reread-sptep.json")
    again = replay(ce, states=True)
    text = selftest(ce, again, find(ce.scenario), operation_starts(ce))
    compiled(text, f"-I{STUB}")
    if TREE.is_dir():
        compiled(text, *of_the_kernel(TREE))
    assert "feb06+reread-sptep breaks I1 in fault-neighbours" in text


def body(text: str, task: str) -> list[str]:
    """The statements of a thread."""
    found = re.search(rf"^static void \*task_{task}\(.*?^}}", text, re.M | re.S)
    assert found is not None
    code = re.sub(r"/\*.*?\*/", "", found[0], flags=re.S)
    return [line.strip() for line in code.splitlines() if line.strip().endswith(";")]


def test_operations_that_did_not_overlap_are_ordered() -> None:
    """In the sample vcpu0 begins (0), vcpu1 begins meanwhile (4) and ends after it."""
    text = text_of(STORY)
    assert body(text, "vcpu0")[:3] == [
        "WRITE_ONCE(begun[0], true);",
        "pre_fault(vcpus[0], 0x3);",
        "WRITE_ONCE(ended[0], true);",
    ]
    assert body(text, "vcpu1")[0] == "wait_for(&ended[0]);"
    assert "wait_for(&begun[3]);" in body(text, "vcpu0")


def test_what_the_guest_has_to_do_is_said() -> None:
    text = text_of(STORY)
    assert " *   vCPU 0: accept(2)\n *   vCPU 1: accept(0), touch(1)\n" in text
    assert "run_image(vcpus[0]);\t/* accepts 0x2 */" in text
    assert "-i" not in text_of(built()).split("#include")[0]


def test_a_comment_cannot_be_left_early() -> None:
    ce = report_samples.counterexample()
    hostile = replace(ce, finding=replace(ce.finding, message="*/ int x;"))
    head = selftest(hostile, report_samples.replayed(), STORY, STARTS).split("#include")[0]
    assert head.count("*/") == 1


def test_of_compiled_code_each_task_does_one_thing() -> None:
    ce = report_samples.counterexample()
    one = replace(STORY, tasks=tuple(replace(t, ops=t.ops[:1]) for t in STORY.tasks))
    text = selftest(ce, report_samples.replayed(), one, None)
    assert "prefault(3): steps 0 to 12." in text
    with pytest.raises(NoSelftest, match="second operation"):
        selftest(ce, report_samples.replayed(), STORY, None)


def starting(**start: object) -> Scenario:
    return replace(STORY, start=Start(**start))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("story", "why"),
    [
        (None, "is no scenario of KVM"),
        (starting(default_vm=DefaultVm()), "for TDs"),
        (starting(huge=(0,)), "'huge'"),
        (starting(folio_level=2), "huge folios"),
        (replace(STORY, inject=Inject(("TDH.MEM.PAGE.AUG",))), "SEAMCALL"),
        (replace(STORY, tasks=(TaskSpec("t", (op("split", 0, 2),)),)), r"split\(\)"),
        (replace(STORY, tasks=(TaskSpec("t", (run_vcpu(op("to_shared", 0)),), 0),)), "to_shared"),
        (replace(STORY, tasks=(TaskSpec("t", (op("punch_hole", 0, 2, 1),)),)), "arguments"),
    ],
)
def test_what_no_selftest_can_do_is_refused(story: Scenario | None, why: str) -> None:
    ce = report_samples.counterexample()
    with pytest.raises(NoSelftest, match=why):
        selftest(ce, report_samples.replayed(), story, STARTS)
