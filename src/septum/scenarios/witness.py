# SPDX-License-Identifier: GPL-2.0-only
"""Notes what happened, seen from outside: for the events that a scenario says must occur.

Only what both a Python design and a compiled kernel show (SPTE changes, trace events) is
used here; the rest is noted by the models themselves (`Machine.reach`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from septum.kvm.spte import PG_LEVEL_4K, is_frozen_spte, is_last_spte, is_shadow_present_pte
from septum.kvm.view import Observed, SpteChange

__all__ = ["watch"]


def watch(view: Observed) -> None:
    """Note zaps, splits, merges and removed tables."""
    m = view.m

    def on_direct(change: SpteChange) -> None:
        level = change.entry.level
        old, new = change.old, change.new
        was, now = is_shadow_present_pte(old), is_shadow_present_pte(new)
        was_leaf, is_leaf = was and is_last_spte(old, level), now and is_last_spte(new, level)
        if was_leaf and now and not is_leaf:
            m.reach("a huge direct leaf was split")
        elif was and not was_leaf and is_leaf:
            m.reach("a direct table became a huge leaf")
        elif was_leaf and not now and not is_frozen_spte(new):
            m.reach("a direct leaf was zapped")

    def on_spte(change: SpteChange) -> None:
        if not change.entry.table.is_mirror:
            on_direct(change)
            return
        level = change.entry.level
        old, new = change.old, change.new
        was_leaf = is_shadow_present_pte(old) and is_last_spte(old, level)
        is_leaf = is_shadow_present_pte(new) and is_last_spte(new, level)
        if is_leaf and level > PG_LEVEL_4K and not was_leaf:
            m.reach("a huge mirror leaf was installed")
        if not was_leaf or is_frozen_spte(new):
            return
        if not is_shadow_present_pte(new):
            m.reach("a mirror leaf was zapped")
        elif not is_leaf and change.mmu_lock_write:
            m.reach("a huge mirror leaf was split under the write lock")

    def on_trace(name: str, fields: Mapping[str, Any]) -> None:
        if name == "kvm_mmu_prepare_zap_page":
            m.reach("a table was removed")
        if name == "kvm_mmu_split_huge_page" and not fields["errno"]:
            held = "write" if view.holds_mmu_lock_for_write() else "read"
            m.reach(f"a huge page was split, mmu_lock held for {held}")

    view.subscribe("spte", on_spte)
    view.subscribe("trace", on_trace)
