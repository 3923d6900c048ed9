# SPDX-License-Identifier: GPL-2.0-only
"""Run the command line in-process, with made-up or real rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from click.testing import CliRunner, Result

from septum.cli import main
from septum.machine import Finding
from septum.scenarios.result import CheckResult

NO_FREEZE = '''\
"""No freeze: the mirror gets its new value before the S-EPT."""

from septum.kvm.spte import sptep_to_sp

NAME = "no-freeze"


def tdp_mmu_set_spte_atomic(kvm, iter, new_spte):
    ret = kvm.fn.__tdp_mmu_set_spte_atomic(kvm, iter, new_spte)
    if ret:
        return ret
    sp = sptep_to_sp(iter.sptep)
    return kvm.fn.__handle_changed_spte(
        kvm, sp, iter.gfn, iter.old_spte, new_spte, iter.level, True
    )
'''


def septum(*args: object) -> Result:
    """``septum ARGS``."""
    return CliRunner().invoke(main, [str(arg) for arg in args], prog_name="septum")


def one_line_error(result: Result, *parts: str) -> None:
    """Exit status 2 and one line on stderr that says what is wrong."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("septum: ")
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr


def made_up(
    monkeypatch: pytest.MonkeyPatch, judge: Callable[[str, str], str]
) -> list[dict[str, Any]]:
    """Let rows have the verdicts of ``judge`` ("verdict" or "verdict rule") without a
    search; the keyword arguments of each call are returned."""
    calls: list[dict[str, Any]] = []

    def check_many(
        rows: Sequence[tuple[str, str]], **options: Any
    ) -> Iterator[tuple[int, CheckResult]]:
        calls.append({"rows": list(rows), **options})
        for n, (design, scenario) in enumerate(rows):
            verdict, _, rule = judge(design, scenario).partition(" ")
            finding = Finding(rule, "it broke", 3, 0) if rule else None
            complete = verdict in ("holds", "violated", "vacuous")
            yield (
                n,
                CheckResult(
                    design, scenario, {}, verdict, complete=complete, finding=finding, executions=7
                ),
            )

    monkeypatch.setattr("septum.cli.running.check_many", check_many)
    return calls
