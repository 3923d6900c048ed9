# SPDX-License-Identifier: GPL-2.0-only
"""What differs between kernel versions: found by compiling, by what objects call, and in the
layout of SPTEs.  The "kernels" here are a few headers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from septum.kvm.spte import (
    FROZEN_SPTE,
    SHADOW_NONPRESENT_VALUE,
    is_access_track_spte,
    is_mmu_writable_spte,
    mark_spte_for_access_track,
    restore_acc_track_spte,
    spte_ad_enabled,
    spte_to_pfn,
)
from septum.native.probes import CALLS, PROBES, probe, probe_calls
from septum.native.problems import judges_status
from septum.native.spte_layout import SpteLayout

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is needed")

HEADERS = (
    *("linux/kvm_host.h", "linux/fs.h", "mmu.h", "mmu/mmu_internal.h", "mmu/spte.h"),
    *("mmu/tdp_mmu.h", "mmu/tdp_iter.h", "vmx/tdx.h"),
)
OLD = {
    "linux/fs.h": "struct address_space { int i_private_list; };",
    "vmx/tdx.h": "int tdx_bringup(void);",
    "virt/kvm/guest_memfd.c": "static void kvm_gmem_mark_prepared(void *folio) { (void)folio; }",
}
NEW = {
    "linux/fs.h": "struct address_space { int i_private_lock; };",
    "vmx/tdx.h": "int tdx_hardware_setup(void);",
    "virt/kvm/guest_memfd.c": "static void kvm_gmem_get_folio(void *folio) { (void)folio; }",
}
LATE = {"SEPTUM_TDX_BRINGUP", "SEPTUM_PRIVATE_LIST", "SEPTUM_GMEM_PREPARES"}


def kernel(at: Path, files: dict[str, str]) -> Any:
    """A tree of headers, as far as `probe` asks a build for anything."""
    for name in {*HEADERS, *files}:
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        (at / name).write_text(files.get(name, ""))

    def compile_(source: Path, target: Path) -> str:
        command = ["gcc", "-c", "-Werror", f"-I{at}", str(source), "-o", str(target)]
        return subprocess.run(command, capture_output=True, text=True).stderr

    return SimpleNamespace(source=at, compile=compile_)


@pytest.mark.parametrize(("files", "found"), [(OLD, LATE), (NEW, set())])
def test_probes_ask_the_compiler(tmp_path: Path, files: dict[str, str], found: set[str]) -> None:
    (tmp_path / "out").mkdir()
    flags = probe(kernel(tmp_path / "linux", files), tmp_path / "out")
    assert {flag.removeprefix("-D") for flag in flags} == found
    assert set(PROBES) >= LATE


@pytest.mark.parametrize("looks", [True, False])
def test_what_an_object_calls_is_asked_of_the_object(tmp_path: Path, looks: bool) -> None:
    ((macro, (name, function)),) = CALLS.items()
    target = tmp_path / name
    target.parent.mkdir(parents=True)
    source = tmp_path / "tdx.c"
    source.write_text(f"void {function}(void);\nvoid f(void) {{ {function}(); }}" * looks)
    subprocess.run(["gcc", "-c", str(source), "-o", str(target)], check=True)
    assert probe_calls(tmp_path, [target]) == [f"-D{macro}"] * looks
    assert probe_calls(tmp_path, []) == []


# --- SPTEs -----------------------------------------------------------------------------------

V6_16 = SpteLayout(
    {
        "FROZEN_SPTE": 1 << 63 | 0x5A0,
        "EPT_SPTE_HOST_WRITABLE": 1 << 57,
        "EPT_SPTE_MMU_WRITABLE": 1 << 58,
        "SPTE_TDP_AD_DISABLED": 1 << 52,
        "SHADOW_ACC_TRACK_SAVED_BITS_MASK": 0x5,
        "SHADOW_ACC_TRACK_SAVED_BITS_SHIFT": 54,
    }
)
V7_3 = SpteLayout(
    {
        "FROZEN_SPTE": 1 << 63 | 0x1A0,
        "EPT_SPTE_HOST_WRITABLE": 1 << 53,
        "EPT_SPTE_MMU_WRITABLE": 1 << 55,
        "SPTE_TDP_AD_DISABLED": 1 << 60,
        "SHADOW_ACC_TRACK_SAVED_BITS_MASK": 0x405,
        "SHADOW_ACC_TRACK_SAVED_BITS_SHIFT": 52,
    }
)
LEAF_6_16 = 0x86000001_00000B37  # a private page's first leaf in Linux 6.16.1
LEAF_7_3 = 0x80A00001_00000F37  # the same in 7.3.4


def test_the_models_layout_is_that_of_7_3() -> None:
    for raw in (0, SHADOW_NONPRESENT_VALUE, FROZEN_SPTE, LEAF_7_3, LEAF_7_3 | 3 << 60):
        assert V7_3.value(raw) == raw


def test_bits_of_another_layout_are_put_where_the_models_look() -> None:
    assert V6_16.value(LEAF_6_16) == LEAF_7_3
    assert V6_16.value(V6_16.frozen) == FROZEN_SPTE
    assert V6_16.value(SHADOW_NONPRESENT_VALUE) == SHADOW_NONPRESENT_VALUE
    read_only = V6_16.value(LEAF_6_16 & ~(1 << 58 | 2))
    assert not is_mmu_writable_spte(read_only)
    assert spte_to_pfn(read_only) == 0x100000


def test_access_tracking_survives() -> None:
    tracked = LEAF_6_16 & ~(7 | 1 << 8) | 1 << 52 | 5 << 54  # A/D off; R and X saved
    value = V6_16.value(tracked)
    assert not spte_ad_enabled(value)
    assert is_access_track_spte(value)
    assert value == mark_spte_for_access_track(restore_acc_track_spte(value))


def test_mmio_sptes_are_left_alone() -> None:
    """They hold a generation in these bits, and only C reads it."""
    mmio = 0x7FF << 52 | 6
    assert V6_16.value(mmio) == mmio


# --- what a trap is about --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (
            ["if (TDX_BUG_ON_2(err, TDH_MEM_PAGE_AUG, entry, level_state, kvm))", "return -EIO;"],
            True,
        ),
        (["if (KVM_BUG_ON(err, kvm)) {", "pr_tdx_error(TDH_MEM_TRACK, err);", "return;"], True),
        (["if (KVM_BUG_ON(level != PG_LEVEL_4K, kvm))", "return -EINVAL;", ""], False),
        (["return;", "pr_tdx_error(TDH_MEM_TRACK, err);"], False),
        ([], False),
    ],
)
def test_a_seamcalls_status_is_told_from_other_bugs(lines: list[str], status: bool) -> None:
    assert judges_status(lines) == status
