# SPDX-License-Identifier: GPL-2.0-only
"""What a mutant is: one wrong step of ``v7.3``, and what must notice it.

Mutants prove that the monitors and scenarios see what they are for.  Each is a toggle of
kind ``mutant`` (``v7.3+no-freeze``), most of them hunks of text as in
`septum.designs.toggles`, so ``septum designs diff v7.3 v7.3+no-freeze`` prints the fault.
They are listed in docs/mutants.md, by the modules ``mutants_*``:

* ``mutants_mmu``: setting an SPTE and reacting to the change (facts 4.1 to 4.3);
* ``mutants_tables``: linking, removing and freeing tables, roots (facts 2.3, 4.4, 4.5);
* ``mutants_zap``: the retry protocol, zapping, guest_memfd (facts 4.7, 4.8, 4.11, 5.5);
* ``mutants_tdx``: SEAMCALLs, BUSY, kicks, removal (facts 5.2, 5.3);
* ``mutants_vcpu``: the vCPU loop and requests (facts 5.2, 5.4, 5.6);
* ``mutants_fences``: a missing barrier (facts 5.2, 5.6);
* ``mutants_huge``: private huge pages, on ``v7.3+hugepage`` (facts 6.6, 6.7);
* ``mutants_direct``: direct roots, huge pages, lockless paths (facts 4.1 to 4.13);
* ``mutants_direct_log``: dirty logging, NX huge pages, MMIO (facts 1.2, 4.14 to 4.17);
* ``mutants_run``: running vCPUs, yields, write tracking (facts 3.4, 4.8 to 4.17);
* ``mutants_private``: memslots, notifiers, attributes, guest_memfd (facts 4.7, 4.11, 5.5);
* ``mutants_life``: moving vCPUs, flush requests, the VM's end (facts 5.5, 5.6);
* ``mutants_module``: a TDX Module that is wrong, for what KVM alone cannot cause.

A `Mutant` says which default scenario shows it and which rule its row reports.  One that
nothing shows says why in ``survives`` instead; the tests assert that as well, so a new
monitor or scenario makes them fail until the table follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from septum.designs.registry import Toggle
from septum.designs.toggles import Hunk, patch

__all__ = ["BASE", "Mutant", "change", "toggles"]

Function = Callable[..., Any]

BASE: Final = "v7.3"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One wrong step.

    :ivar step: the section of facts/kvm-tdp-mmu.md that has the step.
    :ivar doc: what it does wrong.
    :ivar scenario: a default scenario that shows it (or does not, if it ``survives``).
    :ivar rule: the rule that the row reports.
    :ivar alone: with that monitor switched off nothing is found.
    :ivar executions: how many are searched for the row's rule; 0: up to the first finding.
    :ivar survives: why nothing can see it; empty if something does.
    :ivar memory_model: ``TSO``: only store buffers show it, SC does not.
    :ivar hunks: the wrong text; without it and ``replace`` the name is an existing toggle's.
    :ivar base: the design that it makes wrong.
    :ivar replace: instead of ``hunks``: from the base's functions to the wrong ones.
    """

    name: str
    step: str
    doc: str
    scenario: str
    rule: str
    hunks: tuple[Hunk, ...] = ()
    alone: bool = False
    executions: int = 0
    survives: str = ""
    memory_model: str = "SC"
    base: str = BASE
    replace: Callable[[Mapping[str, Function]], Mapping[str, Function]] | None = None

    @property
    def design(self) -> str:
        """The design to check."""
        return f"{self.base}+{self.name}"

    @property
    def toggle(self) -> Toggle:
        apply = self.replace or partial(patch, self.name, self.hunks)
        return Toggle(self.name, apply, f"Facts {self.step}: {self.doc}.", kind="mutant")


def change(function: str, old: str, new: str) -> Hunk:
    """One hunk: ``old`` in the text of ``function`` becomes ``new``."""
    return (function, ((old, new),))


def toggles(mutants: tuple[Mutant, ...]) -> tuple[Toggle, ...]:
    """What a module lists in ``TOGGLES``."""
    return tuple(m.toggle for m in mutants if m.hunks or m.replace)
