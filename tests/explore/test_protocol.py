# SPDX-License-Identifier: GPL-2.0-only
"""Protocols of one's own, through the public API."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from septum.explore import Options, Protocol, Tasks, check
from septum.machine import Machine, Word

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "page_cache.py"


def _example() -> dict[str, Protocol]:
    spec = importlib.util.spec_from_file_location("page_cache", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {p.name: p for p in module.PROTOCOLS}


@pytest.mark.parametrize("model", ["SC", "TSO"])
@pytest.mark.parametrize(
    ("name", "verdict"),
    [("no-recheck", "violated"), ("shared", "violated"), ("exclusive", "holds")],
)
def test_the_page_cache(name: str, verdict: str, model: str) -> None:
    protocol = _example()[name]
    got = check(protocol, options=Options(memory_model=model))
    assert (got.verdict, got.result.complete) == (verdict, True)
    assert (got.found.finding.rule if got.found else None) == (
        "EMPTY" if verdict == "violated" else None
    )
    brute = check(protocol, options=Options(strategy="naive", memory_model=model))
    assert brute.verdict == verdict
    assert brute.result.executions > got.result.executions


def test_the_example_fits_in_forty_lines() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 40


def _raises(m: Machine) -> Tasks:
    word = Word(m, "x", 0)

    def body() -> None:
        word.read()
        raise KeyError("mine")

    return Tasks({"a": body})


def _harmless(m: Machine) -> Tasks:
    word = Word(m, "x", 0)
    return Tasks({"a": lambda: word.add(1), "b": lambda: word.add(1)})


@pytest.mark.parametrize(
    ("protocol", "options", "verdict"),
    [
        (Protocol("p", _raises), Options(), "error"),
        (Protocol("p", _harmless), Options(), "holds"),
        (Protocol("p", _harmless, must_occur=("never",)), Options(), "vacuous"),
        (Protocol("p", _harmless), Options(strategy="random", max_executions=3), "sampled"),
        (Protocol("p", _harmless), Options(strategy="naive", max_executions=1), "bounded"),
    ],
)
def test_verdicts(protocol: Protocol, options: Options, verdict: str) -> None:
    assert check(protocol, options=options).verdict == verdict


def test_a_build_without_tasks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"protocol p: build\(\) should return Tasks"):
        check(Protocol("p", lambda m: Tasks({})))
