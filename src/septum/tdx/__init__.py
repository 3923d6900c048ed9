# SPDX-License-Identifier: GPL-2.0-only
"""Floor 2: an executable model of the TDX Module's memory management.

The model answers SEAMCALLs (host) and TDCALLs and guest events (guest) as TDX Module
1.5.01 does: order of checks and lock acquisitions, status codes with operand ids,
register outputs (docs/tdx-model.md says what is exact and what is simplified).

Use from host code (``septum.kvm``), registers in, registers out::

    module = TdxModule(m, Geometry(bits=2, levels=2))
    r = module.seamcall(TDH_MEM_PAGE_AUG, {"rcx": gpa | level, "rdx": tdr, "r8": hpa}, lp=0)
    r.rax, r.rcx, r.rdx, r.r8 ...   # r11; an unwritten register keeps its input value
    r.event                         # "td-entry" when VP.ENTER entered the guest, else ""
    r.flush                         # VP.ENTER, VP.FLUSH: the LP's translations were flushed

``leaf`` is RAX: bits 15:0 the leaf, 23:16 the version (`septum.tdx.leaves` has the
numbers; levels are the module's, 0 is 4K).  VP.ENTER that enters returns at once with
``event == "td-entry"``; the guest then runs on that LP until one of these returns a
`GuestResult` whose ``event`` is ``"td-exit"``::

    module.tdcall(TDG_MEM_PAGE_ACCEPT, {"rcx": gpa | level}, lp)
    module.guest_access(lp, gpa, write=True)      # walks; ok, inject, or td-exit
    module.guest_ept_violation(lp, gpa)           # the CPU reported a violation at gpa
    module.guest_interrupt(lp)                    # an external interrupt arrived (an IPI)

``GuestResult.event``: ``ok`` (access done; ``hpa``), ``resume`` (TDCALL finished; ``rax``
and outputs as the guest sees them), ``retry`` (interrupted TDCALL; repeat it),
``inject`` (``vector`` 20 = #VE, 8 = #DF; guest goes on), ``td-exit`` (``rax``, ``rcx``,
``rdx``, ``r8`` as VP.ENTER's caller gets them).

The typed form of every call is a method: ``module.tdh_mem_page_aug(tdr, gpa, 0, hpa)``.
Emitted for monitors (`Machine.emit`): ``tlb_flush(vcpu, lp)``, ``td_enter(vcpu, lp)``,
``td_exit(vcpu, lp)``, ``sept(tdr, hpa_of_table, index, old, new)`` (one per entry written
in place; the children of DEMOTE are part of its parent's change) and
``pamt(hpa, size, old_type, new_type)``.

`make_td` builds a small TD by the real calls; `septum.tdx.show` prints tree, PAMT, vCPUs
and locks; `TdxModule.describe` is the manual of a call; `septum.tdx.console` is a script
language and a shell for the calls.
"""

from septum.tdx.build import BuiltTd, Layout, make_td
from septum.tdx.config import QUIET, Conditions, Config, Tdmr, TdParams
from septum.tdx.module import TdxModule
from septum.tdx.profiles import PROFILES, Profile
from septum.tdx.regs import GuestResult, Result
from septum.tdx.status import Operand, decode

__all__ = [
    "PROFILES",
    "QUIET",
    "BuiltTd",
    "Conditions",
    "Config",
    "GuestResult",
    "Layout",
    "Operand",
    "Profile",
    "Result",
    "TdParams",
    "Tdmr",
    "TdxModule",
    "decode",
    "make_td",
]
