# SPDX-License-Identifier: GPL-2.0-only
"""Synthetic recordings from the compiled kernel: an execution of a kernel tree's own C code
(`septum.native`) on the TDX Module's model, as the text that ftrace would print.

The image's tracepoints are off.  A kvm_tdp_mmu_spte_changed line is written where the entry
gets its new value; FROZEN_SPTE in between is not a value of its own, except in a table that is
removed, whose children stay frozen (facts 4.4).  Where 7.3 stores first and calls after (under
the exclusive mmu_lock), the line waits for the calls, as the event does (facts 4.3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from septum.kvm.versions import KERNELS
from septum.kvm.view import SpteChange
from septum.machine import Policy
from septum.native.code import Code
from septum.native.process import ImageProcess, Wanted
from septum.native.program import NativeBuilt, SharingGrew
from septum.scenarios.model import Scenario
from septum.tdx.status import TDX_EPT_ENTRY_STATE_INCORRECT, Operand
from septum.trace.events import SpteChanged
from septum.trace.synthetic import Writer

__all__ = ["FAULTS", "SYNTHETIC_KERNEL", "record_kernel"]

SYNTHETIC_KERNEL: Final = (
    "# SYNTHETIC: made by septum from compiled Linux {version} on the TDX Module model, not"
    " recorded on a host"
)
_FROZEN: Final = KERNELS["7.3"].frozen
_WARM: Final = 40
_ZAP: Final = (
    *("TDH.MEM.RANGE.BLOCK", "TDH.MEM.TRACK", "TDH.MEM.PAGE.REMOVE"),
    *("TDH.PHYMEM.PAGE.WBINVD", "TDH.VP.ENTER"),
)
"""Calls of tdx_sept_remove_private_spte() and of vCPUs that it kicks."""


class _Recorder:
    def __init__(self, built: NativeBuilt, mark: str) -> None:
        self.writer = Writer(built.machine, built.program.task_names, 9, mark)
        self.frozen: dict[int, list[tuple[tuple[int, int], int]]] = {}
        """By task: entries that it froze, and their value before."""
        self.waiting: dict[int, tuple[tuple[int, int], int, int]] = {}
        """By task: a change whose calls come after its store."""
        self.on = True
        settle = built.program.settle

        def settled() -> None:
            """All tasks are done; how the VM ends is not part of the recording."""
            for task in list(self.waiting):
                self.flush(task)
            self.on = False
            if settle is not None:
                settle()

        built.program.settle = settled
        view = built.view
        view.subscribe("spte", self.changed)
        view.subscribe("seamcall", self.seamcall)

    def restart(self) -> None:
        self.on = True
        self.writer.restart()
        self.frozen.clear()
        self.waiting.clear()

    def seamcall(self, name: str, regs: dict[str, int], result: Any) -> None:
        if not self.on:
            return
        if name not in _ZAP:
            self.flush(self.writer.machine.current.id)
        self.writer.seamcall(name, regs, result)
        if name == "TDH.PHYMEM.PAGE.WBINVD":  # the last call of a removal
            self.flush(self.writer.machine.current.id)

    def flush(self, task: int) -> None:
        """The change of ``task`` that waited for its calls is done."""
        waiting = self.waiting.pop(task, None)
        if waiting is not None:
            self._line(*waiting, task)

    def changed(self, change: SpteChange) -> None:
        if not self.on:
            return
        entry = change.entry
        key = (entry.level, entry.gfn)
        mine = self.frozen.setdefault(change.task, [])
        self.flush(change.task)
        if change.new == _FROZEN:
            self._children(mine, key)
            mine.append((key, change.old))
            return
        old = change.old
        if old == _FROZEN:
            old = next((before for frozen, before in mine if frozen == key), old)
        rest = [item for item in mine if item[0] != key]
        self._children(rest, key)
        self.frozen[change.task] = []
        if old in (change.new, _FROZEN):
            return
        if change.mmu_lock_write:
            self.waiting[change.task] = (key, old, change.new)
        else:
            self._line(key, old, change.new)

    def _children(self, mine: list[tuple[tuple[int, int], int]], now: tuple[int, int]) -> None:
        """Entries of a removed table are done when their task goes on."""
        for (level, gfn), before in list(mine):
            if level < now[0] or (level == now[0] and gfn != now[1]):
                self._line((level, gfn), before, _FROZEN)
                mine.remove(((level, gfn), before))

    def _line(self, key: tuple[int, int], old: int, new: int, task: int | None = None) -> None:
        event = SpteChanged(0, key[1], key[0], old, new)
        self.writer.line(f"kvm_tdp_mmu_spte_changed: {event.payload()}", task)


def _record(built: NativeBuilt, seed: int, mark: str) -> list[str]:
    recorder = _Recorder(built, mark)
    for _ in range(_WARM):
        recorder.restart()
        try:
            built.program.run((), (), Policy("random", seed=seed))
        except SharingGrew:
            continue
        return recorder.writer.lines
    raise RuntimeError("the words that tasks share were not learned")


def record_kernel(code: Code, scenario: Scenario, seed: int = 0) -> list[str]:
    """The text of one execution of the image in ``scenario``, without line ends.

    :param seed: of the random schedule.
    :raises StartError, ImageError, ImageDied: the image cannot do that.
    """
    process = ImageProcess(Wanted(code, scenario))
    try:
        return process.ask(_record, seed, SYNTHETIC_KERNEL.format(version=code.version))
    finally:
        process.close()


# ------------------------------------------------------------------------ inserted faults


def _pairs(lines: list[str], name: str) -> list[tuple[int, int]]:
    """Line numbers of the begin and end of every successful call of a wrapper."""
    found = []
    for end, line in enumerate(lines):
        if f"_done: ({name}+" not in line or " status=0x0 " not in line:
            continue
        who = line.split("]")[0]
        begin = next(n for n in range(end - 1, -1, -1) if lines[n].split("]")[0] == who)
        found.append((begin, end))
    return found


def _without(lines: list[str], name: str) -> list[str]:
    begin, end = _pairs(lines, name)[-1]
    return [line for n, line in enumerate(lines) if n not in (begin, end)]


def lost_remove(lines: list[str]) -> list[str]:
    """The host forgets the last TDH.MEM.PAGE.REMOVE: a blocked page stays in the S-EPT."""
    return _without(lines, "tdh_mem_page_remove")


def wrong_status(lines: list[str]) -> list[str]:
    """The last TDH.MEM.PAGE.AUG returns TDX_EPT_ENTRY_STATE_INCORRECT for a free entry."""
    _, end = _pairs(lines, "tdh_mem_page_aug")[-1]
    status = TDX_EPT_ENTRY_STATE_INCORRECT | Operand.RCX
    changed = lines[end].replace("status=0x0 rcx=0x0", f"status={status:#x} rcx={1 << 63:#x}")
    return [*lines[:end], changed, *lines[end + 1 :]]


def other_page(lines: list[str]) -> list[str]:
    """The first leaf of the mirror maps another page than the one augmented."""
    _, end = _pairs(lines, "tdh_mem_page_aug")[0]
    at = next(n for n in range(end, len(lines)) if "level 1" in lines[n])
    head, new = lines[at].rsplit(" ", 1)
    return [*lines[:at], f"{head} {int(new, 16) + 0x1000:x}", *lines[at + 1 :]]


FAULTS: Final[dict[str, Callable[[list[str]], list[str]]]] = {
    fault.__name__.replace("_", "-"): fault for fault in (lost_remove, wrong_status, other_page)
}
"""What can be inserted into a recording, by name."""
