# SPDX-License-Identifier: GPL-2.0-only
"""The probes that show every SEAMCALL: how to set them, and how their lines read.

``__seamcall(u64 fn, struct tdx_module_args *args)`` and ``__seamcall_ret``: fn in RDI, args
in RSI (x86-64 SysV ABI).  ``struct tdx_module_args`` begins with rcx, rdx, r8, r9, r10, r11,
8 bytes each (arch/x86/include/asm/shared/tdx.h).  Both functions keep RSI: only the variant
``__seamcall_saved_ret`` clobbers it (arch/x86/virt/vmx/tdx/tdxcall.S), so a return probe
reads the output registers through RSI too.  ``__seamcall_saved_ret`` is VP.ENTER, no call
of the memory path, and is noinstr: it cannot be probed.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["PROBES", "SEAMCALL_DONE", "SEAMCALL_ENTER", "SHOWS_OUT", "parse_probe"]

_IN: Final = "rcx=+0(%si):x64 rdx=+8(%si):x64 r8=+16(%si):x64 r9=+24(%si):x64"
_OUT: Final = "rcx=+0(%si):x64 rdx=+8(%si):x64 r8=+16(%si):x64"
PROBES: Final = tuple(
    line
    for name in ("seamcall", "seamcall_ret")
    for line in (
        f"p:septum/{name} __{name} fn=%di:x64 {_IN}",
        f"r:septum/{name}_done __{name} status=$retval:x64 {_OUT}",
    )
)
"""Lines for /sys/kernel/tracing/kprobe_events."""
SEAMCALL_ENTER: Final = frozenset(("seamcall", "seamcall_ret"))
SEAMCALL_DONE: Final = frozenset(("seamcall_done", "seamcall_ret_done"))
SHOWS_OUT: Final = frozenset(("seamcall_ret_done",))
"""Only __seamcall_ret writes the registers out into its arguments (TDX_MODULE_CALL ret=1,
arch/x86/virt/vmx/tdx/tdxcall.S); after __seamcall they are those in."""
_FIELD: Final = re.compile(r"(\w+)=(0x[0-9a-f]{1,16})(?!\S)", re.ASCII)


def parse_probe(name: str, payload: str) -> dict[str, int] | None:
    """The fields of a probe's line; None if it is not whole."""
    fields = {key: int(text, 16) for key, text in _FIELD.findall(payload)}
    needed = "fn" if name in SEAMCALL_ENTER else "status"
    return fields if needed in fields else None
