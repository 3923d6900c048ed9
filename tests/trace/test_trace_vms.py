# SPDX-License-Identifier: GPL-2.0-only
"""Findings, histories and trees by VM, where the lines tell VMs apart (septum.trace.roots).

Two VMs: a recording of one VM's whole life beside a copy of it with other tasks and pages.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from dat_rig import Raw, changed, get_page, version_6, version_7
from trace_rig import EMPTY, ROOT, Writer, leaf, run, sample, table

from septum.cli import main
from septum.kvm.spte import SPTE_MMU_PRESENT_MASK
from septum.trace import ReplayResult
from septum.trace.replay import follow
from septum.trace.watch import Row, Watch, tree_lines, tree_objects

TASKS = 1000  # added to each task's number in the copy
PAGES = 1 << 28  # added to each of its PFNs
TASK = re.compile(r"^( *.*?)-(\d+)( +)\[")
SPTE = re.compile(r"\b((?:old_|new_)?spte|old 0x|new) ?([0-9a-f]+)\b")
TIME = re.compile(r" (\d+\.\d+): ")
VCPUS = {260: 1, 261: 1, 260 + TASKS: 2, 261 + TASKS: 2}
VMMS = {257: 1, 257 + TASKS: 2}


def moved(found: re.Match[str]) -> str:
    value = int(found[2], 16)
    if not value & SPTE_MMU_PRESENT_MASK or value >> 63:
        return found[0]
    return found[0].replace(found[2], f"{value + (PAGES << 12):x}")


def shifted(found: re.Match[str], by: int) -> str:
    return f"{found[1]}{int(found[2], 16) + by:x}"


def copied(line: str) -> str:
    line = TASK.sub(lambda m: f"{m[1]}-{int(m[2]) + TASKS}{m[3]}[", line)
    line = SPTE.sub(moved, line)
    line = re.sub(r"(\bpfn )([0-9a-f]+)", partial(shifted, by=PAGES), line)
    return re.sub(r"(level \d at )([0-9a-f]+)", partial(shifted, by=PAGES << 12), line)


def with_process(line: str) -> str:
    """As with the option record-tgid."""

    def column(found: re.Match[str]) -> str:
        process = 257 + TASKS * (int(found[2]) > TASKS)
        return f"{found[1]}-{found[2]} ({process:7d}) ["

    return TASK.sub(column, line)


def seconds(line: str) -> float:
    found = TIME.search(line)
    assert found is not None, line
    return float(found[1])


@cache
def one_vm() -> list[str]:
    return [line for line in sample("linux-7.3-dirtylog.trace.xz") if not line.startswith("#")]


@cache
def two_vms() -> list[str]:
    return sorted([*one_vm(), *map(copied, one_vm())], key=seconds)


def watched(
    lines: list[str], **what: Any
) -> tuple[ReplayResult, list[Row], Callable[[], list[dict[str, Any]]]]:
    rows: list[Row] = []
    text = "".join(line + "\n" for line in ["# tracer: nop", "#", *lines])
    replay = follow(io.BytesIO(text.encode()), watch=Watch(sink=rows.append, **what))
    return replay.result, rows, lambda: tree_objects(replay.tables)


def pid(row: Row) -> int:
    return int(row.task.rpartition("-")[2])


def test_processes_tell_every_change_apart() -> None:
    result, rows, _ = watched([*map(with_process, two_vms())])
    assert (result.vms, result.findings) == (2, [])
    assert {(pid(row), row.vm) for row in rows} <= {*VCPUS.items(), *VMMS.items()}
    assert sum(row.vm == 1 for row in rows) == sum(row.vm == 2 for row in rows) == len(rows) // 2


def test_without_processes_nothing_is_said_that_may_be_wrong() -> None:
    """The vCPUs that made the roots are known; the others handle their first fault when there
    are two VMs, and a VMM's thread handles none."""
    result, rows, _ = watched(two_vms())
    assert (result.vms, result.findings) == (2, [])
    told = {(pid(row), row.vm) for row in rows}
    known = {(task, vm) for task, vm in told if vm}
    assert known == {(260, 1), (260 + TASKS, 2)}
    assert told - known == {(task, 0) for task in (257, 261, 257 + TASKS, 261 + TASKS)}


def test_the_only_vm_has_all_its_vcpus() -> None:
    result, rows, _ = watched(one_vm())
    assert result.vms == 1
    assert {(pid(row), row.vm) for row in rows} == {(257, 0), (260, 1), (261, 1)}


@pytest.mark.parametrize("part", [0.05, 0.3, 0.6])
def test_each_vm_has_the_tree_that_it_has_alone(part: float) -> None:
    lines = two_vms()[: int(len(two_vms()) * part)]
    _, _, trees = watched([*map(with_process, lines)])
    own = frozenset(one_vm())
    _, _, alone = watched([with_process(line) for line in lines if line in own])
    first, second = trees()
    assert [first] == alone()
    assert second["vm"] == 2
    assert spelt(second) == spelt(first)


def spelt(tree: dict[str, Any]) -> list[tuple[str, str]]:
    """Which entries there are, and of which kind, whatever their pages."""
    out = []
    for one in tree["entries"]:
        out.append((one["gfn"], re.sub(r"(table|pfn) [0-9a-f]+", r"\1", one["is"])))
        out += spelt(one["table"]) if "table" in one else []
    return out


def test_without_processes_trees_are_nobodys() -> None:
    """Some task of each VM is not known, and both trees may be meant by its lines."""
    result, _, trees = watched(two_vms()[:6000])
    assert result.vms == 2
    assert [tree["vm"] for tree in trees()] == [0, 0]


def test_a_finding_has_the_vm_of_its_task() -> None:
    w = Writer()
    for task, page in (("CPU 0/KVM-100", 0x11), ("CPU 0/KVM-200", 0x21)):
        w.line(ROOT, task=task)
        for level in (4, 3, 2):
            w.change(level, 0, EMPTY, table(page + 4 - level), task=task)
        w.line("kvm_page_fault: vcpu 0 rip 0x0 address 0x0 error_code 0x4", task=task)
        w.change(1, 5, EMPTY, leaf(0x95), task=task)
    w.change(1, 5, leaf(0x95), leaf(0x96), task="CPU 0/KVM-200")
    w.change(1, 5, leaf(0x95), leaf(0x97), task="CPU 0/KVM-100")
    w.change(1, 6, leaf(0x95), leaf(0x97), task="host-300")
    result = run(w.lines)
    found = [(f.rule, f.vm) for f in result.findings if f.rule == "I11"]
    assert found == [("I11", 2), ("I11", 1), ("I11", 0)]
    told = [f["vm"] for f in result.to_json()["findings"] if f["rule"] == "I11"]
    assert told == [2, 1, 0]


def test_reports_are_grouped(tmp_path: Path) -> None:
    path = tmp_path / "two.trace"
    lines = [*map(with_process, two_vms()[: len(two_vms()) // 4])]
    path.write_text("".join(line + "\n" for line in ["# tracer: nop", "#", *lines]))

    def shown(*options: str) -> str:
        return CliRunner().invoke(main, ["replay", str(path), *options]).stdout

    history = shown("--gfn", "1")
    first, _, second = history.partition("by tasks of VM 2")
    assert "by tasks of VM 1" in first
    assert re.search(r"KVM-26[01] ", first) and not re.search(r"KVM-126[01] ", first)
    assert re.search(r"KVM-126[01] ", second) and not re.search(r"KVM-26[01] ", second)
    trees = shown("--at", str(len(lines)))
    assert re.findall(r"^root \d: (VM \d)", trees, re.M) == ["VM 1", "VM 2"]


ROOT_7_3 = 4 | 1 << 7 | 0xF << 8 | 1 << 13 | 1 << 14  # kvm_mmu_page_role
SAVED = b"100 99\n200 199\n101 99\n"


@pytest.mark.parametrize("version", [version_6, version_7])
def test_processes_of_a_trace_dat(version: Callable[..., bytes]) -> None:
    """The option of gpuvis' trace-cmd; trace-cmd itself keeps no process numbers."""
    events = [
        Raw(1000 * n, 0, data)
        for n, data in enumerate(
            [
                get_page(100, 0, ROOT_7_3),
                changed(100, 0, 4, EMPTY, table(0x11)),
                get_page(200, 0, ROOT_7_3),
                changed(200, 0, 4, EMPTY, table(0x21)),
                changed(101, 0, 3, EMPTY, table(0x12)),
            ],
            start=1,
        )
    ]
    rows: list[Row] = []
    replay = follow(io.BytesIO(version(events, tgids=SAVED)), watch=Watch(sink=rows.append))
    assert [row.vm for row in rows] == [1, 2, 1]
    assert [root.tgid for root in replay.result.roots] == [99, 199]
    assert [tree["vm"] for tree in tree_objects(replay.tables)] == [1, 2]
    assert "VM 2" in "\n".join(tree_lines(replay.tables))
