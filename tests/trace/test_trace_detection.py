# SPDX-License-Identifier: GPL-2.0-only
"""A small run of bench/replay_detection.py: what is altered is found, or it is known why
not."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest
from trace_rig import sample

BENCH = Path(__file__).parent.parent.parent / "bench" / "replay_detection.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("replay_detection", BENCH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("kind", "least"), [("delete", 2), ("swap", 20), ("change", 7)])
def test_alterations_are_found_or_classed(bench: ModuleType, kind: str, least: int) -> None:
    lines = [line for line in sample("linux-6.12-smm.trace.xz") if line[:1] != "#"]
    *_, tally = bench.measure(lines, kind, 24, random.Random(4), whole=True)
    assert tally.done == 24
    assert tally.found >= least
    assert tally.found + sum(tally.reasons.values()) == 24
    assert tally.reasons["unclassed"] == 0
