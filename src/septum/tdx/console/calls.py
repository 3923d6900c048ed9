# SPDX-License-Identifier: GPL-2.0-only
"""The operands of every call, in the order in which a script gives them.

``gpa:rcx level:rcx page:r8 td:rdx`` reads: a GPA and a level, which share RCX, then a page
in R8; the TDR goes to RDX.  An operand with ``?`` may be left out, with ``=`` it then has
that value.  ``td`` is never positional: it is the page called ``td`` unless ``td=PAGE`` is
given.  A flag (``!name:register=bit``) is set by naming it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from septum.tdx.leaves import SEAMCALL_NUMBERS, TDCALL_NUMBERS

__all__ = ["CALLS", "CallForm", "Operand", "resolve_call"]

_FORMS: Final = {
    "TDH.MEM.SEPT.ADD": "gpa:rcx level:rcx page:r8 td:rdx !allow_existing:rdx=1",
    "TDH.MEM.SEPT.REMOVE": "gpa:rcx level:rcx td:rdx",
    "TDH.MEM.SEPT.RD": "gpa:rcx level:rcx td:rdx",
    "TDH.MEM.PAGE.ADD": "gpa:rcx page:r8 source?:r9=0x100000 td:rdx",
    "TDH.MEM.PAGE.AUG": "gpa:rcx level:rcx page:r8 td:rdx",
    "TDH.MEM.PAGE.REMOVE": "gpa:rcx level:rcx td:rdx",
    "TDH.MEM.PAGE.RELOCATE": "gpa:rcx page:r8 td:rdx",
    "TDH.MEM.PAGE.DEMOTE": "gpa:rcx level:rcx page:r8 td:rdx",
    "TDH.MEM.PAGE.PROMOTE": "gpa:rcx level:rcx td:rdx",
    "TDH.MEM.RANGE.BLOCK": "gpa:rcx level:rcx td:rdx",
    "TDH.MEM.RANGE.UNBLOCK": "gpa:rcx level:rcx td:rdx",
    "TDH.MEM.TRACK": "td:rcx",
    "TDH.MR.EXTEND": "gpa:rcx td:rdx",
    "TDH.MR.FINALIZE": "td:rcx",
    "TDH.MNG.CREATE": "hkid?:rdx=18 td:rcx",
    "TDH.MNG.KEY.CONFIG": "td:rcx",
    "TDH.MNG.ADDCX": "page:rcx td:rdx",
    "TDH.MNG.INIT": "params?:rdx=0 td:rcx",
    "TDH.MNG.VPFLUSHDONE": "td:rcx",
    "TDH.MNG.KEY.FREEID": "td:rcx",
    "TDH.MNG.KEY.RECLAIMID": "td:rcx",
    "TDH.VP.CREATE": "vcpu:rcx td:rdx",
    "TDH.VP.ADDCX": "vcpu:rdx page:rcx",
    "TDH.VP.INIT": "vcpu:rcx initial_rcx?:rdx=0 x2apic_id?:r8=0",
    "TDH.VP.FLUSH": "vcpu:rcx",
    "TDH.VP.ENTER": "vcpu:rcx",
    "TDH.PHYMEM.CACHE.WB": "!resume:rcx=1",
    "TDH.PHYMEM.PAGE.RECLAIM": "page:rcx",
    "TDH.PHYMEM.PAGE.WBINVD": "page:rcx",
    "TDH.PHYMEM.PAGE.RDMD": "page:rcx",
    "TDG.MEM.PAGE.ACCEPT": "gpa:rcx level:rcx",
    "TDG.MEM.PAGE.ATTR.RD": "gpa:rcx",
    "TDG.MEM.PAGE.ATTR.WR": "gpa:rcx level:rcx attributes?:rdx=0 flags?:r8=0",
    "TDG.VP.VEINFO.GET": "",
}


@dataclass(frozen=True, slots=True)
class Operand:
    """One operand: ``kind`` is its name and tells how it is written."""

    kind: str
    register: str
    optional: bool = False
    default: int = 0

    def __str__(self) -> str:
        return f"[{self.kind.upper()}]" if self.optional else self.kind.upper()


@dataclass(frozen=True, slots=True)
class CallForm:
    """How a call is written.

    :ivar positional: in order.
    :ivar td: the register of the TDR page, or "".
    :ivar flags: word -> (register, bits).
    """

    name: str
    positional: tuple[Operand, ...]
    td: str
    flags: tuple[tuple[str, str, int], ...]

    @property
    def guest(self) -> bool:
        """A TDCALL: the guest makes it."""
        return self.name in TDCALL_NUMBERS

    @property
    def number(self) -> int:
        return TDCALL_NUMBERS[self.name] if self.guest else SEAMCALL_NUMBERS[self.name]

    @property
    def repeatable(self) -> bool:
        """``x512`` can step its GPA or page."""
        return any(o.kind in ("gpa", "page") for o in self.positional)

    def usage(self) -> str:
        """``TDH.MEM.PAGE.AUG GPA LEVEL PAGE [td=PAGE]``."""
        words = [self.name, *map(str, self.positional)]
        words += [f"[{word}]" for word, _, _ in self.flags]
        if self.td:
            words.append("[td=PAGE]")
        return " ".join(words)


def _form(name: str, text: str) -> CallForm:
    positional: list[Operand] = []
    flags: list[tuple[str, str, int]] = []
    td = ""
    for word in text.split():
        kind, _, register = word.partition(":")
        register, _, value = register.partition("=")
        if kind == "td":
            td = register
        elif kind.startswith("!"):
            flags.append((kind[1:], register, int(value, 0)))
        else:
            optional = kind.endswith("?")
            positional.append(
                Operand(kind.rstrip("?"), register, optional, int(value, 0) if value else 0)
            )
    return CallForm(name, tuple(positional), td, tuple(flags))


CALLS: Final[dict[str, CallForm]] = {name: _form(name, text) for name, text in _FORMS.items()}


def resolve_call(word: str) -> list[str]:
    """The calls that ``word`` may mean: its full name in any spelling
    (``tdh_mem_page_aug``), or the end of one (``PAGE.AUG``, ``aug``)."""
    name = word.upper().replace("_", ".")
    if name in CALLS:
        return [name]
    return [call for call in CALLS if call.endswith(f".{name}")]
