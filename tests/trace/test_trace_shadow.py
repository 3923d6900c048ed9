# SPDX-License-Identifier: GPL-2.0-only
"""The pure fold, without any text (septum.kvm.shadow, septum.kvm.versions)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trace_rig import EMPTY, FROZEN, leaf, table

from septum.kvm.shadow import UNKNOWN, ShadowTables
from septum.kvm.versions import (
    EPT,
    KERNELS,
    NPT,
    decode_role,
    restore_acc_track_spte,
    spte_format_of,
)


def tree() -> ShadowTables:
    """A root and the tables for gfn 0-511."""
    shadow = ShadowTables(empty=EMPTY)
    shadow.announce_root(4)
    for level, page in ((4, 0x11), (3, 0x12), (2, 0x13)):
        assert shadow.change(0, 0, level, EMPTY, table(page)) is None
    return shadow


def test_install_and_zap_are_counted() -> None:
    shadow = tree()
    assert shadow.change(0, 5, 1, EMPTY, leaf(0x99)) is None
    assert shadow.leafs[1] == 1
    assert shadow.change(0, 5, 1, leaf(0x99), EMPTY) is None
    assert shadow.leafs == [0] * 6
    assert (shadow.linked, shadow.live, shadow.unseen) == (3, 4, 0)


def test_old_must_follow_last_new() -> None:
    shadow = tree()
    shadow.change(0, 5, 1, EMPTY, leaf(0x99))
    assert shadow.change(0, 5, 1, leaf(0x98), EMPTY) == leaf(0x99)
    assert shadow.change(0, 6, 1, leaf(0x98), EMPTY) == EMPTY
    assert shadow.change(0, 6, 1, EMPTY, leaf(0x98)) is None


@pytest.mark.parametrize(
    ("last", "old", "follows"),
    [
        (0xE27, 0xE67, True),  # D set by the CPU
        (0xE47, 0xE67, True),  # A
        (0xE65, 0xE67, True),  # W by fast_page_fault
        (0xE25, 0xE67, True),  # W, then D
        (0xE67, 0xE65, False),  # W cleared without a line
        (0xE67, 0xE27, False),  # D
        (0xE67, 0xE47, False),  # A
        (0xA65, 0xA67, False),  # W on an entry that is not MMU-writable
        (0xE25, 0xE65, False),  # D on an entry that is not writable
        (0xE67, 0xE66, False),
    ],
)
def test_what_may_happen_between_lines(last: int, old: int, follows: bool) -> None:
    shadow = tree()
    assert shadow.expects(leaf(0x99, last), leaf(0x99, old), 1) is follows
    shadow.change(0, 5, 1, EMPTY, leaf(0x99, last))
    expected = None if last == old else leaf(0x99, last)
    assert shadow.change(0, 5, 1, leaf(0x99, old), EMPTY, exact=True) == expected


def test_access_tracked_ept_leaf_is_restored_without_a_line() -> None:
    shadow = ShadowTables()
    shadow.format = EPT
    whole = 1 << 60 | 1 << 55 | 1 << 53 | 0x99 << 12 | 0xF37
    tracked = (whole & ~0x507) | 1 << 52 | 1 << 54 | 1 << 62
    assert restore_acc_track_spte(tracked) | 2 == whole
    assert shadow.expects(tracked, whole, 1)
    assert shadow.expects(tracked, whole & ~2, 1)
    assert not shadow.expects(tracked, whole + 0x1000, 1)


def test_split_fills_the_child_table() -> None:
    shadow = tree()
    huge = leaf(0x4000, 0xEE7)
    assert shadow.change(0, 512, 2, EMPTY, huge) is None
    assert shadow.change(0, 512, 2, huge, table(0x14)) is None
    assert shadow.leafs[1:4] == [512, 0, 0]
    assert shadow.change(0, 515, 1, leaf(0x4003), leaf(0x4003, 0xE65)) is None
    assert shadow.change(0, 516, 1, leaf(0x4003), EMPTY) == leaf(0x4004)


def test_split_of_1g_makes_2m_leafs() -> None:
    shadow = tree()
    giant = leaf(0x80000, 0xEE7)
    shadow.change(0, 1 << 18, 3, EMPTY, giant)
    shadow.change(0, 1 << 18, 3, giant, table(0x15))
    assert shadow.leafs[1:4] == [0, 512, 0]
    second = leaf(0x80200, 0xEE7)
    assert shadow.change(0, (1 << 18) + 512, 2, second, EMPTY) is None
    assert shadow.leafs[2] == 511


def test_split_child_may_become_executable() -> None:
    shadow = tree()
    huge = leaf(0x4000, 0xEE7) | 1 << 63
    shadow.change(0, 512, 2, EMPTY, huge)
    shadow.change(0, 512, 2, huge, table(0x14))
    assert shadow.change(0, 513, 1, leaf(0x4001), EMPTY) is None


def test_removed_table_leaves_nothing() -> None:
    shadow = tree()
    for gfn in (1, 2, 3):
        shadow.change(0, gfn, 1, EMPTY, leaf(0x90 + gfn))
    for gfn in (1, 2, 3):
        assert shadow.change(0, gfn, 1, leaf(0x90 + gfn), FROZEN) is None
    assert shadow.change(0, 0, 2, table(0x13), EMPTY) is None
    assert (shadow.leafs[1], shadow.removed, shadow.live) == (0, 1, 3)
    assert shadow.change(0, 0, 2, EMPTY, table(0x20)) is None
    assert shadow.change(0, 1, 1, EMPTY, leaf(0x55)) is None


def test_drop_names_what_no_line_removed() -> None:
    shadow = tree()
    for gfn in (1, 2):
        shadow.change(0, gfn, 1, EMPTY, leaf(0x90 + gfn))
    parent = shadow.find(0, 0, 2, table(0x13))
    gone = shadow.store(parent, 0, table(0x13), EMPTY)
    assert gone is not None
    assert shadow.drop(gone) == {1: leaf(0x91), 2: leaf(0x92)}
    assert shadow.leafs[1] == 0


def test_two_roots_of_one_address_space() -> None:
    shadow = tree()
    shadow.change(0, 1, 1, EMPTY, leaf(0x91))
    shadow.announce_root(4)
    for level, page in ((4, 0x21), (3, 0x22), (2, 0x23)):
        assert shadow.change(0, 0, level, EMPTY, table(page)) is None
    assert shadow.change(0, 1, 1, EMPTY, leaf(0xA1)) is None
    assert shadow.change(0, 1, 1, leaf(0x91), EMPTY) is None
    for level, page in ((2, 0x13), (3, 0x12), (4, 0x11)):
        assert shadow.change(0, 0, level, table(page), EMPTY) is None
    assert (shadow.leafs[1], shadow.live) == (1, 4)
    assert shadow.change(0, 1, 1, leaf(0xA1), EMPTY) is None


def test_a_root_that_was_not_announced_is_a_surprise() -> None:
    shadow = tree()
    assert shadow.change(0, 0, 4, EMPTY, table(0x21)) == table(0x11)


def test_unknown_until_seen() -> None:
    shadow = ShadowTables()
    assert shadow.change(0, 7, 1, leaf(0x91), leaf(0x91, 0xE65)) is None
    assert shadow.change(0, 7, 1, leaf(0x92), EMPTY) == leaf(0x91, 0xE65)
    assert shadow.find(0, 8, 1, EMPTY).value(8) == UNKNOWN
    assert shadow.unseen == 1


def test_forget_keeps_counts_but_not_certainty() -> None:
    shadow = tree()
    shadow.change(0, 1, 1, EMPTY, leaf(0x91))
    shadow.forget()
    assert shadow.leafs[1] == 1
    assert shadow.change(0, 1, 1, leaf(0x77), EMPTY) is None
    assert shadow.leafs[1] == 0


def test_6_1_freezes_entries_that_stay() -> None:
    shadow = ShadowTables(empty=0)
    shadow.announce_root(4)
    shadow.change(0, 0, 4, 0, table(0x11))
    shadow.change(0, 0, 3, 0, table(0x12))
    shadow.change(0, 0, 2, 0, leaf(0x200, 0xEE7))
    assert shadow.change(0, 0, 2, leaf(0x200, 0xEE7), 0x5A0) is None
    assert shadow.change(0, 0, 2, 0, table(0x13)) is None


@given(st.data())
def test_any_true_history_folds_without_surprise(data: st.DataObject) -> None:
    """Random changes of a 2-bit tree, logged in 7.3 order, reproduce the tree."""
    shadow = ShadowTables(bits=2, empty=EMPTY)
    model: dict[tuple[int, int], int] = {}
    pages = iter(range(0x1000, 0x10000))

    def change(level: int, gfn: int, new: int) -> None:
        old = model.get((level, gfn), EMPTY)
        if old & 0x800 and level > 1 and not old & 0x80 and not new & 0x800:
            step = 1 << 2 * (level - 2)
            for child in range(gfn, gfn + 4 * step, step):
                if model.get((level - 1, child), EMPTY) & 0x800:
                    change(level - 1, child, FROZEN)
                model.pop((level - 1, child), None)
        assert shadow.change(0, gfn, level, old, new, exact=True) is None
        model[level, gfn] = new

    shadow.find(0, 0, 3, EMPTY)
    for _ in range(data.draw(st.integers(1, 25))):
        gfn = data.draw(st.integers(0, 63))
        level = data.draw(st.integers(1, 3))
        base = gfn >> 2 * (level - 1) << 2 * (level - 1)
        for upper in range(3, level, -1):
            above = gfn >> 2 * (upper - 1) << 2 * (upper - 1)
            if not model.get((upper, above), EMPTY) & 0x800:
                change(upper, above, table(next(pages)))
        if model.get((level, base), EMPTY) & 0x800:
            change(level, base, EMPTY)
        elif level == 1:
            change(1, gfn, leaf(next(pages)))
        else:
            change(level, base, table(next(pages)))
    present = sum(1 for (level, _), value in model.items() if level == 1 and value & 0x800)
    assert shadow.leafs[1] == present


def test_formats_tell_themselves() -> None:
    assert spte_format_of(0x14527482_7, 2) is NPT
    assert spte_format_of(0x80000010AB8C9D07, 2) is EPT
    assert spte_format_of(0x80A00021BAE76F37, 1) is EPT
    assert spte_format_of(0x145665E67, 1) is None
    assert spte_format_of(EMPTY, 2) is None


def test_mmio_values() -> None:
    assert NPT.may_be_mmio(0x8000180002187)
    assert not NPT.may_be_mmio(0x180002187)
    assert EPT.may_be_mmio(0xFEE00006)
    assert not EPT.may_be_mmio(EMPTY)


def test_roles_by_version() -> None:
    new = decode_role(KERNELS["7.3"], 4 | 1 << 7 | 0xF << 8 | 1 << 13 | 1 << 14 | 1 << 19)
    assert (new["level"], new["access"], new["invalid"], new["is_mirror"]) == (4, 15, 0, 1)
    assert KERNELS["7.3"].access_strings[new["access"]] == "rwux"
    old = decode_role(KERNELS["6.1"], 4 | 1 << 7 | 0x7 << 8 | 1 << 12 | 1 << 13)
    assert (old["access"], old["invalid"], old["efer_nx"]) == (7, 0, 1)
    assert KERNELS["6.12"].access_strings[old["access"]] == "wux"


def siblings(own: int, *theirs: tuple[int, bool]) -> list[int]:
    """Entry 5 of a table that claims a line with old value EMPTY or a leaf, and of its
    siblings (value, dying); what they hold afterwards."""
    shadow = ShadowTables(empty=EMPTY)
    tables = [shadow.add_unseen(0, 0, 1) for _ in range(1 + len(theirs))]
    for one, (value, dying) in zip(tables, ((own, False), *theirs), strict=True):
        one.default, one.dying, one.entries[5] = EMPTY, dying, value
    shadow.claim(tables[0], 5, leaf(0x99))
    return [one.value(5) for one in tables]


def test_a_claimed_line_takes_the_sibling_that_fits_exactly() -> None:
    """Two roots with the same page: D was dropped in one of them (6.1 refault).  The own
    value explains the line too, but the sibling needs it later."""
    dropped = leaf(0x99, 0xE27)
    assert siblings(dropped, (leaf(0x99), False)) == [leaf(0x99), dropped]
    assert siblings(leaf(0x99), (leaf(0x99), False)) == [leaf(0x99), leaf(0x99)]


def test_a_claim_prefers_living_siblings_and_leaves_frozen_ones() -> None:
    """Found in a recording of two VMs on 6.1: a table that was swept already holds only
    frozen values, which 6.1 may follow by empty."""
    other = leaf(0x77)
    assert siblings(other, (leaf(0x99), True), (leaf(0x99), False)) == [
        *(leaf(0x99), leaf(0x99), other)
    ]
    shadow = ShadowTables(empty=0)
    one, swept, fresh = (shadow.add_unseen(0, 0, 3) for _ in range(3))
    for table_, value in ((one, table(0x21)), (swept, 0x5A0), (fresh, 0)):
        table_.default, table_.entries[0] = 0, value
    swept.dying = True
    shadow.claim(one, 0, 0)
    assert [t.value(0) for t in (one, swept, fresh)] == [0, 0x5A0, table(0x21)]
