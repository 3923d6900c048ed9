# SPDX-License-Identifier: GPL-2.0-only
"""Registers of a SEAMCALL and what a guest-side event ends in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from septum.tdx.status import decode

__all__ = ["REGISTERS", "GuestResult", "Result"]

REGISTERS: Final = ("rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13")


class Result:
    """Registers after a SEAMCALL; one that the call does not write keeps its input.

    :ivar event: ``td-entry`` if VP.ENTER entered the guest, else empty.
    :ivar flush: the call flushed this LP's translations of the TD.
    """

    __slots__ = ("event", "flush", "r8", "r9", "r10", "r11", "r12", "r13", "rax", "rcx", "rdx")

    def __init__(self, regs: Mapping[str, int] | None = None) -> None:
        get = (regs or {}).get
        self.rax = 0
        self.rcx = get("rcx", 0)
        self.rdx = get("rdx", 0)
        self.r8 = get("r8", 0)
        self.r9 = get("r9", 0)
        self.r10 = get("r10", 0)
        self.r11 = get("r11", 0)
        self.r12 = get("r12", 0)
        self.r13 = get("r13", 0)
        self.event = ""
        self.flush = False

    @property
    def ok(self) -> bool:
        """TDX_SUCCESS, or the guest was entered."""
        return self.rax == 0

    def changed(self, regs: Mapping[str, int]) -> dict[str, int]:
        """The registers that differ from the inputs ``regs``."""
        return {n: v for n in REGISTERS if (v := getattr(self, n)) != regs.get(n, 0)}

    def __repr__(self) -> str:
        text = self.event or decode(self.rax)
        return f"<{text} rcx={self.rcx:#x} rdx={self.rdx:#x} r8={self.r8:#x}>"


class GuestResult:
    """How a TDCALL or guest event ended.

    :ivar event: ``ok`` (an access completed at ``hpa``), ``resume`` (TDCALL done;
        registers as the guest sees them), ``retry`` (TDCALL interrupted, repeat it),
        ``inject`` (``vector`` 20 = #VE, 8 = #DF), ``td-exit`` (registers as VP.ENTER's
        caller gets them).
    """

    __slots__ = ("event", "hpa", "r8", "r9", "rax", "rcx", "rdx", "vector")

    def __init__(
        self,
        event: str,
        *,
        rax: int = 0,
        rcx: int = 0,
        rdx: int = 0,
        r8: int = 0,
        r9: int = 0,
        vector: int = 0,
        hpa: int = 0,
    ) -> None:
        self.event = event
        self.rax = rax
        self.rcx = rcx
        self.rdx = rdx
        self.r8 = r8
        self.r9 = r9
        self.vector = vector
        self.hpa = hpa

    def __repr__(self) -> str:
        if self.event == "ok":
            return f"<ok {self.hpa:#x}>"
        if self.event == "inject":
            return f"<inject vector {self.vector}>"
        if self.event == "retry":
            return "<retry>"
        return (
            f"<{self.event} {decode(self.rax)} rcx={self.rcx:#x} rdx={self.rdx:#x} r8={self.r8:#x}>"
        )
