# SPDX-License-Identifier: GPL-2.0-only
"""Every operation alone, from every small start tree, in compiled code and in a design.

Compared are, in order, the changes of the mirror's SPTEs, the SEAMCALLs about memory with their
status, the return value (an errno, or ok: what else KVM's functions return differs by what calls
them), and what was reported (WARN, BUG, broken rules).

A small start tree is one of four pages, two to a table, each absent, mapped or mapped and
accepted; before finalization each is absent or built.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, Final

from septum.machine.events import Execution
from septum.native.code import Code
from septum.native.diff import Side, native_side, python_side, words_of
from septum.native.image import ImageError
from septum.native.process import ImageDied, ImageProcess, Wanted
from septum.native.program import NativeBuilt
from septum.scenarios.build import build
from septum.scenarios.model import Op, Scenario, Start, TaskSpec, op, run_vcpu
from septum.scenarios.start import StartError

__all__ = ["OPERATIONS", "compare_operations", "start_trees"]

_PAGES: Final = 4
_ABSENT, _MAPPED, _ACCEPTED = range(3)

OPERATIONS: Final = (
    op("load"),
    op("fault", 0),
    op("fault", 3),
    op("prefault", 1),
    run_vcpu(op("accept", 0)),
    run_vcpu(op("touch", 1)),
    op("zap_leafs", 0, 2),
    op("zap_leafs", 1, 3),
    op("zap_range", 0, 4),
    op("punch_hole", 0, 1),
    op("punch_hole", 1, 3),
    op("punch_hole", 0, 4),
    op("set_attributes", 0, 1, 0),
    op("set_attributes", 0, 4, 0),
    op("set_attributes", 0, 4, 1),
    op("delete_slot"),
)
"""Of a TD that was finalized.  Not ``release_gmem``: the compiled kernel's file also holds the
page that is mapped far away (docs/kernel.md)."""

_BUILDING: Final = (
    op("init_mem_region", 0),
    op("init_mem_region", 3),
    op("prefault", 1),
    op("punch_hole", 0, 1),
    op("punch_hole", 0, 4),
    op("finalize"),
)
_VCPU: Final = frozenset({"load", "fault", "prefault", "run_vcpu"})


def start_trees() -> list[Start]:
    """All of them."""
    out = []
    for states in product((_ABSENT, _MAPPED, _ACCEPTED), repeat=_PAGES):
        mapped = tuple(gfn for gfn, state in enumerate(states) if state != _ABSENT)
        accepted = tuple(gfn for gfn, state in enumerate(states) if state == _ACCEPTED)
        out.append(Start(vcpus=1, mapped=mapped, accepted=accepted))
    for built in product((False, True), repeat=_PAGES):
        gfns = tuple(gfn for gfn, there in enumerate(built) if there)
        out.append(Start(vcpus=1, finalized=False, built=gfns))
    return out


def _about(start: Start) -> str:
    if not start.finalized:
        return f"built {_list(start.built)}, not finalized"
    return f"mapped {_list(start.mapped)}, accepted {_list(start.accepted)}"


def _list(gfns: tuple[int, ...]) -> str:
    return ",".join(map(str, gfns)) or "nothing"


def _scenario(what: Op, start: Start) -> Scenario:
    vcpu = 0 if what.name in _VCPU else -1
    name = f"{what.text} with {_about(start)}"
    task = TaskSpec("vcpu0" if vcpu == 0 else "host", (what,), vcpu=vcpu)
    return Scenario(name, name, "", (task,), start, epilogue=False)


def compare_operations(code: Code, design: str, start: Start) -> list[tuple[str, str]]:
    """Every operation from one start tree: its name and how it differs (empty: equal).

    :raises StartError, ImageError: neither side, or one alone, gets to the start tree.
    :raises ImageDied: the image's process ended.
    """
    operations = OPERATIONS if start.finalized else _BUILDING
    scenarios = [_scenario(what, start) for what in operations]
    process = ImageProcess(Wanted(code, scenarios[0]))
    try:
        return process.ask(_compare, design, scenarios)
    except (StartError, ImageError, ImageDied) as error:
        return [(f"start tree with {_about(start)}", str(error))]
    finally:
        process.close()


def _compare(
    compiled: NativeBuilt, design: str, scenarios: list[Scenario]
) -> list[tuple[str, str]]:
    theirs = native_side(compiled)
    out = []
    for scenario in scenarios:
        ours = python_side(build(design, scenario))
        compiled.do_instead(scenario)
        names = design, compiled.design_name
        out.append((scenario.name, _difference(names, _run(ours), _run(theirs))))
    return out


def _run(side: Side) -> list[tuple[Any, ...]]:
    side.sequence.clear()
    execution: Execution = side.built.program.run()
    reported = [("REPORT", finding.rule) for finding in execution.findings]
    return [*side.sequence, *reported, ("ENDS", execution.status)]


def _difference(
    names: tuple[str, str], ours: list[tuple[Any, ...]], theirs: list[tuple[Any, ...]]
) -> str:
    """The first difference, with the steps before it."""
    for at, (one, other) in enumerate(zip(_endless(ours), _endless(theirs), strict=False)):
        if one == other == ("nothing more",):
            return ""
        if one != other:
            before = [f"  {words_of(item)}" for item in ours[max(at - 3, 0) : at]]
            differs = f"step {at}: {names[0]}: {words_of(one)}; {names[1]}: {words_of(other)}"
            return "\n".join([differs, *(["  after:", *before] if before else [])])
    raise AssertionError("sequences without an end")


def _endless(items: list[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    yield from items
    while True:
        yield ("nothing more",)
