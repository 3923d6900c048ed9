# SPDX-License-Identifier: GPL-2.0-only
"""Floor 5: scenarios as data, and what it takes to check a design in one."""

from septum.scenarios.suite import SCENARIOS, UnknownScenario, find

__all__ = ["SCENARIOS", "UnknownScenario", "find"]
