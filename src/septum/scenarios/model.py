# SPDX-License-Identifier: GPL-2.0-only
"""A scenario as data: a start state, and per task a list of operations.

Operations are written with the constructors of this module; `text` gives the form that
is printed (``run_vcpu[accept(0), touch(1)]``).  The same scenario drives every program
that offers the operations of `septum.scenarios.ops`.  GFNs are numbers within the
scenario's slot, levels are KVM's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from septum.kvm.features import Features
from septum.machine.geometry import Geometry

__all__ = [
    "DefaultVm",
    "Inject",
    "Op",
    "Scenario",
    "Start",
    "TaskSpec",
    "op",
    "run_vcpu",
]


@dataclass(frozen=True, slots=True)
class Op:
    """One operation of a task; ``guest`` is what a vCPU does inside the guest."""

    name: str
    args: tuple[int | str, ...] = ()
    guest: tuple[Op, ...] = ()

    @property
    def text(self) -> str:
        if self.name == "run_vcpu":
            return f"run_vcpu[{', '.join(g.text for g in self.guest)}]"
        return f"{self.name}({', '.join(str(a) for a in self.args)})"


def op(name: str, *args: int | str) -> Op:
    return Op(name, args)


def run_vcpu(*guest: Op) -> Op:
    """Enter the guest, do these things there, leave for good."""
    return Op("run_vcpu", (), guest)


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """A thread: ``vcpu`` is the vCPU whose thread it is (-1: a host thread)."""

    name: str
    ops: tuple[Op, ...]
    vcpu: int = -1


@dataclass(frozen=True, slots=True)
class Inject:
    """SEAMCALL leaf names and the status names that the environment may return for
    them, ``budget`` times in all per execution."""

    leafs: tuple[str, ...]
    statuses: tuple[str, ...] = ("TDX_OPERAND_BUSY",)
    budget: int = 1


@dataclass(frozen=True, slots=True)
class DefaultVm:
    """An ordinary VM instead of a TD: what it and its host are configured for.

    :ivar max_level: the largest page of the memory behind the memslot.
    """

    features: Features = field(default_factory=Features)
    max_level: int = 1


@dataclass(frozen=True, slots=True)
class Start:
    """Where a scenario begins.

    :ivar mapped: GFNs with a private leaf (PENDING in the S-EPT).
    :ivar accepted: those of them that the guest has accepted.
    :ivar built: GFNs added before finalization (MAPPED), for TDs not finalized yet.
    :ivar zero_step: (vCPU, GFN): the module's zero-step list of that vCPU holds the GFN.
    :ivar slots: (first GFN, pages, guest_memfd file or -1) of each memslot; empty: one of
        ``slot_pages`` pages on file 0.
    :ivar shared: GFNs whose attribute is shared; those in a slot without guest_memfd are.
    :ivar mapped_shared: those of them that have a leaf in the direct root.
    :ivar huge: GFNs with a "2M" mirror leaf, whatever the design can do.
    :ivar huge_accepted: those of them that the guest has accepted, at 2M.
    :ivar folio_level: the level of the folios in guest_memfd.
    :ivar shared_level: the same of a TD's memory that is not in guest_memfd.
    :ivar default_vm: an ordinary VM; the fields about private memory do not apply then.
    :ivar before: operations done one after the other at last, vCPU 0's if a vCPU's.
    """

    vcpus: int = 2
    finalized: bool = True
    slot_pages: int = 4
    mapped: tuple[int, ...] = ()
    accepted: tuple[int, ...] = ()
    built: tuple[int, ...] = ()
    zero_step: tuple[tuple[int, int], ...] = ()
    huge: tuple[int, ...] = ()
    slots: tuple[tuple[int, int, int], ...] = ()
    shared: tuple[int, ...] = ()
    mapped_shared: tuple[int, ...] = ()
    huge_accepted: tuple[int, ...] = ()
    folio_level: int = 1
    shared_level: int = 1
    default_vm: DefaultVm | None = None
    before: tuple[Op, ...] = ()


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is explored, and what must occur for the exploration to mean something.

    :ivar question: the question of the founding mail that it answers, or what it is for.
    :ivar must_occur: events (`Machine.reach`) of which each must occur in some
        execution; else the row is vacuous.
    :ivar needs: capabilities a design must have.
    :ivar interrupts: pending interrupts that the module may find, in all.
    :ivar alloc_failures: page allocations that may fail, in all.
    :ivar yields: reschedules that an operation may meet.
    :ivar bound: executions after which the default search gives up (0: never); the row
        is then ``bounded``.
    :ivar designs: those that the default suite checks in it; empty: all default ones.
    """

    name: str
    summary: str
    question: str
    tasks: tuple[TaskSpec, ...]
    start: Start = field(default_factory=Start)
    must_occur: tuple[str, ...] = ()
    needs: frozenset[str] = frozenset()
    geometry: Geometry = field(default_factory=lambda: Geometry(bits=1, levels=3))
    inject: Inject | None = None
    interrupts: int = 0
    alloc_failures: int = 0
    profile: str = "linux-7.3"
    yields: int = 0
    epilogue: bool = True
    default: bool = True
    bound: int = 0
    designs: tuple[str, ...] = ()

    def params(self) -> dict[str, Any]:
        """The parameters that ``-p key=value`` may change, with their defaults."""
        return {
            "bits": self.geometry.bits,
            "levels": self.geometry.levels,
            "yields": self.yields,
            "profile": self.profile,
            "fine": 0,
            "epilogue": int(self.epilogue),
        }
