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
from septum.scenarios.model import Op, Scenario
from septum.scenarios.ops import GUEST_OPS

__all__ = ["EVERYTHING", "Call", "bind", "real_end", "real_gfn", "removals", "unsupported"]

Call = tuple[str, tuple[int, ...], tuple[GuestOp, ...]]
"""A function of the image, its arguments, and what the guest does meanwhile."""

_GFN, _RANGE, _PLAIN = "gfn", "range", "plain"

# operation -> function, how arguments are to be read, whether the vCPU's number comes first
_OPS: Final[Mapping[str, tuple[str, str, bool]]] = {
    "delete_slot": ("septum_op_delete_slot", _PLAIN, False),
    "destroy_vm": ("septum_op_destroy_vm", _PLAIN, False),
    "fault": ("septum_op_fault", _GFN, True),
    "finalize": ("septum_op_finalize", _PLAIN, False),
    "init_mem_region": ("septum_op_init_mem_region", _GFN, False),
    "load": ("septum_op_load", _PLAIN, True),
    "prefault": ("septum_op_prefault", _GFN, True),
    "punch_hole": ("septum_op_punch_hole", _RANGE, False),
    "release_gmem": ("septum_op_release_gmem", _PLAIN, False),
    "release_hkid": ("septum_op_release_hkid", _PLAIN, False),
    "run_vcpu": ("septum_op_run_vcpu", _PLAIN, True),
    "set_attributes": ("septum_op_set_attributes", _RANGE, False),
    "zap_leafs": ("septum_op_zap_leafs", _RANGE, False),
    "zap_range": ("septum_op_zap_range", _RANGE, False),
}


def real_gfn(geometry: Geometry, gfn: int) -> int:
    """A scenario's GFN as the kernel's."""
    out = 0
    for level in range(geometry.levels):
        out |= (gfn >> level * geometry.bits & geometry.mask) << 9 * level
    return out


def real_end(geometry: Geometry, end: int) -> int:
    """The end of a range: one behind its last GFN."""
    return real_gfn(geometry, end - 1) + 1


def unsupported(scenario: Scenario) -> str:
    """Why the compiled kernel does not run a scenario; empty if it does."""
    start = scenario.start
    if getattr(start, "slots", ()):
        return "more than one memslot is not offered by the compiled kernel"
    if start.huge:
        return "huge mirror leafs in the start state are not offered by the compiled kernel"
    for task in scenario.tasks:
        for what in task.ops:
            if what.name not in _OPS:
                return f"operation {what.name} is not offered by the compiled kernel"
            for inner in what.guest:
                if inner.name not in ("accept", "touch", "read", "write"):
                    return f"guest operation {inner.name} is not offered by the compiled kernel"
    if getattr(scenario, "interrupts", 0) or getattr(scenario, "alloc_failures", 0):
        return "injected interrupts or allocation failures: not offered by the compiled kernel"
    return ""


def bind(geometry: Geometry, vcpu: int, what: Op) -> Call:
    """An operation as a call.

    :param vcpu: the task's vCPU; -1 for a host thread.
    """
    function, form, first = _OPS[what.name]
    args = tuple(int(a) for a in what.args)
    real: Sequence[int] = args
    if form == _GFN:
        real = (real_gfn(geometry, args[0]), *args[1:])
    elif form == _RANGE:
        real = (real_gfn(geometry, args[0]), real_end(geometry, args[1]), *args[2:])
    program = tuple(_guest(geometry, g) for g in what.guest)
    return function, ((vcpu, *real) if first else tuple(real)), program


def _guest(geometry: Geometry, what: Op) -> GuestOp:
    make: Callable[..., GuestOp] = GUEST_OPS[what.name]
    made = make(*what.args)
    return made._replace(gfn=real_gfn(geometry, made.gfn))


_REMOVING: Final = frozenset({"punch_hole", "zap_leafs", "zap_range"})
_REMOVING_ALL: Final = frozenset({"delete_slot", "destroy_vm", "release_gmem", "release_hkid"})
EVERYTHING: Final = (0, 1 << 52)


def removals(geometry: Geometry, ops: Sequence[Op]) -> tuple[tuple[int, int], ...]:
    """The GFNs that operations are there to remove, as the kernel's ranges; the same
    operations as in `septum.kvm.operations` say so."""
    out = []
    for what in ops:
        if what.name in _REMOVING_ALL:
            return (EVERYTHING,)
        if what.name in _REMOVING or (what.name == "set_attributes" and not what.args[2]):
            start, end = int(what.args[0]), int(what.args[1])
            out.append((real_gfn(geometry, start), real_end(geometry, end)))
    return tuple(out)
