# SPDX-License-Identifier: GPL-2.0-only
"""Private memory: conversion, holes, memslots, notifiers, moving vCPUs, the VM's end.

GFNs 0 and 1 share a last-level table, as do 2 and 3.  CPU ``vcpus`` is the host's,
``vcpus + 1`` is free for a vCPU to move to.
"""

from __future__ import annotations

from septum.scenarios.model import Scenario, Start, op, run_vcpu
from septum.scenarios.suite.tasks import host, vcpu

__all__ = ["SCENARIOS"]

THREE = ("v7.3", "feb06", "v6.16")
"""Where the removal of a private leaf, which differs by design, is what matters."""

BASE = ("v7.3",)
"""Where no design differs: the shared side, memslots, flush requests."""

SHARED = Start(vcpus=1, mapped=(2,), shared=(0,), mapped_shared=(0,))

SCENARIOS: tuple[Scenario, ...] = (
    # --- zaps against running vCPUs -------------------------------------------------------
    Scenario(
        "zap-rerun",
        "the host zaps a page while a vCPU leaves the guest by itself and comes back",
        "Must wait_for_sept_zap be tested after mode is IN_GUEST_MODE?",
        (vcpu(0, run_vcpu(), run_vcpu()), host(op("zap_leafs", 0, 1))),
        Start(vcpus=1, mapped=(0,), accepted=(0,)),
        must_occur=("the second no-vCPUs call was made", "vCPU saw wait_for_sept_zap"),
        designs=THREE,
    ),
    Scenario(
        "shared-zap",
        "userspace frees memory that a running vCPU has mapped as shared",
        "Is every cached translation gone when the MMU notifier's start returns?",
        (vcpu(0, run_vcpu(op("read_shared", 0))), host(op("unmap_hva", 0, 1))),
        SHARED,
        must_occur=("kick interrupted a running vCPU", "a direct leaf was zapped"),
        designs=BASE,
    ),
    Scenario(
        "shared-zap-twice",
        "userspace frees two shared pages one after the other while a vCPU runs",
        "May a flush request be cleared after the flush?",
        (vcpu(0, run_vcpu()), host(op("unmap_hva", 0, 1), op("unmap_hva", 1, 2))),
        Start(vcpus=1, mapped=(2,), shared=(0, 1), mapped_shared=(0, 1)),
        must_occur=("a direct leaf was zapped", "a request stopped a vCPU before it entered"),
        designs=BASE,
    ),
    # --- the MMU notifier -----------------------------------------------------------------
    Scenario(
        "notifier-fault",
        "a vCPU faults a shared GFN while userspace frees its page",
        "Does the retry protocol keep a fault from mapping a page that is being freed?",
        (vcpu(0, op("fault", 0, 1)), host(op("unmap_hva", 0, 1))),
        Start(vcpus=1, mapped=(2,), shared=(0,)),
        must_occur=(
            "mmu_seq forced a retry",
            "an invalidation in progress forced a retry",
            "a direct leaf was zapped",
        ),
        designs=BASE,
    ),
    Scenario(
        "notifier-slot",
        "a memslot is deleted while userspace frees its memory",
        "May the notifier's start find a slot that its end does not?",
        (
            host(op("delete_slot", 1)),
            host(op("unmap_hva", 2, 3), name="notifier"),
        ),
        Start(vcpus=1, slots=((0, 2, 0), (2, 1, -1)), mapped=(0,), shared=(2,), mapped_shared=(2,)),
        must_occur=("a slot swap waited for a notifier", "a notifier found no slot"),
        designs=BASE,
    ),
    # --- memslots -------------------------------------------------------------------------
    Scenario(
        "delete-fault",
        "a memslot is deleted while two vCPUs fault in it",
        "Does the EPT-violation loop let the deletion go on?",
        (vcpu(0, op("fault", 0)), host(op("delete_slot", 0))),
        Start(vcpus=1, mapped=(1,), accepted=(1,)),
        must_occur=("the slot's deletion ended a local retry", "a mirror leaf was zapped"),
    ),
    Scenario(
        "delete-run",
        "a memslot is deleted while a vCPU in the guest uses it",
        "Is the page out of reach when the slot is gone?",
        (vcpu(0, run_vcpu()), host(op("delete_slot", 0))),
        Start(vcpus=1, mapped=(0,), accepted=(0,)),
        must_occur=("a mirror leaf was zapped", "the second no-vCPUs call was made"),
        designs=THREE,
    ),
    Scenario(
        "delete-shared",
        "a memslot of shared memory is deleted while a vCPU runs",
        "Is every cached translation gone when the slot is?",
        (vcpu(0, run_vcpu()), host(op("delete_slot", 1))),
        Start(vcpus=1, slots=((0, 2, 0), (2, 1, -1)), mapped=(0,), shared=(2,), mapped_shared=(2,)),
        must_occur=("a direct leaf was zapped", "a request stopped a vCPU before it entered"),
        designs=BASE,
    ),
    Scenario(
        "delete-prefault",
        "a memslot is deleted while userspace prefaults in it",
        "Does a prefault give up an INVALID slot instead of waiting for ever?",
        (vcpu(0, op("prefault", 0)), host(op("delete_slot", 0))),
        Start(vcpus=1, mapped=(1,)),
        must_occur=(
            "a prefault met an INVALID slot",
            "prefault was refused",
            "prefault mapped or found the page",
        ),
        designs=BASE,
    ),
    Scenario(
        "move-fault",
        "a memslot moves while a vCPU faults at its old address",
        "May a fault that found the slot map it after it has moved?",
        (vcpu(0, op("fault", 2, 1)), host(op("move_slot", 1, 3))),
        Start(vcpus=1, slots=((0, 2, 0), (2, 1, -1)), mapped=(0,), shared=(2, 3), mapped_shared=()),
        must_occur=("a fault met an INVALID slot", "a direct leaf was zapped"),
        designs=BASE,
    ),
    # --- guest_memfd ------------------------------------------------------------------------
    Scenario(
        "punch-slots",
        "one hole over two memslots of a file while vCPUs fault in both",
        "Are all slots of a file unmapped before its pages are freed?",
        (vcpu(0, op("fault", 1)), vcpu(1, op("fault", 2)), host(op("punch_hole", 1, 3))),
        Start(slots=((0, 2, 0), (2, 2, 0)), mapped=(1, 2)),
        must_occur=("a mirror leaf was zapped", "an invalidation in progress forced a retry"),
        designs=THREE,
    ),
    Scenario(
        "punch-files",
        "two files are punched at once while a vCPU faults in one of the holes",
        "Is the one merged range enough for several invalidations?",
        (
            vcpu(0, op("fault", 0)),
            host(op("punch_hole", 0, 1, 0)),
            host(op("punch_hole", 2, 3, 1), name="other"),
        ),
        Start(vcpus=1, slots=((0, 2, 0), (2, 2, 1)), mapped=(1, 3)),
        must_occur=("two invalidations were in progress", "a mirror leaf was zapped"),
        designs=THREE,
    ),
    Scenario(
        "init-punch",
        "a page of the initial image is added while a hole is punched over it",
        "May PAGE.ADD meet a page that is being given back?",
        (
            host(op("init_mem_region", 0), op("init_mem_region", 2), name="build"),
            host(op("punch_hole", 0, 1)),
        ),
        Start(vcpus=1, finalized=False, built=(1,)),
        must_occur=("a mirror leaf was zapped",),
    ),
    # --- conversion -------------------------------------------------------------------------
    Scenario(
        "convert-fault",
        "a page becomes shared while vCPUs fault it on both sides",
        "May a fault map the side that a page no longer has?",
        (
            vcpu(0, op("fault", 0)),
            host(op("set_attributes", 0, 1, 0), op("punch_hole", 0, 1)),
        ),
        Start(vcpus=1, mapped=(0, 1), accepted=(0, 1)),
        must_occur=("a mirror leaf was zapped", "an invalidation in progress forced a retry"),
        designs=THREE,
    ),
    Scenario(
        "convert-guest",
        "the guest makes a page shared while another vCPU uses it as private",
        "Is the page out of every vCPU's reach before it goes back to the host?",
        (
            vcpu(0, run_vcpu(op("to_shared", 0), op("read_shared", 0))),
            vcpu(1, run_vcpu()),
        ),
        Start(mapped=(0,), accepted=(0,)),
        must_occur=(
            "a mirror leaf was zapped",
            "a request stopped a vCPU before it entered",
            "the second no-vCPUs call was made",
        ),
        designs=THREE,
    ),
    Scenario(
        "convert-back",
        "a shared page becomes private while a vCPU in the guest uses it as shared",
        "Is the shared side flushed before the attribute says private?",
        (
            vcpu(0, run_vcpu(op("read_shared", 0))),
            host(op("set_attributes", 0, 1, 1), op("unmap_hva", 0, 1)),
        ),
        SHARED,
        must_occur=("a direct leaf was zapped", "kick interrupted a running vCPU"),
        designs=BASE,
    ),
    # --- vCPUs that move --------------------------------------------------------------------
    Scenario(
        "migrate-zap",
        "a vCPU moves to another CPU while a page that it used is zapped",
        "Which flush drops what is cached on the CPU that it left?",
        (vcpu(0, op("migrate_vcpu", 2), run_vcpu()), host(op("zap_leafs", 0, 1))),
        Start(vcpus=1, mapped=(0,), accepted=(0,)),
        must_occur=("a vCPU moved to another CPU", "a mirror leaf was zapped"),
        designs=THREE,
    ),
    Scenario(
        "migrate-shared",
        "a vCPU moves and comes back while userspace frees shared memory",
        "Does a flush request serve a vCPU that has moved meanwhile?",
        (
            vcpu(0, op("migrate_vcpu", 2), run_vcpu(), op("migrate_vcpu", 0), run_vcpu()),
            host(op("unmap_hva", 0, 1)),
        ),
        SHARED,
        must_occur=("a vCPU moved to another CPU", "a direct leaf was zapped"),
        designs=BASE,
    ),
    # --- the end ----------------------------------------------------------------------------
    Scenario(
        "death-zap",
        "the VM dies while the host zaps one of its pages",
        "Does a zap in a dying VM still come to its end?",
        (vcpu(0, run_vcpu(op("touch", 0))), host(op("zap_leafs", 1, 2))),
        Start(vcpus=1, mapped=(0, 1), accepted=(1,)),
        must_occur=("guest touched a PENDING page", "a mirror leaf was zapped"),
        designs=THREE,
    ),
    Scenario(
        "teardown-kick",
        "userspace closes everything while a vCPU is still in the guest",
        "Is the key given back only after the last vCPU's translations are gone?",
        (
            vcpu(0, run_vcpu(), op("close_vcpu")),
            host(op("teardown")),
        ),
        Start(vcpus=1, mapped=(0,), accepted=(0,)),
        must_occur=(
            "the VM was destroyed",
            "a request stopped a vCPU before it entered",
            "the second no-vCPUs call was made",
        ),
        designs=THREE,
    ),
)
