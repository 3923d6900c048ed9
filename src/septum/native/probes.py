# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel under test has, found by compiling: never by its version number."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from septum.native.kbuild import Kbuild

__all__ = ["CALLS", "PROBES", "probe", "probe_calls"]

_HEADERS: Final = """
#include <linux/kvm_host.h>
#include <linux/fs.h>
#include "mmu.h"
#include "mmu/mmu_internal.h"
#include "mmu/spte.h"
#include "mmu/tdp_mmu.h"
#include "mmu/tdp_iter.h"
#include "vmx/tdx.h"
"""

PROBES: Final[dict[str, str]] = {
    "SEPTUM_HAVE_UNLOCKED_IOCTL": (
        "void *f(struct kvm_x86_ops *o) { return o->vcpu_mem_enc_unlocked_ioctl; }"
    ),
    "SEPTUM_EPT_MASKS_2": "void f(void) { kvm_mmu_set_ept_masks(true, true); }",
    "SEPTUM_NX_BY_TYPE": (
        "void *f(struct kvm *k) { return &k->arch.possible_nx_huge_pages[0].pages; }"
    ),
    "SEPTUM_ZAP_POSSIBLE_NX": "void *f(void) { return kvm_tdp_mmu_zap_possible_nx_huge_page; }",
    "SEPTUM_TDP_ITER_GFN_BITS": (
        "void f(struct tdp_iter *i, struct kvm_mmu_page *r) { tdp_iter_start(i, r, 1, 0, 0); }"
    ),
    "SEPTUM_RECOVER_HUGE_PAGES": "void *f(void) { return kvm_mmu_recover_huge_pages; }",
    "SEPTUM_MMU_INIT_VM_FAILS": "int f(struct kvm *k) { return kvm_mmu_init_vm(k); }",
    "SEPTUM_GMEM_PREPARES": (
        '#include "@TREE@/virt/kvm/guest_memfd.c"\nvoid *f(void) { return kvm_gmem_mark_prepared; }'
    ),
    "SEPTUM_PRIVATE_LIST": "void *f(struct address_space *m) { return &m->i_private_list; }",
    "SEPTUM_TDX_BRINGUP": "int f(void) { return tdx_bringup(); }",
    "SEPTUM_HAVE_X86_MODULE_INIT": "void f(void) { kvm_mmu_x86_module_init(); }",
}
"""Macro that is defined if the text compiles after the headers of KVM.  ``@TREE@`` is the tree:
what only a file of it knows is asked by including it."""


CALLS: Final[dict[str, tuple[str, str]]] = {
    # tdx_handle_ept_violation() leaves its loop when the slot is being deleted.
    "SEPTUM_LOOP_LOOKS_AT_SLOT": ("arch/x86/kvm/vmx/tdx.o", "kvm_vcpu_gfn_to_memslot"),
}
"""Macro that is defined if that object calls that function of another one."""


def probe_calls(work: Path, objects: Sequence[Path]) -> list[str]:
    """The ``-D`` flags of `CALLS`.

    :param objects: in the build directory ``work``.
    """
    flags = []
    for macro, (name, function) in CALLS.items():
        if work / name in objects:
            command = ["nm", "-u", str(work / name)]
            listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            if any(line.split()[-1:] == [function] for line in listed.splitlines()):
                flags.append(f"-D{macro}")
    return flags


def probe(build: Kbuild, out: Path) -> list[str]:
    """The ``-D`` flags for the glue."""

    def holds(macro: str) -> bool:
        source = out / f"{macro.lower()}.c"
        text = PROBES[macro].replace("@TREE@", str(build.source))
        source.write_text(f"{_HEADERS}{text}\n")
        return not build.compile(source, source.with_suffix(".o"))

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(holds, PROBES))
    return [f"-D{macro}" for macro, yes in zip(PROBES, found, strict=True) if yes]
