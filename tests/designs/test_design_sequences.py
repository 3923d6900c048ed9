# SPDX-License-Identifier: GPL-2.0-only
"""Each design's stores, hooks, trace lines and statistics, in order (facts 6.2-6.8)."""

from __future__ import annotations

from errno import EBUSY, EIO

import pytest
from hook_rig import Rig

from septum.kvm.ret_pf import RET_PF_FIXED, RET_PF_RETRY
from septum.kvm.spte import (
    FROZEN_SPTE,
    SHADOW_NONPRESENT_VALUE,
    VMX_EPT_ACCESS_BIT,
    make_nonleaf_spte,
)

DESIGNS = ("void-callback", "v6.16", "rfc-v5-08", "rfc-v5", "feb06", "feb10-sp", "v7.3")

# Facts 6.2.
INSTALL_LEAF = {
    "void-callback": "S1 .>F; TR1 .>L; STAT1 +1; changed(.>L)@F; S1 F>L",
    "v6.16": "S1 .>F; set(pfn)@F; S1 F>L; TR1 .>L; STAT1 +1",
    "rfc-v5-08": "S1 .>F; set(L)@F; S1 F>L; TR1 .>L; STAT1 +1",
    "rfc-v5": "S1 .>F; set(.>L)@F; S1 F>L; TR1 .>L; STAT1 +1",
    "feb06": "S1 .>F; TR1 .>L; STAT1 +1; set(.>L)@F; S1 F>L",
    "feb10-sp": "S1 .>F; TR1 .>L; STAT1 +1; set(.>L)@F; S1 F>L",
    "v7.3": "S1 .>F; set(.>L)@F; TR1 .>L; STAT1 +1; S1 F>L",
}
# Facts 6.3.
INSTALL_TABLE = {
    "void-callback": "S2 .>F; TR2 .>T; changed(.>T)@F; S2 F>T",
    "v6.16": "S2 .>F; link(spt)@F; S2 F>T; TR2 .>T",
    "rfc-v5-08": "S2 .>F; set(T)@F; S2 F>T; TR2 .>T",
    "rfc-v5": "S2 .>F; set(.>T)@F; S2 F>T; TR2 .>T",
    "feb06": "S2 .>F; TR2 .>T; set(.>T)@F; S2 F>T",
    "feb10-sp": "S2 .>F; TR2 .>T; set(.>T)@F; S2 F>T",
    "v7.3": "S2 .>F; set(.>T)@F; TR2 .>T; S2 F>T",
}


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize(("level", "expected"), [(1, INSTALL_LEAF), (2, INSTALL_TABLE)])
def test_install(design: str, level: int, expected: dict[str, str]) -> None:
    rig = Rig(design)
    assert rig.fault(1) == RET_PF_FIXED
    assert rig.take(level) == expected[design]
    assert rig.stat == (1, 0, 0)
    assert rig.kvm.tdp_mmu_pages.v == 2
    assert rig.rules == []


# Facts 6.8: a void hook cannot say BUSY; feb06 and feb10-sp leave their statistics behind.
LEAF_BUSY = {
    "void-callback": (INSTALL_LEAF["void-callback"], 1),
    "v6.16": ("S1 .>F; set(pfn)@F; S1 F>.", 0),
    "rfc-v5-08": ("S1 .>F; set(L)@F; S1 F>.", 0),
    "rfc-v5": ("S1 .>F; set(.>L)@F; S1 F>.", 0),
    "feb06": ("S1 .>F; TR1 .>L; STAT1 +1; set(.>L)@F; S1 F>.", 1),
    "feb10-sp": ("S1 .>F; TR1 .>L; STAT1 +1; set(.>L)@F; S1 F>.", 1),
    "v7.3": ("S1 .>F; set(.>L)@F; S1 F>.", 0),
}


@pytest.mark.parametrize("error", [-EBUSY, -EIO])
@pytest.mark.parametrize("design", DESIGNS)
def test_install_fails_in_the_hook(design: str, error: int) -> None:
    rig = Rig(design)
    rig.script = [0, 0, error]  # two tables, then the leaf
    expected, stat = LEAF_BUSY[design]
    assert rig.fault(1) == (RET_PF_FIXED if design == "void-callback" else RET_PF_RETRY)
    assert rig.take(1) == expected
    assert rig.stat == (stat, 0, 0)
    assert rig.rules == []


@pytest.mark.parametrize("design", DESIGNS[1:])
def test_a_table_that_was_never_linked_is_freed_at_once_with_its_sept_page(design: str) -> None:
    rig = Rig(design)
    rig.script = [0, -EBUSY]
    assert rig.fault(1) == RET_PF_RETRY
    assert rig.take().endswith("S2 F>.; page")
    assert rig.kvm.tdp_mmu_pages.v == 1


# Facts 6.8, last row: who sees, after a lost cmpxchg, what memory holds.
@pytest.mark.parametrize("design", DESIGNS)
def test_a_lost_cmpxchg_changes_nothing_but_the_snapshot(design: str) -> None:
    rig = Rig(design)
    rig.fault(1)
    iter = rig.iter(0, 1)
    leaf = rig.iter(1, 1).old_spte
    iter.sptep.write(FROZEN_SPTE)
    rig.take()
    assert rig.set_atomic(iter, leaf) == -EBUSY
    assert rig.take() == ""
    assert iter.old_spte == (SHADOW_NONPRESENT_VALUE if design == "v6.16" else FROZEN_SPTE)


# Facts 6.4.
ZAP_LEAF = {
    "void-callback": "S1 L>.; TR1 L>.; STAT1 -1; changed(L>.)@.",
    "v6.16": "S1 L>.; TR1 L>.; STAT1 -1; remove(pfn)@.",
    "rfc-v5-08": "S1 L>.; TR1 L>.; STAT1 -1; remove(L)@.",
    "rfc-v5": "S1 L>.; TR1 L>.; STAT1 -1; set(L>.)@.",
    "feb06": "S1 L>.; TR1 L>.; STAT1 -1; set(L>.)@.",
    "feb10-sp": "S1 L>.; TR1 L>.; STAT1 -1; set(L>.)@.",
    "v7.3": "S1 L>.; set(L>.)@.; TR1 L>.; STAT1 -1",
}
ZAP_FAILS = {  # the finding; void hooks have none of the MMU's
    "void-callback": [],
    "v6.16": ["BUG:remove_external_spte"],
    "rfc-v5-08": [],
    "rfc-v5": ["BUG:handle_changed_spte"],
    "feb06": ["BUG:handle_changed_spte"],
    "feb10-sp": ["BUG:handle_changed_spte"],
    "v7.3": ["BUG:handle_changed_spte"],
}


@pytest.mark.parametrize("error", [0, -EIO])
@pytest.mark.parametrize("design", DESIGNS)
def test_zap_leaf(design: str, error: int) -> None:
    rig = Rig(design)
    rig.fault(1)
    rig.take()
    rig.script = [error]
    rig.operate("zap_range", 1, 2)
    expected = ZAP_LEAF[design]
    if error and design == "v7.3":
        expected = "S1 L>.; set(L>.)@."
    assert rig.take() == expected
    assert rig.rules == (ZAP_FAILS[design] if error else [])
    assert rig.iter(1, 1).old_spte == SHADOW_NONPRESENT_VALUE  # nothing puts it back


# Facts 6.5, and when the S-EPT page goes back to the host: before the grace period, or after.
SUBTREE = {
    "void-callback": (
        "S2 T>.; TR2 T>.; zap_page; S1 L>F; TR1 L>F; STAT1 -1; changed(L>F)@F; free(spt)"
        "; changed(T>.)@F",
        "page",
    ),
    "v6.16": (
        "S2 T>.; TR2 T>.; zap_page; S1 L>F; TR1 L>F; STAT1 -1; remove(pfn)@F; free(spt)",
        "page",
    ),
    "rfc-v5-08": (
        "S2 T>.; TR2 T>.; zap_page; S1 L>F; TR1 L>F; STAT1 -1; remove(L)@F; free(spt)",
        "page",
    ),
    "rfc-v5": (
        "S2 T>.; TR2 T>.; zap_page; S1 L>F; TR1 L>F; STAT1 -1; set(L>F)@F; reclaim(sp)",
        "page",
    ),
    "feb06": (
        "S2 T>.; TR2 T>.; zap_page; S1 L>F; TR1 L>F; STAT1 -1; set(L>F)@F; reclaim(sp)",
        "page",
    ),
    "feb10-sp": (
        "S2 T>.; TR2 T>.; zap_page; S1 L>F; TR1 L>F; STAT1 -1; set(L>F)@F; reclaim(sp); page",
        "",
    ),
    "v7.3": (
        "S2 T>.; zap_page; S1 L>F; set(L>F)@F; TR1 L>F; STAT1 -1; free(sp); page; TR2 T>.",
        "",
    ),
}


@pytest.mark.parametrize("design", DESIGNS)
def test_zap_subtree(design: str) -> None:
    rig = Rig(design)
    rig.fault(1)
    rig.take()
    rig.operate("zap_table", 1, level=2)
    now, later = SUBTREE[design]
    assert rig.take() == now
    rig.kvm.rcu.barrier()
    assert rig.take() == later
    assert rig.stat == (0, 0, 0)
    assert rig.kvm.tdp_mmu_pages.v == 1
    assert rig.rules == []


@pytest.mark.parametrize("design", ["void-callback", "v6.16", "rfc-v5-08"])
def test_a_sept_page_that_cannot_be_freed_is_leaked(design: str) -> None:
    rig = Rig(design)
    rig.fault(1)
    rig.take()
    rig.script = [0, -EIO]  # the leaf's hook, then the table's
    rig.operate("zap_table", 1, level=2)
    rig.kvm.rcu.barrier()
    assert "page" not in rig.take().split("; ")
    assert rig.rules == ["WARN:handle_removed_pt"]


# Facts 6.6: leaf to table under the write lock (a huge mirror leaf is installed by the script).
SPLIT = {
    "void-callback": "S2 L>T; TR2 L>T; STAT2 -1; changed(L>T)@T; STAT1 +2",
    "v6.16": "S2 L>T; TR2 L>T; STAT2 -1; remove(pfn)@T; STAT1 +2",
    "rfc-v5-08": "S2 L>T; TR2 L>T; STAT2 -1; remove(L)@T; STAT1 +2",
    "rfc-v5-08+nonpresent": "S2 L>T; TR2 L>T; STAT2 -1; STAT1 +2",
    "rfc-v5": "S2 L>T; TR2 L>T; STAT2 -1; set(L>T)@T; STAT1 +2",
    "rfc-v5+nonpresent": "S2 L>T; TR2 L>T; STAT2 -1; STAT1 +2",
    "feb06": "S2 L>T; TR2 L>T; STAT2 -1; set(L>T)@T; STAT1 +2",
    "feb10-sp": "S2 L>T; TR2 L>T; STAT2 -1; set(L>T)@T; STAT1 +2",
    "v7.3": "S2 L>T; set(L>T)@T; TR2 L>T; STAT2 -1; STAT1 +2",
}


@pytest.mark.parametrize("design", SPLIT)
def test_split_under_the_write_lock(design: str) -> None:
    rig = Rig(design, max_level=2)
    assert rig.fault(1) == RET_PF_FIXED
    rig.take()
    rig.operate("split", 0, 2)
    assert rig.take() == SPLIT[design]
    refused = design.startswith(("v6.16", "rfc-v5-08"))
    assert rig.rules == (["BUG:tdp_mmu_set_spte"] if refused else [])
    assert rig.stat == (2, 0, 0)


@pytest.mark.parametrize("design", ["rfc-v5", "feb06", "feb10-sp", "v7.3"])
def test_split_whose_hook_fails_bugs_the_vm_and_keeps_the_table(design: str) -> None:
    rig = Rig(design, max_level=2)
    rig.fault(1)
    rig.take()
    rig.script = [-EIO]
    rig.operate("split", 0, 2)
    assert rig.take().startswith("S2 L>T")
    assert rig.rules == ["BUG:handle_changed_spte"]


# Facts 6.5, 6.7, 6.10 row 4: who refuses a removal under the read lock, and when.
@pytest.mark.parametrize("design", DESIGNS)
def test_zap_under_the_read_lock(design: str) -> None:
    rig = Rig(design)
    rig.fault(1)
    rig.take()
    ret = rig.set_atomic(rig.iter(1, 1), SHADOW_NONPRESENT_VALUE)
    log = rig.take()
    if design in ("v6.16", "rfc-v5-08", "rfc-v5"):
        assert (ret, log) == (-EBUSY, "")
        assert rig.rules == ["BUG:__tdp_mmu_set_spte_atomic"]
    else:
        assert ret == 0
        assert log.startswith("S1 L>F") and log.endswith("S1 F>.")
        assert rig.rules == []


@pytest.mark.parametrize(
    ("design", "hooks", "rule"),
    [
        ("v6.16", "link(spt)@F", "BUG:set_external_spte_present"),
        ("rfc-v5-08", "", "BUG:__tdp_mmu_set_spte_atomic"),
        ("rfc-v5", "", "BUG:__tdp_mmu_set_spte_atomic"),
        ("feb06", "set(L>T)@F", ""),
        ("v7.3", "set(L>T)@F", ""),
    ],
)
def test_split_under_the_read_lock(design: str, hooks: str, rule: str) -> None:
    rig = Rig(design, max_level=2)
    rig.fault(1)
    iter = rig.iter(1, 2)
    child = rig.kvm.fn.tdp_mmu_alloc_sp(rig.kvm)
    rig.kvm.fn.tdp_mmu_init_child_sp(rig.kvm, child, iter)
    rig.kvm.fn.kvm_mmu_alloc_external_spt(rig.vcpu, child)
    rig.take()
    rig.set_atomic(iter, make_nonleaf_spte(child))
    words = rig.take().split("; ")
    assert [w for w in words if "@" in w] == ([hooks] if hooks else [])
    assert rig.rules == ([rule] if rule else [])


# Facts 6.11, last row.
@pytest.mark.parametrize("design", DESIGNS)
def test_ageing_a_mirror_leaf(design: str) -> None:
    rig = Rig(design)
    rig.fault(1)
    rig.take()
    rig.operate("age", 1, 2, private=True)
    refuses = design in ("feb06", "feb10-sp", "v7.3")
    assert rig.take() == ("" if refuses else "S1 L>L; TR1 L>L")
    aged = not rig.iter(1, 1).old_spte & VMX_EPT_ACCESS_BIT
    assert aged is not refuses
    assert rig.rules == (["WARN:kvm_tdp_mmu_age_spte"] if refuses else [])
