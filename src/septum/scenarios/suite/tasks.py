# SPDX-License-Identifier: GPL-2.0-only
"""Threads of a scenario, written briefly."""

from __future__ import annotations

from septum.scenarios.model import Op, TaskSpec

__all__ = ["host", "vcpu"]


def vcpu(n: int, *ops: Op) -> TaskSpec:
    """The thread of vCPU ``n``."""
    return TaskSpec(f"vcpu{n}", ops, vcpu=n)


def host(*ops: Op, name: str = "host") -> TaskSpec:
    """A host thread."""
    return TaskSpec(name, ops)
