# SPDX-License-Identifier: GPL-2.0-only
"""What a line means.  Statements are data: `session` executes them."""

from __future__ import annotations

from dataclasses import dataclass, field

from septum.tdx.config import QUIET, Conditions
from septum.tdx.console.calls import CallForm
from septum.tdx.console.expect import Expectation

__all__ = [
    "Call",
    "Define",
    "GuestEvent",
    "HoldLock",
    "MakeTables",
    "MakeTd",
    "Platform",
    "Show",
    "Statement",
    "Views",
]

Views = ("tree", "state", "vcpus", "pamt", "locks", "names", "all")
"""What ``show`` can show."""


@dataclass(frozen=True, slots=True)
class Platform:
    """What the module runs on."""

    lps: int = 4
    packages: int = 2
    levels: int = 4
    gpaw: int = 0
    profile: str = "1.5.01"


@dataclass(frozen=True, slots=True)
class Define:
    """Names that now exist (the parser has resolved them): for the listing only."""

    values: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class MakeTables:
    """SEPT.ADD what is missing above an entry of ``level``."""

    td: int
    gpa: int
    level: int = 0


@dataclass(frozen=True, slots=True)
class MakeTd:
    """A TD, built by the real sequence of calls.

    :ivar slot: which of the layout's TDs.
    """

    name: str
    slot: int
    hkid: int
    vcpus: int = 1
    state: str = "RUNNABLE"
    associate: bool = False
    max_vcpus: int = 16
    hp_lock_timeout: int = 2_000_000_000
    pending_ve_disable: bool = False
    tables: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """A SEAMCALL or TDCALL, registers in.

    :ivar lp: None: the lowest LP not in the guest, or for a TDCALL the only one that is.
    :ivar strides: what is added to registers with each repetition.
    """

    form: CallForm
    regs: dict[str, int]
    lp: int | None = None
    version: int = 0
    cond: Conditions = QUIET
    count: int = 1
    strides: dict[str, int] = field(default_factory=dict)
    expect: Expectation | None = None


@dataclass(frozen=True, slots=True)
class GuestEvent:
    """Something that happens to the guest: ``touch``, ``read``, ``interrupt``,
    ``ept-violation``."""

    kind: str
    gpa: int = 0
    lp: int | None = None
    cond: Conditions = QUIET
    expect: Expectation | None = None


@dataclass(frozen=True, slots=True)
class HoldLock:
    """Another agent takes (``hold``) or drops a lock; ``where`` addresses it."""

    acquire: bool
    lock: str
    mode: str
    where: dict[str, int | str]
    td: int

    def key(self) -> tuple[object, ...]:
        """The same for a hold and its drop."""
        return (self.lock, self.mode, self.td, *sorted(self.where.items()))


@dataclass(frozen=True, slots=True)
class Show:
    """Print a part of the state."""

    what: str
    td: int


Statement = Platform | Define | MakeTd | MakeTables | Call | GuestEvent | HoldLock | Show
