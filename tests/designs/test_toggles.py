# SPDX-License-Identifier: GPL-2.0-only
"""The toggles: what they change, where they apply, and what one sees of them (facts 6.9)."""

from __future__ import annotations

import inspect
from contextlib import suppress
from itertools import pairwise

import pytest
from hook_rig import Rig
from test_design_sequences import INSTALL_LEAF, INSTALL_TABLE, SPLIT, SUBTREE, ZAP_LEAF

from septum.designs import Design, DesignError, design_names, diff, lookup, toggle_names
from septum.kvm.ret_pf import RET_PF_FIXED
from septum.report.listing import first_sentence

SAME_AS_BASE = [
    "feb06+mirror-bool",
    "feb06+opencoded-cas",
    "feb06+warn-shared",
    "feb10-sp+opencoded-cas",
    "v7.3+opencoded-cas",
    "v7.3+warn-shared",
    "v7.3+warn-shared+opencoded-cas",
]


@pytest.mark.parametrize("design", SAME_AS_BASE)
def test_sequences_are_those_of_the_base(design: str) -> None:
    base = design.partition("+")[0]
    rig = Rig(design)
    assert rig.fault(1) == RET_PF_FIXED
    log = list(rig.log)
    assert rig.take(1) == INSTALL_LEAF[base]
    rig.log = log
    assert rig.take(2) == INSTALL_TABLE[base]
    rig.operate("zap_range", 1, 2)
    assert rig.take() == ZAP_LEAF[base]
    rig.fault(1)
    rig.take()
    rig.operate("zap_table", 1, level=2)
    assert rig.take() == SUBTREE[base][0]
    assert rig.rules == []


@pytest.mark.parametrize("base", ["feb06", "feb10-sp", "v7.3"])
def test_shared_param_tells_the_hook_how_mmu_lock_is_held(base: str) -> None:
    rig = Rig(f"{base}+shared-param")
    rig.fault(1)
    assert "set(.>L, True)@F" in rig.take(1)
    rig.operate("zap_range", 1, 2)
    assert "set(L>., False)@." in rig.take()


@pytest.mark.parametrize("base", ["feb06", "feb10-sp", "v7.3"])
def test_warn_shared_fires_for_a_table_removed_under_the_read_lock(base: str) -> None:
    for design, rules in ((base, []), (f"{base}+warn-shared", ["WARN:handle_changed_spte"])):
        rig = Rig(design)
        rig.fault(1)
        rig.operate("zap_table", 1, level=2, shared=True)
        assert rig.rules == rules


def test_opencoded_cas_asserts_before_the_cmpxchg() -> None:
    for design, function in (
        ("feb06", "__tdp_mmu_set_spte_atomic"),
        ("feb06+opencoded-cas", "tdp_mmu_set_spte_atomic"),
    ):
        rig = Rig(design)
        rig.fault(1)
        iter = rig.iter(0, 1)
        iter.yielded = True
        rig.set_atomic(iter, rig.iter(1, 1).old_spte)
        assert rig.rules == [f"WARN:{function}"]


@pytest.mark.parametrize("base", ["feb06", "feb10-sp", "v7.3"])
def test_reread_sptep_finds_frozen_and_skips_hook_and_statistics(base: str) -> None:
    """The founding mail's question, sequentially."""
    rig = Rig(f"{base}+reread-sptep")
    assert rig.fault(1) == RET_PF_FIXED
    assert rig.take(1) == "S1 .>F; TR1 .>F; S1 F>L"
    assert rig.stat == (0, 0, 0)
    # Under the write lock the SPTE already holds the new value.
    rig.operate("zap_range", 1, 2)
    assert rig.take() == ZAP_LEAF[base]


def test_reread_sptep_through_sp_finds_entries_of_the_direct_root_too() -> None:
    rig = Rig("v7.3+reread-sptep")
    gfn = 1 | rig.kvm.gfn_direct_bits
    rig.kvm.mem_attr(1).write(0)
    assert rig.kvm.fn.kvm_mmu_page_fault(rig.vcpu, gfn << 12, 2) == RET_PF_FIXED
    assert rig.take() == "S3 .>T; TR3 .>T; S2 .>T; TR2 .>T; S1 .>L; TR1 .>L; STAT1 +1"


def test_nonpresent_hides_a_split_from_tdx() -> None:
    assert "remove(L)@T" in SPLIT["rfc-v5-08"]
    assert "@" not in SPLIT["rfc-v5-08+nonpresent"]
    assert "@" not in SPLIT["rfc-v5+nonpresent"]


@pytest.mark.parametrize(
    ("design", "why"),
    [
        ("v6.16+nonpresent", "handle_changed_spte() of the base has no"),
        ("v7.3+nonpresent", "handle_changed_spte() of the base has no"),
        ("rfc-v5+reread-sptep", "the base has no __handle_changed_spte()"),
        ("feb06+mirror-bool+reread-sptep", "has nothing to read again"),
        ("feb10-sp+mirror-bool", "__handle_changed_spte() of the base has no"),
        ("rfc-v5-08+t-rm", "is not given the old SPTE"),
        ("v6.16+shared-param", "the base has no __handle_changed_spte()"),
    ],
)
def test_a_toggle_without_its_text_is_refused(design: str, why: str) -> None:
    with pytest.raises(DesignError, match=r"does not apply") as error:
        lookup(design)
    assert why in str(error.value)


def _somewhere(toggle: str) -> Design:
    """The toggle on the first design to which it applies."""
    for base in (*design_names(), "v7.3+hugepage"):
        with suppress(DesignError):
            return lookup(f"{base}+{toggle}")
    raise AssertionError(f"{toggle} applies to no design")


def test_every_toggle_is_documented() -> None:
    told = set()
    for name in toggle_names():
        toggle = _somewhere(name).toggles[-1]
        assert len(toggle.doc) > 80, name
        told.add(first_sentence(toggle.doc))
    assert len(told) == len(toggle_names())  # `septum designs` tells them apart


# --- `designs diff` -----------------------------------------------------------------------


def test_diff_of_a_toggle_is_the_patch() -> None:
    lines = list(diff(lookup("v7.3"), lookup("v7.3+shared-param")))
    assert "+++ v7.3+shared-param/__handle_changed_spte" in lines
    assert (
        "+        ret: int = "
        "kvm.fn.set_external_spte(kvm, gfn, old_spte, new_spte, level, shared)" in lines
    )


def test_diff_of_neighbours_names_what_the_patch_touches() -> None:
    chain = ["v6.16", "rfc-v5-08", "rfc-v5", "feb06", "feb10-sp", "v7.3"]
    for a, b in pairwise(chain):
        assert lookup(b).predecessor == lookup(a)
        changed = {
            line.partition("/")[2] for line in diff(lookup(a), lookup(b)) if line[:4] == "+++ "
        }
        assert changed <= {*lookup(b).own, *lookup(a).chain}
        assert "handle_changed_spte" in changed or "__handle_changed_spte" in changed
    removed = [line for line in diff(lookup("feb06"), lookup("feb10-sp")) if line[:4] == "--- "]
    assert "--- feb06/reclaim_external_sp" in removed


def test_every_function_of_every_design_has_source() -> None:
    for name in design_names():
        for function in lookup(name).chain.values():
            assert inspect.getsource(function).lstrip().startswith("def ")
