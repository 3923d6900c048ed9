# SPDX-License-Identifier: GPL-2.0-only
"""Which roots belong to one VM, and which took another's place (septum.trace.roots)."""

from __future__ import annotations

from trace_rig import EMPTY, ROOT, Writer, leaf, run, table

from septum.report.replay_text import replay_lines
from septum.trace import ReplayResult

ZAP = "kvm_mmu_zap_all_fast: kvm-mmu-valid-gen 0 used_pages 3"
VCPU0, VCPU1, OTHER, HOST = "CPU 0/KVM-100", "CPU 1/KVM-101", "CPU 0/KVM-200", "vmm-99"


class Vm(Writer):
    def fault(self, task: str) -> None:
        self.line("kvm_page_fault: vcpu 0 rip 0x0 address 0x5000 error_code 0x4", task=task)

    def made(self, task: str, page: int) -> None:
        """A root and its first table; the vCPU then takes a fault."""
        self.line(ROOT, task=task)
        self.change(4, 0, EMPTY, table(page), task=task)
        self.fault(task)


def roots(w: Writer) -> list[tuple[int, int | None, int | None]]:
    """(VM, line of invalidation, root followed) of each root."""
    return [(r.vm, r.invalidated, r.follows) for r in run(w.lines).roots]


def test_a_successor_takes_the_place_of_an_invalid_root() -> None:
    w = Vm()
    w.made(VCPU0, 0x11)
    w.fault(VCPU1)
    w.line(ZAP, task=HOST)
    w.made(VCPU1, 0x12)
    assert roots(w) == [(1, 7, None), (1, None, 1)]
    text = "\n".join(replay_lines(run(w.lines)))
    assert "Roots by VM\n  VM 1\n    root 1: line 3, made by CPU 0/KVM-100; invalid" in text
    assert "root 2: line 8, made by CPU 1/KVM-101; successor of root 1" in text


def test_a_task_that_has_not_run_before_is_of_another_vm() -> None:
    w = Vm()
    w.made(VCPU0, 0x11)
    w.made(OTHER, 0x21)
    w.line(ZAP, task=HOST)  # of which of the two?
    assert roots(w) == [(1, None, None), (2, None, None)]


def test_the_process_tells_vms_apart() -> None:
    """With the option record-tgid."""
    w = Vm()
    w.made(VCPU0, 0x11)
    w.made(OTHER, 0x21)
    w.line(ZAP, task=HOST)
    w.made(VCPU1, 0x12)
    process = {"100": "99", "101": "99", "99": "99", "200": "199"}
    for pid, tgid in process.items():
        w.lines = [line.replace(f"-{pid}     [", f"-{pid} (  {tgid})  [") for line in w.lines]
    assert roots(w) == [(1, 9, None), (2, None, None), (1, None, 1)]
    assert [r.tgid for r in run(w.lines).roots] == [99, 199, 99]


def placed(at: int) -> ReplayResult:
    """Two roots map gfn 5; the line of the second fault gives the address of its entry."""
    w = Vm()
    for page in (0x11, 0x21):
        w.line(ROOT)
        for level in (4, 3, 2):
            w.change(level, 0, EMPTY, table(page + 4 - level))
        w.change(1, 5, EMPTY, leaf(0x95))
    w.line(f"kvm_mmu_set_spte: gfn 5 spte {leaf(0x95):x} (rwxu) level 1 at {at * 0x1000 + 40:x}")
    return run(w.lines)


def test_the_address_of_an_entry_tells_trees_apart() -> None:
    assert placed(0x23).findings == placed(0x13).findings == []
