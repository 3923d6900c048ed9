# SPDX-License-Identifier: GPL-2.0-only
"""Synthetic recordings: an execution of a scenario as the text that ftrace would print.

There is no TDX host here to record on.  `record_scenario` runs a design once and writes
its trace events and SEAMCALLs as `septum record` would have recorded them.  The header says
that it is synthetic.  Scenarios use tables of few entries: every GFN, PFN and address is
spread to tables of 512 by putting each index into the low bits of a 9-bit index.

A scenario's start state is there before the recording begins, as on a real host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from septum.kvm.seamcall import Injected
from septum.kvm.spte import SPTE_BASE_ADDR_MASK, SPTE_MMU_PRESENT_MASK
from septum.kvm.versions import KERNELS
from septum.machine import Decision, Execution, Machine
from septum.machine.events import Policy
from septum.scenarios.build import Built, build
from septum.scenarios.model import Scenario
from septum.tdx import leaves
from septum.tdx.sept import HPA_MASK
from septum.trace.events import SpteChanged

__all__ = ["SYNTHETIC", "Writer", "record_scenario"]

SYNTHETIC: Final = "# SYNTHETIC: made by septum from a model, not recorded on a host"
_MEM: Final = {
    *("TDH.MEM.SEPT.ADD", "TDH.MEM.SEPT.REMOVE", "TDH.MEM.PAGE.ADD", "TDH.MEM.PAGE.AUG"),
    *("TDH.MEM.PAGE.DEMOTE", "TDH.MEM.PAGE.PROMOTE", "TDH.MEM.PAGE.REMOVE"),
    *("TDH.MEM.RANGE.BLOCK", "TDH.MEM.RANGE.UNBLOCK", "TDH.MEM.PAGE.RELOCATE"),
}
_FIRST_REGION: Final = 2  # in GiB; TDRs lie below
_HEADER: Final = 4
_STEP: Final = 0.002
"""Seconds between lines: more than the clocks of CPUs may differ, for the order is exact."""
_MAX_CHOICES: Final = 4000


class Writer:
    """Writes what happens on a machine as lines.

    :param bits: of a GFN per level of the model's tables.
    :param names: of the tasks, in the order of their numbers.
    """

    def __init__(self, machine: Machine, names: Sequence[str], bits: int, mark: str) -> None:
        self.bits = bits
        self.names = names
        self.machine = machine
        self.regions: dict[int, int] = {}
        self.time = 100.0
        self.lines = ["# tracer: nop", "#", mark, "#"]

    def listen(self, what: str, args: tuple[Any, ...]) -> None:
        if what == "trace":
            payload = self._event(*args)
            if payload:
                self.line(f"{args[0]}: {payload}")
        elif what == "seamcall":
            self.seamcall(*args)

    def restart(self) -> None:
        """Another execution: only the header stays."""
        del self.lines[_HEADER:]
        self.time = 100.0

    def line(self, text: str, task: int | None = None) -> None:
        """The next line, of the present task or of ``task``."""
        if task is None:
            task = self.machine.current.id % (len(self.names) + 1)  # -1: nobody's
        name = self.names[task] if task < len(self.names) else "settle"
        self.time += _STEP
        comm = name.replace("vcpu", "CPU ") + "/KVM" if name.startswith("vcpu") else name
        who = f"{comm:>16}-{1000 + task:<7}"
        self.lines.append(f"{who} [{task:03d}] ...1. {self.time:12.6f}: {text}")

    # ---------------------------------------------------------------------- numbers

    def frame(self, number: int) -> int:
        """A GFN of the model in tables of 512 entries."""
        out, shift, mask = 0, 0, (1 << self.bits) - 1
        while number and shift < 36:
            out |= (number & mask) << shift
            number >>= self.bits
            shift += 9
        return out

    def page(self, number: int) -> int:
        """A PFN: aligned to 2M or 1G where it is to a large page of the model."""
        if not number or self.bits == 9:
            return number  # 0: a register that holds no page
        low = number & ((1 << 2 * self.bits) - 1)
        region = self.regions.setdefault(number >> 2 * self.bits, _FIRST_REGION + len(self.regions))
        return region << 18 | self.frame(low)

    def gpa(self, value: int) -> int:
        """Bits 11:0 stay."""
        return self.frame(value >> 12) << 12 | value & 0xFFF

    def hpa(self, value: int) -> int:
        return self.page(value >> 12) << 12 | value & 0xFFF

    def spte(self, value: int) -> int:
        if not value & SPTE_MMU_PRESENT_MASK:
            return value
        frame = self.page((value & SPTE_BASE_ADDR_MASK) >> 12)
        return value & ~SPTE_BASE_ADDR_MASK | frame << 12

    # ------------------------------------------------------------------------ lines

    def _event(self, name: str, fields: dict[str, Any]) -> str:
        gfn = self.frame(fields.get("gfn", 0))
        if name == "kvm_tdp_mmu_spte_changed":
            old, new = self.spte(fields["old_spte"]), self.spte(fields["new_spte"])
            return SpteChanged(fields["as_id"], gfn, fields["level"], old, new).payload()
        if name in ("kvm_mmu_get_page", "kvm_mmu_prepare_zap_page"):
            role = fields["role"]
            access = KERNELS["7.3"].access_strings[role >> 8 & 0xF]
            text = (
                f"sp gen 0 gfn {gfn:x} l{role & 0xF} 8-byte q0 direct {access} nxe ad root 0 sync"
            )
            return text + (" new" if "created" in fields else "")
        if name == "kvm_mmu_split_huge_page":
            spte, level = self.spte(fields["spte"]), fields["level"]
            return f"gfn {gfn:x} spte {spte:x} level {level} errno {fields['errno']}"
        if name == "kvm_page_fault":
            address, code = self.gpa(fields["address"]), fields["error_code"]
            return f"vcpu {fields['vcpu']} rip 0x0 address 0x{address:016x} error_code {code:#x}"
        return ""

    def seamcall(self, name: str, regs: dict[str, int], result: Any) -> None:
        number = leaves.SEAMCALL_NUMBERS.get(name)
        if number in (leaves.TDH_VP_ENTER, None):
            return  # not a call of the memory path; its function cannot be probed
        into = {reg: regs.get(reg, 0) for reg in ("rcx", "rdx", "r8", "r9")}
        if name in _MEM:
            into["r8"] = self.hpa(into["r8"])
            into["rcx"] = self.gpa(into["rcx"])
        elif name == "TDH.PHYMEM.PAGE.RECLAIM":
            into["rcx"] = self.hpa(into["rcx"])
        fields = " ".join(f"{reg}={value:#x}" for reg, value in into.items())
        self.line(f"seamcall_ret: (__seamcall_ret+0x4/0x60) fn={number:#x} {fields}")
        out = {reg: getattr(result, reg, 0) for reg in ("rcx", "rdx")}
        if isinstance(result, Injected) or name not in _MEM:
            out = {reg: into[reg] for reg in ("rcx", "rdx")}
        else:
            out["rcx"] = out["rcx"] & ~HPA_MASK | self.hpa(out["rcx"] & HPA_MASK)
        text = " ".join(f"{reg}={value:#x}" for reg, value in out.items())
        wrapper = name.lower().replace(".", "_")
        self.line(
            f"seamcall_ret_done: ({wrapper}+0x60/0xa0 <- __seamcall_ret)"
            f" status={result.rax:#x} {text} r8={into['r8']:#x}"
        )


def _runs(built: Built, choices: int) -> Iterator[Execution]:
    """One task after the other, and every combination of the first ``choices`` choices."""
    policy = Policy("continue")
    yield built.program.run((), (), policy)
    for code in range(1, 1 << choices):
        picks = tuple(code >> i & 1 for i in range(choices))
        script = tuple(range(len(built.program.bodies)))
        order = tuple(task for task in script for _ in range(_MAX_CHOICES))
        yield built.program.run((), (), Policy("script", 0, 3, order, (picks,) * len(script)))


def record_scenario(
    design: str,
    scenario: str | Scenario,
    wanted: Callable[[Execution], bool] = lambda execution: True,
    choices: int = 4,
) -> list[str]:
    """The text of one execution of ``scenario`` on ``design``, without line ends.

    Tasks run one after the other.  ``wanted`` chooses among the executions that differ in
    what the environment chose, e.g. which SEAMCALL fails.  Raises ValueError if none is.
    """
    built = build(design, scenario)
    for execution in _runs(built, choices):
        if wanted(execution):
            return _write(built, list(execution.decisions))
    raise ValueError(f"no execution of {design} in this scenario is as wanted")


def _write(built: Built, decisions: list[Decision]) -> list[str]:
    machine = built.machine
    writer = Writer(machine, built.program.task_names, built.kvm.geometry.bits, SYNTHETIC)
    machine.listeners.append(writer.listen)
    try:
        built.program.run(decisions)
    finally:
        machine.listeners.remove(writer.listen)
    return writer.lines
