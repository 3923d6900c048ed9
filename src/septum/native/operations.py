# SPDX-License-Identifier: GPL-2.0-only
"""The scenarios' vocabulary, bound to functions of the glue (``c/operations.c``).

Scenarios number GFNs for small tables; here every index bit becomes nine, so that two GFNs
share tables in the kernel exactly when they do in the scenario.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from septum.kvm.guest import GuestOp
from septum.machine.geometry import Geometry
from septum.scenarios.model import Op, Scenario, Start
from septum.scenarios.ops import GUEST_OPS, SHARED_GUEST_OPS

__all__ = [
    "EVERYTHING",
    "Call",
    "bind",
    "real_end",
    "real_gfn",
    "removals",
    "scenario_slots",
    "unsupported",
    "uses_direct_roots",
]

HARDWARE: Final = Geometry()

Call = tuple[str, tuple[int, ...], tuple[GuestOp, ...]]
"""A function of the image, its arguments, and what the guest does meanwhile."""

_GFN, _RANGE, _PLAIN, _SLOT, _NEW_SLOT = range(5)
"""How arguments are read: a GFN first; first and end of a range; as they are; (number, GFN);
(number, GFN, pages)."""
_KINDS: Final = {"read": 0, "write": 1, "fetch": 2}

# operation -> function, how arguments are to be read, whether the vCPU's number comes first
_OPS: Final[Mapping[str, tuple[str, int, bool]]] = {
    "access": ("septum_op_access", _GFN, True),
    "age": ("septum_op_age", _RANGE, False),
    "clear_dirty": ("septum_op_clear_dirty", _PLAIN, False),
    "close_vcpu": ("septum_op_close_vcpu", _PLAIN, True),
    "create_slot": ("septum_op_create_slot", _NEW_SLOT, False),
    "delete_slot": ("septum_op_delete_slot", _PLAIN, False),
    "destroy_vm": ("septum_op_destroy_vm", _PLAIN, False),
    "fault": ("septum_op_fault", _GFN, True),
    "finalize": ("septum_op_finalize", _PLAIN, False),
    "get_dirty": ("septum_op_get_dirty", _PLAIN, False),
    "init_mem_region": ("septum_op_init_mem_region", _GFN, False),
    "load": ("septum_op_load", _PLAIN, True),
    "log_dirty": ("septum_op_log_dirty", _PLAIN, False),
    "migrate_vcpu": ("septum_op_migrate_vcpu", _PLAIN, True),
    "move_slot": ("septum_op_move_slot", _SLOT, False),
    "prefault": ("septum_op_prefault", _GFN, True),
    "punch_hole": ("septum_op_punch_hole", _RANGE, False),
    "recover_nx": ("septum_op_recover_nx", _PLAIN, False),
    "release_gmem": ("septum_op_release_gmem", _PLAIN, False),
    "release_hkid": ("septum_op_release_hkid", _PLAIN, False),
    "run_vcpu": ("septum_op_run_vcpu", _PLAIN, True),
    "set_attributes": ("septum_op_set_attributes", _RANGE, False),
    "teardown": ("septum_op_teardown", _PLAIN, False),
    "test_age": ("septum_op_test_age", _GFN, False),
    "unlist_nx": ("septum_op_unlist_nx", _PLAIN, False),
    "unmap_hva": ("septum_op_unmap_hva", _RANGE, False),
    "walk": ("septum_op_walk", _GFN, False),
    "write_track": ("septum_op_write_track", _GFN, False),
    "zap_all_fast": ("septum_op_zap_all_fast", _PLAIN, False),
    "zap_leafs": ("septum_op_zap_leafs", _RANGE, False),
    "zap_range": ("septum_op_zap_range", _RANGE, False),
    "zap_root": ("septum_op_zap_root", _PLAIN, False),
    "zap_table": ("septum_op_zap_table", _GFN, False),
}
_GUEST: Final = ("accept", "fetch", "read", "read_shared", "to_private", "to_shared", "touch")
_GUEST_OPS_KNOWN: Final = frozenset({*_GUEST, "write", "write_shared"})
_DIRECT: Final = frozenset(
    ("access", "age", "log_dirty", "unmap_hva", "zap_all_fast", "zap_root", "move_slot")
)


def scenario_slots(start: Start) -> tuple[tuple[int, int, int], ...]:
    """(first GFN, pages, file or -1) of each memslot."""
    if start.default_vm is not None:
        slots = start.slots or ((0, start.slot_pages, -1),)
        return tuple((first, pages, -1) for first, pages, _ in slots)
    return start.slots or ((0, start.slot_pages, 0),)


def uses_direct_roots(scenario: Scenario) -> bool:
    """Something is mapped in a direct root: what monitors judge of them matters."""
    start = scenario.start
    if start.default_vm is not None or start.shared or start.mapped_shared:
        return True
    ops = [*start.before, *(o for task in scenario.tasks for o in task.ops)]
    return any(o.name in _DIRECT or any("shared" in g.name for g in o.guest) for o in ops)


def real_gfn(geometry: Geometry, gfn: int) -> int:
    """A scenario's GFN as the kernel's."""
    out = 0
    for level in range(geometry.levels):
        out |= (gfn >> level * geometry.bits & geometry.mask) << 9 * level
    return out


def real_end(geometry: Geometry, end: int) -> int:
    """The end of a range: one behind its last GFN."""
    return real_gfn(geometry, end - 1) + 1


_NO_HUGE: Final = (
    "no tree has huge private pages: guest_memfd's folios are single pages, and tdx.c has "
    "KVM_BUG_ON(level != PG_LEVEL_4K)"
)


def unsupported(scenario: Scenario) -> str:
    """Why the compiled kernel does not run a scenario; empty if it does."""
    start = scenario.start
    if start.huge or start.folio_level > 1:
        return _NO_HUGE
    for what in (*start.before, *(o for task in scenario.tasks for o in task.ops)):
        if what.name not in _OPS:
            return f"operation {what.name} is not offered by the compiled kernel"
        if what.name == "zap_table" and start.default_vm is None and what.args[1:] != (3,):
            return "zap_table of a mirror table is only offered for the topmost one"
        for inner in what.guest:
            if inner.name not in _GUEST_OPS_KNOWN:
                return f"guest operation {inner.name} is not offered by the compiled kernel"
    if scenario.interrupts:
        return "injected interrupts: not offered by the compiled kernel"
    return ""


def bind(geometry: Geometry, vcpu: int, what: Op) -> Call:
    """An operation as a call.

    :param vcpu: the task's vCPU; -1 for a host thread.
    """
    function, form, first = _OPS[what.name]
    args = tuple(_KINDS[a] if isinstance(a, str) else int(a) for a in what.args)
    real: Sequence[int] = args
    if what.name == "access" and len(args) == 1:
        args = (*args, _KINDS["write"])
    if what.name == "zap_table" and args[1:] == (3,):
        function, args = "septum_op_zap_mirror", args[:1]
    if form == _GFN:
        real = (real_gfn(geometry, args[0]), *args[1:])
    elif form == _RANGE:
        real = (real_gfn(geometry, args[0]), real_end(geometry, args[1]), *args[2:])
    elif form == _SLOT:
        real = (args[0], real_gfn(geometry, args[1]))
    elif form == _NEW_SLOT:
        end = real_end(geometry, args[1] + args[2])
        real = (args[0], real_gfn(geometry, args[1]), end)
    program = tuple(_guest(geometry, g) for g in what.guest)
    return function, ((vcpu, *real) if first else tuple(real)), program


def _guest(geometry: Geometry, what: Op) -> GuestOp:
    make: Callable[..., GuestOp] = GUEST_OPS[what.name]
    made = make(*what.args)
    gfn = real_gfn(geometry, made.gfn)
    if what.name in SHARED_GUEST_OPS:
        gfn |= HARDWARE.shared_gfn
    return made._replace(gfn=gfn)


_REMOVING: Final = frozenset({"punch_hole", "zap_leafs", "zap_range"})
_REMOVING_ALL: Final = frozenset(
    {
        "close_gmem",
        "close_vcpu",
        "delete_slot",
        "teardown",
        "destroy_vm",
        "release_gmem",
        "release_hkid",
        "zap_table",
    }
)
EVERYTHING: Final = (0, 1 << 52)


def removals(geometry: Geometry, ops: Sequence[Op]) -> tuple[tuple[int, int], ...]:
    """The GFNs that operations are there to remove, as the kernel's ranges; the same
    operations as in `septum.kvm.operations` say so."""
    out = []
    for what in ops:
        if what.name in _REMOVING_ALL or any(g.name == "to_shared" for g in what.guest):
            return (EVERYTHING,)
        if what.name in _REMOVING or (what.name == "set_attributes" and not what.args[2]):
            start, end = int(what.args[0]), int(what.args[1])
            out.append((real_gfn(geometry, start), real_end(geometry, end)))
    return tuple(out)
