# SPDX-License-Identifier: GPL-2.0-only
"""Whether a recorded SEAMCALL could have returned what it returned (rule TDX-status).

Calls of different CPUs overlap, and their clocks differ.  If the module contradicts the
recording while a call of another CPU that touches the same entry, table or page lies within
`_SKEW` of this one, nothing is said, and the entry is unknown from then on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from septum.tdx import leaves
from septum.tdx.status import decode
from septum.trace.module_run import Answer
from septum.trace.rules import Finding, Where, finding_at
from septum.trace.sept_shadow import MEMORY_LEAFS, SeamCall, Sept

__all__ = ["StatusCheck"]

_SKEW: Final = 0.001
"""Seconds by which clocks of CPUs may differ; recorded: 545 us (6.12)."""
_KEPT: Final = 256
"""Calls among which overlapping ones are looked for."""


class StatusCheck:
    def __init__(self) -> None:
        self.overlapped = 0
        self._recent: deque[SeamCall] = deque(maxlen=_KEPT)
        self._told: set[int] = set()
        self._more: dict[int, int] = {}
        self._compared = 0
        self._open = 0

    def check(
        self, at: Where, call: SeamCall, td: Sept, inside: Sequence[dict[str, int]]
    ) -> Finding | None:
        """Run the call; the first one of a TD that the module contradicts is the finding.

        :param inside: registers of the calls that other tasks have begun and not ended.
        """
        out = td.apply(call)
        finding = None
        if out is not None:
            if self._overlaps(call, inside):
                self.overlapped += 1
                td.forget(call)
            elif td.tdr in self._told:
                self._more[td.tdr] = self._more.get(td.tdr, 0) + 1
            else:
                self._told.add(td.tdr)
                finding = finding_at("TDX-status", at, _message(call, out))
        self._recent.append(call)
        return finding

    def _overlaps(self, call: SeamCall, inside: Sequence[dict[str, int]]) -> bool:
        for regs in inside:
            fn, rcx, rdx, r8 = (regs.get(reg, 0) for reg in ("fn", "rcx", "rdx", "r8"))
            if _related(call, SeamCall(0, 0, fn, rcx, rdx, r8, 0)):
                return True
        seconds = not call.end.is_integer()  # a clock of whole numbers counts no seconds
        return any(
            other.cpu != call.cpu
            and (other.end + _SKEW >= call.begin or not seconds)
            and _related(call, other)
            for other in self._recent
        )

    def keep(self, tds: Iterable[Sept]) -> None:
        """The TDs are forgotten: keep their counts."""
        for td in tds:
            self._compared += td.compared
            self._open += td.open
        self._recent.clear()

    def notes(self, tds: Iterable[Sept]) -> list[str]:
        known = list(tds)
        compared = self._compared + sum(td.compared for td in known)
        still_open = self._open + sum(td.open for td in known)
        said = []
        if compared or still_open or self.overlapped:
            text = (
                f"SEAMCALLs of the memory path that the TDX Module model answers alike: {compared}"
            )
            if still_open:
                text += f"; not compared, the state they met is not known: {still_open}"
            if self.overlapped:
                text += f"; not judged, calls of other CPUs overlap them: {self.overlapped}"
            said.append(text)
        said += [
            f"TD {tdr:x}: {count} more SEAMCALLs that the TDX Module model answers otherwise"
            for tdr, count in self._more.items()
        ]
        return said


def _related(one: SeamCall, two: SeamCall) -> bool:
    """Whether the effect of ``two`` may matter to ``one``."""
    if one.number in MEMORY_LEAFS and one.r8 and one.r8 in (two.r8, two.rcx):
        return True
    if one.tdr != two.tdr:
        return two.number == leaves.TDH_PHYMEM_PAGE_RECLAIM and bool(one.r8)
    if two.number not in MEMORY_LEAFS or one.number not in MEMORY_LEAFS:
        return True
    shift = 9 * (max(one.level, two.level) - 1)
    return one.gfn >> shift == two.gfn >> shift


def _message(call: SeamCall, out: Answer) -> str:
    text = f"SEAMCALL {call.text()}: after the calls before it, the TDX Module model"
    if call.status != out.status:
        return f"{text} returns {decode(out.status)}"
    assert call.out is not None
    return (
        f"{text} returns rcx={out.rcx:#x} rdx={out.rdx:#x}, recorded are rcx={call.out[0]:#x}"
        f" rdx={call.out[1]:#x}"
    )
