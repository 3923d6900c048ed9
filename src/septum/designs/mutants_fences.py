# SPDX-License-Identifier: GPL-2.0-only
"""Mutants that only x86's store buffers show: a full barrier is missing (facts 5.2, 5.6).

Under sequential consistency nothing is wrong with them; ``--memory-model tso`` shows them.
"""

from __future__ import annotations

from typing import Final

from septum.designs.mutants_base import Mutant, change, toggles

__all__ = ["MUTANTS", "TOGGLES"]

_UNLOCK: Final = "    fn.kvm_vcpu_srcu_read_unlock(vcpu)\n"
_BARRIER: Final = "    vcpu.m.smp_mb()  # smp_mb__after_srcu_read_unlock()\n"
_BARE: Final = "    vcpu.kvm.srcu.read_unlock(vcpu.srcu_idx.v, mb=False)\n"

MUTANTS: Final = (
    Mutant(
        "mode-without-mb",
        "5.6",
        "no full barrier between mode := IN_GUEST_MODE and the exit test",
        "zap-rerun",
        "I8",
        (change("vcpu_enter_guest", _UNLOCK + _BARRIER, _BARE),),
        memory_model="TSO",
    ),
    Mutant(
        "flag-without-mb",
        "5.2",
        "a vCPU's mode is tested with a plain load first, without a barrier after the store "
        "of wait_for_sept_zap",
        "zap-rerun",
        "I8",
        (
            change(
                "kvm_make_all_cpus_request",
                '        with kvm.m.step("kick", vcpu.mode.name):\n',
                "        if vcpu.mode.read() == OUTSIDE_GUEST_MODE:\n"
                "            continue\n"
                '        with kvm.m.step("kick", vcpu.mode.name):\n',
            ),
        ),
        memory_model="TSO",
    ),
)

TOGGLES = toggles(MUTANTS)
