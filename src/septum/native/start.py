# SPDX-License-Identifier: GPL-2.0-only
"""Brings the compiled kernel into a scenario's start state, nobody racing; and what is done
after a scenario, to see whether everything still works (`c/setup.c`, `c/operations.c`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from septum.kvm.features import Features
from septum.machine import Halt
from septum.machine.geometry import Geometry
from septum.native.driver import Driver
from septum.native.image import GMEM_PFN, HVA_PFN
from septum.native.operations import Call, bind, real_end, real_gfn, scenario_slots
from septum.scenarios.model import Op, Start
from septum.scenarios.start import StartError
from septum.tdx import leaves

__all__ = ["epilogue_steps", "run", "start_state"]

_TDX, _AD_BITS, _PML, _NX, _EAGER_SPLIT = 1, 2, 4, 8, 16
_QUIRK_SLOT_ZAP_ALL: Final = 1 << 7
_FAR_SLOT: Final = 100
_NO_FILE: Final = 255
_CONSTANT: Final = ("tdp_mmu_enabled", "tdp_enabled")
"""Variables that are set once, beside others that change."""


def run(driver: Driver, call: Call, cpu: int, vcpu: int) -> int:
    """An operation, as one call."""
    name, args, program = call
    if program:
        driver.kernel.vcpus[vcpu].guest.load(program)
    return driver.call(name, *args, cpu=cpu, vcpu=vcpu)


class _Must:
    """Calls that have to succeed."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver

    def __call__(
        self, name: str, *args: int, cpu: int = 0, good: Callable[[int], bool] | None = None
    ) -> None:
        """:raises StartError: it failed, or broke a rule."""
        machine = self.driver.m
        try:
            result = self.driver.sequential(name, *args, cpu=cpu)
        except Halt:
            result = -1
        problems = [f for f in machine.findings if f.rule != "UNMODELLED"] or machine.findings
        if problems or not (result == 0 if good is None else good(result)):
            what = f"{problems[0].rule}: {problems[0].message}" if problems else f"{result}"
            raise StartError(
                f"the start state cannot be made: {name.removeprefix('septum_')}: {what}"
            )


def _any(_: int) -> bool:
    return True


def _fixed(result: int) -> bool:
    return result > 0


def _host(start: Start) -> int:
    """`septum_module_init`'s last argument."""
    vm = start.default_vm
    if vm is None:
        return _TDX | _AD_BITS
    f = vm.features
    flags = (f.ad, _AD_BITS), (f.pml, _PML), (f.nx, _NX), (f.eager_split, _EAGER_SPLIT)
    return sum(flag for on, flag in flags if on)


def _vm_arguments(td: bool, f: Features) -> tuple[int, int, int, int]:
    log = int(f.manual or f.init_set) | int(f.init_set) << 1
    return int(td), log, 0 if f.slot_zap_all else _QUIRK_SLOT_ZAP_ALL, int(f.write_tracking)


def start_state(driver: Driver, geometry: Geometry, start: Start) -> None:
    """Make the VM, its vCPUs and memslots, and map what the scenario says.

    :raises StartError: the kernel fails before anything races.
    """
    kernel = driver.kernel
    must = _Must(driver)
    td = start.default_vm is None
    features = kernel.features = (
        Features() if start.default_vm is None else start.default_vm.features
    )
    level = start.shared_level if start.default_vm is None else start.default_vm.max_level
    poke = kernel.poke_symbol
    poke("septum_hva_pfn", HVA_PFN)
    poke("septum_hva_huge", int(level > 1))
    _watch(driver, geometry)
    symbols = driver.image.symbols
    for number, name in enumerate(_CONSTANT):
        kernel.poke(symbols["septum_constants"] + 8 * number, symbols.get(name, 0))
    for function, args in kernel.setup_arguments(_host(start)):
        must(function, *args, good=None if function == "septum_module_init" else _any)
    must("septum_create_vm", *_vm_arguments(td, features))
    kernel.adopt_vm(td)
    for number in range(start.vcpus):
        must("septum_create_vcpu", number, cpu=number)
        kernel.adopt_vcpu(number)
    far = _memory(driver, must, geometry, start, level)
    if start.finalized and td:
        must("septum_op_finalize")
    if far and not td:
        must("septum_op_access", 0, far, 1)
    elif far and start.finalized:
        must("septum_op_fault", 0, far, good=_fixed)
    elif far:
        must("septum_op_init_mem_region", far)
    _mappings(driver, must, geometry, start)


def _watch(driver: Driver, geometry: Geometry) -> None:
    """Entries of page tables whose writes are always points: the scenario's, those of the page
    far away, and the same behind the shared bit."""
    entries = {*range(geometry.entries), 0x1FF, *range(0x100, 0x100 + geometry.entries)}
    at = driver.image.symbols["septum_watch"]
    for word in range(8):
        bits = sum(1 << e % 64 for e in entries if e // 64 == word)
        driver.kernel.poke(at + 8 * word, bits)


def _memory(driver: Driver, must: _Must, geometry: Geometry, start: Start, level: int) -> int:
    """Files, memslots, userspace's pages; the GFN of the page far away (0: none)."""
    kernel = driver.kernel
    slots = scenario_slots(start)
    ends = {file: end for first, pages, file in slots if (end := first + pages) and file >= 0}
    for file in sorted(ends):
        end = max(first + pages for first, pages, f in slots if f == file)
        must("septum_create_gmem", file, real_end(geometry, end), GMEM_PFN)
        kernel.adopt_file(file)
    for number, (first, pages, file) in enumerate(slots):
        gfn, end = real_gfn(geometry, first), real_end(geometry, first + pages)
        if level > 1 and file < 0 and not (first + pages) & geometry.mask:
            end = end + 0x1FF & ~0x1FF  # pages of 2M are whole
        must("septum_create_slot", number, gfn, end - gfn, file if file >= 0 else _NO_FILE)
        kernel.slots[number] = tuple(real_gfn(geometry, first + n) for n in range(pages))
    kernel.gfns = frozenset(gfn for gfns in kernel.slots.values() for gfn in gfns)
    far = 0
    if geometry.levels < kernel.geometry.levels:
        far = 0x1FF << 9 * geometry.levels - 9
        must("septum_create_far", _FAR_SLOT, far, 0 if 0 in ends else _NO_FILE)
    # MMIO that becomes a slot has a page of userspace's, too.
    for gfn in sorted({*kernel.gfns, *(real_gfn(geometry, g) for g in (4, 5))}):
        must("septum_host_page", gfn)
    return far


def _mappings(driver: Driver, must: _Must, geometry: Geometry, start: Start) -> None:
    kernel, machine = driver.kernel, driver.m

    def real(gfn: int) -> int:
        return real_gfn(geometry, gfn)

    for gfn in start.shared:
        if kernel.module is not None and _in_file(start, gfn):
            must("septum_op_set_attributes", real(gfn), real(gfn) + 1, 0)
    for gfn in start.built:
        must("septum_op_init_mem_region", real(gfn))
    for vcpu, gfn in start.zero_step:
        _arm_zero_step(driver, vcpu, real(gfn))
    for gfn in start.mapped:
        must("septum_op_fault", 0, real(gfn), good=_fixed)
    for gfn in start.mapped_shared:
        must("septum_op_fault", 0, real(gfn), 1, good=_fixed)
    if start.accepted:
        run(driver, bind(geometry, 0, _accept(start.accepted)), 0, 0)
    for what in start.before:
        run(driver, bind(geometry, 0, what), 0, 0)
    if machine.findings:
        raise StartError(f"the start state cannot be made: {machine.findings[0].message}")


def _in_file(start: Start, gfn: int) -> bool:
    return any(f >= 0 and first <= gfn < first + n for first, n, f in scenario_slots(start))


def _accept(gfns: tuple[int, ...]) -> Op:
    return Op("run_vcpu", (), tuple(Op("accept", (g,)) for g in gfns))


def _arm_zero_step(driver: Driver, vcpu: int, gfn: int) -> None:
    """As `septum.kvm.tdx_vm.arm_zero_step`: seven exits at one instruction."""
    kernel = driver.kernel
    tdvpr = kernel.tdvpr(kernel.vcpus[vcpu].id)
    for _ in range(7):
        result = kernel.module.seamcall(leaves.TDH_VP_ENTER, {"rcx": tdvpr}, vcpu)
        if result.event != "td-entry":
            break
        kernel.module.guest_access(vcpu, gfn << 12, write=False)


def epilogue_steps(driver: Driver, geometry: Geometry, start: Start, view: Any) -> list[Any]:
    """Touch every GFN that has a memslot by now, take everything away, close everything."""
    kernel = driver.kernel
    call = driver.sequential
    if kernel.image.u64(kernel.image.symbols["septum_destroyed"]):
        return []  # by the scenario's own tasks
    steps: list[Callable[[], object]] = []
    slots = scenario_slots(start)
    gfns = (real_gfn(geometry, g) for g in range(1 << geometry.gfn_bits))
    pages = [g for g in gfns if kernel.image.look("septum_slot_state", g)]
    if start.default_vm is not None:
        steps += [partial(call, "septum_op_access", 0, g, 1) for g in pages]
        end = real_end(geometry, start.slot_pages)
        steps.append(partial(call, "septum_op_unmap_hva", 0, end))
    elif not view.vm_dead() and view.keys_configured():
        if kernel.value("kvm.arch.pre_fault_allowed"):
            steps += [partial(_touch, driver, g) for g in pages]
        for file in sorted({f for _, _, f in slots if f >= 0}):
            end = max(first + n for first, n, f in slots if f == file)
            steps.append(partial(call, "septum_op_punch_hole", 0, real_end(geometry, end), file))
    steps.append(partial(call, "septum_op_destroy_vm"))
    return steps


def _touch(driver: Driver, gfn: int) -> int:
    """A write fault on the side that the page has now."""
    shared = int(not driver.kernel.image.look("septum_is_private", gfn))
    return driver.sequential("septum_op_fault", 0, gfn, shared)
