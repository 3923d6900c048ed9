# SPDX-License-Identifier: GPL-2.0-only
"""Floor 3: the TDP MMU, its iterator, SPTEs, faults and roots; TDX glue; vCPU loop.

Functions have the kernel's names and order of steps (Linux 7.3, facts/kvm-tdp-mmu.md) and
call each other through ``kvm.fn``, so that `septum.designs` can replace them.
"""
