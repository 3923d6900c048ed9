# SPDX-License-Identifier: GPL-2.0-only
"""The Program protocol: one execution at a time, from the same start state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from septum.machine import Decision, Execution, Limits, Machine, Policy
from septum.machine.dependency import Footprint, Sleep
from septum.machine.events import CONTINUE, DEFAULT_LIMITS

__all__ = ["KeepsStates", "MachineProgram", "Program"]


class Program(Protocol):
    """What an explorer can run.

    A prefix names one decision per event.  ``sleep`` names tasks and footprints of their
    next steps, as of just before the last step of the prefix: none of these tasks may run
    before something dependent on all that is named of it.  ``covered`` are the footprints
    of steps from which everything was explored: if the last step of the prefix commutes
    with one of them, the execution ends there.  The runner decides both from the dependency table
    (septum.machine.dependency).  ``survivors``: BUG() ends only the task that hits it.
    """

    def run(
        self,
        prefix: Sequence[Decision] = (),
        sleep: Sleep = (),
        policy: Policy = CONTINUE,
        limits: Limits = DEFAULT_LIMITS,
        *,
        covered: Sequence[Footprint] = (),
        survivors: bool = False,
    ) -> Execution: ...


class MachineProgram:
    """Tasks on a `Machine`, judged by ``settle`` when all have finished.

    :ivar remembers: what tasks did before may be looked up (`septum.machine.known`): all that
        they and ``settle`` look at is in cells.

    :param bodies: name and body of each task; run from the machine's present state,
        to which every execution rewinds.
    """

    def __init__(
        self,
        machine: Machine,
        bodies: Sequence[tuple[str, Callable[[], None]]],
        settle: Callable[[], None] | None = None,
    ) -> None:
        self.machine = machine
        self.bodies = list(bodies)
        self.settle = settle
        self.remembers = False

    @property
    def actors(self) -> int:
        """Who can be scheduled: the tasks, and under TSO the store buffer of each."""
        return len(self.bodies) * (2 if self.machine.memory_model == "TSO" else 1)

    @property
    def task_names(self) -> list[str]:
        """By number; under TSO the store buffers follow the tasks, in the same order."""
        names = [name for name, _ in self.bodies]
        if self.machine.memory_model == "TSO":
            names += [f"{name} (buffer)" for name in names]
        return names

    def run(
        self,
        prefix: Sequence[Decision] = (),
        sleep: Sleep = (),
        policy: Policy = CONTINUE,
        limits: Limits = DEFAULT_LIMITS,
        *,
        fingerprint: bool = False,
        covered: Sequence[Footprint] = (),
        survivors: bool = False,
    ) -> Execution:
        return self.machine.run(
            self.bodies, prefix, sleep, policy, limits, self.settle, fingerprint, covered, survivors
        )


class KeepsStates(MachineProgram):
    """A program whose states can be kept and compared midway (compiled code)."""

    def explore_states(self, options: Any, progress: Callable[[Any], None] | None = None) -> Any:
        """Explore every state; a `SearchResult`."""
        raise NotImplementedError
