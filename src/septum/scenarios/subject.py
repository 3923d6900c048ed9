# SPDX-License-Identifier: GPL-2.0-only
"""What rows need of code that is no Python design: a compiled kernel (`septum.native`).

It may run in a process of its own, so nothing of it but plain data is seen here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from septum.explore import MachineProgram, SearchResult
from septum.explore.units import Size, UnitResult
from septum.machine import Machine
from septum.scenarios.result import CheckResult

if TYPE_CHECKING:
    from septum.scenarios.rows import Row

__all__ = ["Learned", "Recordable", "Subject"]


class Recordable(Protocol):
    """A program with what judging, recording and replay need to know of it."""

    @property
    def design_name(self) -> str: ...
    @property
    def scenario_name(self) -> str: ...
    @property
    def params(self) -> dict[str, Any]: ...
    @property
    def machine(self) -> Machine: ...
    @property
    def program(self) -> MachineProgram: ...
    @property
    def hypothetical(self) -> bool: ...
    @property
    def origin(self) -> dict[str, Any]:
        """`Counterexample.kernel`: of compiled code, where it comes from."""
        ...

    def describe(self, what: str, args: tuple[Any, ...]) -> str:
        """A model event as one short line for people; empty if not worth one."""
        ...

    def snapshot(self) -> Mapping[str, Any]:
        """What a reader may want to see of the present state."""
        ...


@dataclass(frozen=True, slots=True)
class Learned:
    """In place of a unit's result: accesses to more words have to be scheduled than was
    known, so that everything explored so far does not count.

    :ivar words: all that are known by now.
    """

    words: tuple[str, ...]


class Subject(Protocol):
    """What is explored in the place of a design.  Instances are hashable plain data that
    can be sent to other processes; ``words`` is `septum.explore.SearchResult.words`."""

    @property
    def text(self) -> str:
        """A digest of what is under test."""
        ...

    def unexplored(self, row: Row) -> CheckResult | None:
        """The result of a row that cannot be explored, else None."""
        ...

    def explore(
        self, row: Row, pickled: bytes, size: Size, words: tuple[str, ...]
    ) -> UnitResult | CheckResult | Learned:
        """As `septum.scenarios.rows.explore`."""
        ...

    def conclude(self, row: Row, found: SearchResult) -> CheckResult:
        """As `septum.scenarios.rows.conclude`."""
        ...

    def forget(self) -> None:
        """Let go of what was kept for the next unit."""
        ...
