# SPDX-License-Identifier: GPL-2.0-only
"""The scenarios, as data: one module per part of the MMU."""

from __future__ import annotations

import difflib

from septum.scenarios.model import Scenario
from septum.scenarios.suite import direct, direct_run, huge, mirror, private

__all__ = ["SCENARIOS", "UnknownScenario", "find"]


class UnknownScenario(ValueError):
    """No scenario of that name; the message has the nearest ones."""


SCENARIOS: dict[str, Scenario] = {
    s.name: s for module in (mirror, private, huge, direct, direct_run) for s in module.SCENARIOS
}


def find(name: str) -> Scenario:
    """The scenario of that name.

    :raises UnknownScenario: with the nearest names.
    """
    if name not in SCENARIOS:
        near = difflib.get_close_matches(name, SCENARIOS, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UnknownScenario(f"no scenario {name!r}{hint} (`septum scenarios` lists them)")
    return SCENARIOS[name]
