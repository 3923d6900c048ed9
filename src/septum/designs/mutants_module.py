# SPDX-License-Identifier: GPL-2.0-only
"""Mutants of the TDX Module: what no KVM can cause (facts/tdx-module.md 3.1, 3.6).

KVM 7.3 never calls SEPT.REMOVE while the TD runs, and the module refuses whatever would
leave an S-EPT entry without its parent (I3), so only a module that is wrong breaks that.
The change is made behind `septum.kvm.seamcall.seamcall`: the call does what it should,
and then what it should not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from septum.designs.mutants_base import Function, Mutant, toggles
from septum.tdx import TdxModule
from septum.tdx.leaves import TDH_MEM_PAGE_REMOVE
from septum.tdx.sept import FREE

__all__ = ["MUTANTS", "TOGGLES"]


def _after(
    leaf: int, wrong: Callable[[TdxModule, int, int], None]
) -> Callable[[Mapping[str, Function]], Mapping[str, Function]]:
    """A successful ``leaf`` also does ``wrong(module, TDR, GPA)``."""

    def apply(base: Mapping[str, Function]) -> Mapping[str, Function]:
        regular = base["seamcall"]

        def seamcall(kvm: Any, number: int, regs: dict[str, int], lp: int = -1) -> Any:
            gpa = regs.get("rcx", 0) & ~0xFFF
            result = regular(kvm, number, regs, lp)
            if number == leaf and not result.rax:
                wrong(kvm.module, regs["rdx"], gpa)
            return result

        return {"seamcall": seamcall}

    return apply


def _drop_table(module: TdxModule, tdr: int, gpa: int) -> None:
    """Free the parent's entry too."""
    td = module.td(tdr)
    with module.m.step("TDH.MEM.PAGE.REMOVE", "drop the table"):
        spot = module.sept.peek(td.root, gpa, 1)
        module.write_entry(td, spot.word, gpa, 1, FREE)


MUTANTS: Final = (
    Mutant(
        "module-drops-table",
        "5.3",
        "PAGE.REMOVE frees the table as well, whatever its other entries map",
        "refault-punch",
        "I3",
        replace=_after(TDH_MEM_PAGE_REMOVE, _drop_table),
    ),
)

TOGGLES: Final = toggles(MUTANTS)
