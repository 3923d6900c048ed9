# SPDX-License-Identifier: GPL-2.0-only
"""All mutants, in the order of docs/mutants.md (see `septum.designs.mutants_base`)."""

from __future__ import annotations

from typing import Final

from septum.designs import (
    mutants_direct,
    mutants_direct_log,
    mutants_fences,
    mutants_huge,
    mutants_life,
    mutants_mmu,
    mutants_module,
    mutants_private,
    mutants_run,
    mutants_tables,
    mutants_tdx,
    mutants_vcpu,
    mutants_zap,
)
from septum.designs.mutants_base import BASE, Mutant

__all__ = ["BASE", "MUTANTS", "Mutant"]

MUTANTS: Final[tuple[Mutant, ...]] = (
    *mutants_mmu.MUTANTS,
    *mutants_tables.MUTANTS,
    *mutants_zap.MUTANTS,
    *mutants_tdx.MUTANTS,
    *mutants_vcpu.MUTANTS,
    *mutants_fences.MUTANTS,
    *mutants_direct.MUTANTS,
    *mutants_direct_log.MUTANTS,
    *mutants_run.MUTANTS,
    *mutants_private.MUTANTS,
    *mutants_life.MUTANTS,
    *mutants_module.MUTANTS,
    *mutants_huge.MUTANTS,
)
