# SPDX-License-Identifier: GPL-2.0-only
"""Module versions as data (facts/tdx-module.md section 11.3).

A profile lists where a module differs from 1.5.01, on which every rule of this package
was checked.  What is not known of a version is said in ``unknown``, not guessed: the
model then behaves as 1.5.01.  A *hypothetical* profile has a feature that no module
is known to have; outputs that used it must say so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from septum.tdx.status import TDX_NON_RECOVERABLE_TD

__all__ = ["PROFILES", "Profile", "enhanced_demote", "find_profile", "hypothetical_resize"]

_RESIZE: Final = "+nonblocking-resize"
_DEMOTE: Final = "+enhanced-demote"


@dataclass(frozen=True, slots=True)
class Profile:
    """How one module version behaves.

    :ivar vp_init_versions: versions of TDH.VP.INIT that the dispatcher accepts.
    :ivar vp_init_tdr_exclusive: VP.INIT v1 takes the TDR exclusive, as the comment in
        Linux 7.3's ``tdx_td_vcpu_init()`` says of newer modules.
    :ivar non_recoverable_td: the value of TDX_NON_RECOVERABLE_TD.
    :ivar nonblocking_resize: hypothetical: DEMOTE needs neither BLOCK nor TRACK.
    :ivar demote_interruptible: DEMOTE ends with a pending-interrupt test.
    """

    name: str
    source: str
    vp_init_versions: tuple[int, ...] = (0,)
    vp_init_tdr_exclusive: bool = False
    non_recoverable_td: int = TDX_NON_RECOVERABLE_TD
    nonblocking_resize: bool = False
    demote_interruptible: bool = True
    unknown: tuple[str, ...] = ()

    @property
    def hypothetical(self) -> bool:
        """The profile has a feature that no module is known to have."""
        return self.nonblocking_resize

    def __str__(self) -> str:
        return f"{self.name} (hypothetical)" if self.hypothetical else self.name


_ALL: Final = (
    Profile("1.5.01", "the module's own handlers, executed (facts section 10)"),
    Profile(
        "linux-7.3",
        "what arch/x86/kvm/vmx/tdx.c and tdx_errno.h of Linux 7.3 expect",
        vp_init_versions=(0, 1),
        vp_init_tdr_exclusive=True,
        non_recoverable_td=0x4000000200000000,
        unknown=(
            "whether DEMOTE is interruptible (modelled as in 1.5.01)",
            "zero-step mitigation on PENDING pages (modelled as in 1.5.01)",
            "host-priority handling (modelled as in 1.5.01)",
            "leaf 69, SYS.DISABLE (not modelled)",
        ),
    ),
)

PROFILES: Final[dict[str, Profile]] = {p.name: p for p in _ALL}


def hypothetical_resize(base: Profile) -> Profile:
    """``base`` plus DEMOTE without block and tracking; marked hypothetical."""
    return replace(base, name=f"{base.name}{_RESIZE}", nonblocking_resize=True)


def enhanced_demote(base: Profile) -> Profile:
    """``base`` plus TDX_FEATURES0.ENHANCED_DEMOTE_INTERRUPTIBILITY: DEMOTE is not
    interrupted.  A real feature bit, which KVM's huge page series asks for."""
    return replace(base, name=f"{base.name}{_DEMOTE}", demote_interruptible=False)


def find_profile(name: str) -> Profile | None:
    """The profile called ``name``: a key of `PROFILES`, then ``+enhanced-demote`` and
    ``+nonblocking-resize``, which makes it hypothetical."""
    plain = name.removesuffix(_RESIZE)
    base = PROFILES.get(plain.removesuffix(_DEMOTE))
    if base is not None and plain.endswith(_DEMOTE):
        base = enhanced_demote(base)
    return base if base is None or base.name == name else hypothetical_resize(base)
