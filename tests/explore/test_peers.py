# SPDX-License-Identifier: GPL-2.0-only
"""The models in bench/peers agree on their verdicts; tools that are not there are skipped."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "peers.py"
_spec = importlib.util.spec_from_file_location("bench_peers", BENCH)
assert _spec is not None
assert _spec.loader is not None
peers = importlib.util.module_from_spec(_spec)
sys.modules["bench_peers"] = peers
_spec.loader.exec_module(peers)


@pytest.mark.parametrize(("variant", "verdict"), [("right", "holds"), ("broken", "violated")])
@pytest.mark.parametrize("tool", peers.TOOLS)
def test_every_tool_says_the_same(tool: str, variant: str, verdict: str) -> None:
    lacking = peers.missing(tool)
    if lacking:
        pytest.skip(f"needs {lacking}")
    assert peers.run(tool, variant).verdict == verdict
