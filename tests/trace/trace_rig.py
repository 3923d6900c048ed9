# SPDX-License-Identifier: GPL-2.0-only
"""Lines of small recordings, written by hand in the kernel's format."""

from __future__ import annotations

import io
import lzma
from pathlib import Path

from septum.trace import ReplayResult, replay

DATA = Path(__file__).parent.parent / "data" / "traces"
EMPTY = 0x8000000000000000
FROZEN = 0x80000000000001A0
HEADER = ["# tracer: nop", "#"]
ROOT = "kvm_mmu_get_page: sp gen 0 gfn 0 l4 8-byte q0 direct rwux nxe ad root 0 sync new"


def sample(name: str) -> list[str]:
    """Lines of a sample, without line ends."""
    data = (DATA / name).read_bytes()
    if name.endswith(".xz"):
        data = lzma.decompress(data)
    return data.decode().splitlines()


def judged(lines: list[str]) -> ReplayResult:
    """With ordinary changes after them: what is new at the end is not judged yet."""
    w = Writer()
    w.time = 900.0
    w.change(2, 0x800, EMPTY, table(0x7F))
    for gfn in range(0x800, 0x880):
        w.change(1, gfn, EMPTY, leaf(gfn))
    return run(lines + w.lines[len(HEADER) :])


def run(lines: list[str], kernel: str | None = None) -> ReplayResult:
    text = "".join(line + "\n" for line in lines)
    return replay(io.BytesIO(text.encode()), kernel=kernel, name="test")


class Writer:
    """Writes lines one microsecond apart."""

    def __init__(self) -> None:
        self.lines = list(HEADER)
        self.time = 1.0

    def line(self, text: str, *, cpu: int = 0, task: str = "CPU 0/KVM-100") -> None:
        self.time += 1e-6
        self.lines.append(f"{task:>22}     [{cpu:03d}] ...1. {self.time:12.6f}: {text}")

    def change(
        self,
        level: int,
        gfn: int,
        old: int,
        new: int,
        *,
        as_id: int = 0,
        cpu: int = 0,
        task: str = "CPU 0/KVM-100",
    ) -> None:
        self.line(
            f"kvm_tdp_mmu_spte_changed: as id {as_id} gfn {gfn:x} level {level}"
            f" old_spte {old:x} new_spte {new:x}",
            cpu=cpu,
            task=task,
        )

    def prepare_zap(self, level: int, gfn: int) -> None:
        self.line(
            f"kvm_mmu_prepare_zap_page: sp gen 0 gfn {gfn:x} l{level} 8-byte q0 direct rwux"
            " nxe ad root 0 sync"
        )

    def tree(self) -> None:
        """A root and tables 0x11, 0x12, 0x13 for gfn 0."""
        self.line(ROOT)
        for level, page in ((4, 0x11), (3, 0x12), (2, 0x13)):
            self.change(level, 0, EMPTY, table(page))

    def rules(self) -> list[str]:
        return [finding.rule for finding in judged(self.lines).findings]


def table(pfn: int) -> int:
    """A non-leaf SPTE, NPT."""
    return pfn << 12 | 0x827


def leaf(pfn: int, bits: int = 0xE67) -> int:
    return pfn << 12 | bits
