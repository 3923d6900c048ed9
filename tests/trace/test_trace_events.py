# SPDX-License-Identifier: GPL-2.0-only
"""Payloads: as printed by the three kernel families, and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from septum.trace import events as ev
from septum.trace.events import parse_payload


@pytest.mark.parametrize(
    ("name", "payload", "event"),
    [
        (
            "kvm_tdp_mmu_spte_changed",
            "as id 0 gfn 7d276 level 1 old_spte 80a00021bae76f37 new_spte 80000000000001a0",
            ev.SpteChanged(0, 0x7D276, 1, 0x80A00021BAE76F37, 0x80000000000001A0),
        ),
        (
            "kvm_mmu_set_spte",
            "gfn 7d276 spte 80a00021bae76f37 (rwxu) level 1 at 10ab8c93b0",
            ev.SetSpte(0x7D276, 0x80A00021BAE76F37, "rwxu", 1, 0x10AB8C93B0),
        ),
        (
            "kvm_mmu_get_page",
            "sp gen 0 gfn 7d200 l1 8-byte q0 direct rwux nxe ad root 0 sync new",
            ev.GetPage(0x7D200, 1, True, "rwux", True, False),
        ),
        (  # 6.1, 6.12
            "kvm_mmu_get_page",
            "sp gen 0 gfn 0 l4 8-byte q0 direct wux nxe !ad root 0 sync existing",
            ev.GetPage(0, 4, True, "wux", False, False),
        ),
        (  # trace-cmd's plugin
            "kvm_mmu_get_page",
            "new sp gfn 0 4 q0 direct wux invalid !pae !nxe wp smep root 0 sync",
            ev.GetPage(0, 4, True, "wux", True, True),
        ),
        (
            "kvm_mmu_prepare_zap_page",
            "sp gen 0 gfn 7d200 l1 8-byte q0 direct rwux nxe ad root 0 sync",
            ev.PrepareZapPage(0x7D200, 1, True, "rwux"),
        ),
        (
            "kvm_mmu_prepare_zap_page",
            "1 q0 direct wux invalid !pae !nxe wp smep root 0 sync",
            ev.PrepareZapPage(None, 1, True, "wux"),
        ),
        (
            "kvm_mmu_split_huge_page",
            "gfn 7d200 spte 80a0002000000fb7 level 2 errno -12",
            ev.SplitHugePage(0x7D200, 0x80A0002000000FB7, 2, -12),
        ),
        (
            "kvm_mmu_spte_requested",
            "gfn 7d276 pfn 8000000000000000 level 1 access f",
            ev.SpteRequested(0x7D276, 1 << 63, 1, 0xF),
        ),
        (
            "kvm_mmu_spte_requested",
            "gfn 7d276 pfn 21bae76 level 1",
            ev.SpteRequested(0x7D276, 0x21BAE76, 1, None),
        ),
        (
            "fast_page_fault",
            "vcpu 0 gva 7d276000 error_code P|W|0x100000000 sptep 00000000c2a7d1f3"
            " old 0x80a00021bae76f35 new 80a00021bae76f37 spurious 0 fixed 1",
            ev.FastPageFault(
                *(0, 0x7D276000, "P|W|0x100000000", "00000000c2a7d1f3"),
                *(0x80A00021BAE76F35, 0x80A00021BAE76F37, False, True),
            ),
        ),
        (  # no flag set
            "fast_page_fault",
            "vcpu 1 gva 1000 error_code  sptep 0xffff8a6058ed69c0 old 0x0 new 0 spurious 1 fixed 0",
            ev.FastPageFault(1, 0x1000, "", "0xffff8a6058ed69c0", 0, 0, True, False),
        ),
        (
            "mark_mmio_spte",
            "sptep:00000000a91b22c0 gfn fee00 access 6 gen 2c",
            ev.MarkMmioSpte("00000000a91b22c0", 0xFEE00, 6, 0x2C),
        ),
        (
            "check_mmio_spte",
            "spte 8000180002187 kvm_gen 30 spte-gen 30 valid 1",
            ev.CheckMmioSpte(0x8000180002187, 0x30, 0x30, True),
        ),
        (
            "handle_mmio_page_fault",
            "addr:0 gfn 180002 access 6",
            ev.HandleMmioPageFault(0, 0x180002, 6),
        ),
        (
            "kvm_mmu_zap_all_fast",
            "kvm-mmu-valid-gen 1 used_pages 0",
            ev.ZapAllFast(1, 0),
        ),
        (
            "kvm_mmu_pagetable_walk",
            "addr 20045 pferr 10 F",
            ev.PagetableWalk(0x20045, 0x10, "F"),
        ),
        ("kvm_mmu_paging_element", "pte 4027 level 4", ev.PagingElement(0x4027, 4)),
        (
            "kvm_page_fault",
            "vcpu 3 rip 0x20045 address 0x000000007d276000 error_code 0x100000006",
            ev.PageFault(3, 0x20045, 0x7D276000, 0x100000006),
        ),
        (
            "kvm_unmap_hva_range",
            "mmu notifier unmap range: 0x007f31c4200000 -- 0x007f31c4400000",
            ev.UnmapHvaRange(0x7F31C4200000, 0x7F31C4400000),
        ),
        (
            "kvm_age_hva",
            "mmu notifier age hva: 0x007f31c4200000 -- 0x007f31c4201000",
            ev.AgeHva(0x7F31C4200000, 0x7F31C4201000),
        ),
        (
            "kvm_test_age_hva",
            "mmu notifier test age hva: 0x007f31c4200000",
            ev.TestAgeHva(0x7F31C4200000),
        ),
    ],
)
def test_payloads(name: str, payload: str, event: ev.Event) -> None:
    assert parse_payload(name, payload) == event


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "as id 0 gfn 7d276 level 1 old_spte 80a00021bae76f37",
        "as id 0 gfn 7d276 level 1 old_spte 0 new_spte 80a00021bae76f370",
        "as id 256 gfn 7d276 level 1 old_spte 0 new_spte 8",
        "as id 0 gfn 7d276 level 1 old_spte 0 new_spte g",
        "as id 0 gfn 7d276 level 1 old_spte 0 new_spte 8 extra",
        "as id -1 gfn 7d276 level 1 old_spte 0 new_spte 8",
    ],
)
def test_what_is_not_a_change(payload: str) -> None:
    assert parse_payload("kvm_tdp_mmu_spte_changed", payload) is None


U8 = st.integers(0, 255)
U32 = st.integers(0, (1 << 32) - 1)
U64 = st.integers(0, (1 << 64) - 1)
ACCESS = st.sampled_from(["rwux", "----", "wux", "--x"])
POINTER = st.integers(0, (1 << 64) - 1).map(lambda value: f"{value:016x}")
STRATEGIES: dict[str, st.SearchStrategy[ev.Event]] = {
    "kvm_tdp_mmu_spte_changed": st.builds(ev.SpteChanged, U8, U64, U8, U64, U64),
    "kvm_mmu_set_spte": st.builds(ev.SetSpte, U64, U64, ACCESS, U8, U64),
    "kvm_mmu_get_page": st.builds(
        ev.GetPage,
        *(U64, U8, st.booleans(), st.just("wux"), st.booleans(), st.booleans()),
        mirror=st.just(False),
        as_id=st.none(),
    ),
    "kvm_mmu_prepare_zap_page": st.builds(
        ev.PrepareZapPage, st.none() | U64, U8, st.booleans(), st.just("wux")
    ),
    "kvm_mmu_split_huge_page": st.builds(
        ev.SplitHugePage, U64, U64, st.integers(0, 5), st.integers(-4095, 0)
    ),
    "kvm_mmu_spte_requested": st.builds(ev.SpteRequested, U64, U64, U8, st.none() | U8),
    "fast_page_fault": st.builds(
        ev.FastPageFault,
        U8,
        U64,
        st.sampled_from(["", "P|W", "P|W|U|0x100000000"]),
        POINTER,
        *(U64, U64, st.booleans(), st.booleans()),
    ),
    "mark_mmio_spte": st.builds(ev.MarkMmioSpte, POINTER, U64, U32, U32),
    "check_mmio_spte": st.builds(ev.CheckMmioSpte, U64, U32, U32, st.booleans()),
    "handle_mmio_page_fault": st.builds(ev.HandleMmioPageFault, U64, U64, U32),
    "kvm_mmu_zap_all_fast": st.builds(ev.ZapAllFast, U8, U32),
    "kvm_mmu_pagetable_walk": st.builds(
        ev.PagetableWalk, U64, U32, st.sampled_from(["", "F", "P|W"])
    ),
    "kvm_mmu_paging_element": st.builds(ev.PagingElement, U64, U8),
    "kvm_page_fault": st.builds(ev.PageFault, U8, U64, U64, U64),
    "kvm_unmap_hva_range": st.builds(ev.UnmapHvaRange, U64, U64),
    "kvm_age_hva": st.builds(ev.AgeHva, U64, U64),
    "kvm_test_age_hva": st.builds(ev.TestAgeHva, U64),
}


def test_every_event_has_a_round_trip() -> None:
    assert STRATEGIES.keys() == ev.PARSERS.keys()


@pytest.mark.parametrize("name", sorted(STRATEGIES))
@given(data=st.data())
def test_round_trip(name: str, data: st.DataObject) -> None:
    event = data.draw(STRATEGIES[name])
    assert parse_payload(name, event.payload()) == event


@given(st.sampled_from(sorted(ev.PARSERS)), st.text(max_size=200))
def test_no_payload_raises(name: str, payload: str) -> None:
    event = parse_payload(name, payload)
    assert event is None or parse_payload(name, event.payload()) == event
