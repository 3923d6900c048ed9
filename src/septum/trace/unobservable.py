# SPDX-License-Identifier: GPL-2.0-only
"""What the recorded events cannot show, and which probe would (facts 4.19, 7, 8).

Each entry is one sentence pair for the user.  The first ones hold for every recording
of stock events; the others depend on what this recording holds.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ALWAYS", "tdx_unobservable", "unobservable"]

ALWAYS: Final = (
    "No event names the VM or the root: trees that map the same GFNs are told apart by"
    " values and table pages only. Probe: kprobe __handle_changed_spte, argument sp.",
    "No event says which lock was held. Probe: kprobe __handle_changed_spte, argument shared.",
    "A, D (set by the CPU) and W (set by fast_page_fault) change without a"
    " kvm_tdp_mmu_spte_changed line. Probe for W: the event kvmmmu:fast_page_fault; for A"
    " and D: none.",
    "The freeze and unfreeze of a mirror entry has no line. Probe: kprobe tdp_mmu_set_spte_atomic.",
    "A change that fails (7.3: an S-EPT operation that returns an error) has no line."
    " Probe: kretprobe __handle_changed_spte, return value.",
)

_NEEDED: Final = {
    "kvm_tdp_mmu_spte_changed": "every change of the TDP MMU; without it there is nothing to fold",
    "kvm_mmu_get_page": "when a root is made; without it other trees cannot be excluded, and"
    " a line counts only against a line of the same vCPU",
    "kvm_mmu_prepare_zap_page": "which table a task is removing; without it rules I9 and"
    " I20-removal are weaker",
}


_CALLS_SEEN: Final = (
    "The guest's TDG.MEM.PAGE.ACCEPT does not leave the guest: PENDING and MAPPED are not told"
    " apart. Probe: none on the host; TDH.MEM.SEPT.RD would read the state.",
    "VP.ENTER cannot be probed (__seamcall_saved_ret is noinstr): whether a vCPU is inside is not"
    " known, so a call that failed for one that was may always be right.",
)


def tdx_unobservable(
    *, ept: bool, calls: int, mirror_roots: int, raw_roles: bool, get_page: bool
) -> list[str]:
    """What a recording of a TDX host leaves open.

    :param calls: SEAMCALLs that were recorded.
    :param raw_roles: the page roles are numbers, which say whether a root is a mirror.
    """
    if calls:
        return list(_CALLS_SEEN)
    if mirror_roots:
        roots = "1 mirror root was" if mirror_roots == 1 else f"{mirror_roots} mirror roots were"
        return [
            f"{roots} made, but no SEAMCALL was recorded: mirror and S-EPT cannot be compared"
            " (rules I1, I8). Probes: septum record --tdx."
        ]
    if ept and get_page and not raw_roles:
        return [
            "The text of a page role does not say whether a root is the mirror of a TD. Use"
            " trace.dat or trace-cmd report -R; on a TDX host also septum record --tdx."
        ]
    return []


def unobservable(
    events: dict[str, int], *, mid_life: bool, lost: bool, unseen: int, guests_paging: bool
) -> list[str]:
    """The sentences that apply to one recording."""
    said = [
        f"There is no {name} line: it would show {why}. Enable kvmmmu:{name}."
        for name, why in _NEEDED.items()
        if name not in events
        # A recording without any removal has no prepare_zap_page line either.
        and not (name == "kvm_mmu_prepare_zap_page" and "kvm_mmu_get_page" in events)
    ]
    if "kvm_tdp_mmu_spte_changed" not in events:
        return said
    if mid_life:
        said.append(
            "The recording does not begin before the first root was made: entries are"
            " unknown until a line names them. Start tracing before the VM."
        )
    if unseen:
        said.append(
            f"{unseen} table pages were in use that no line linked: their other entries are"
            " unknown. Start tracing before the VM, with buffers that lose nothing."
        )
    if lost:
        said.append(
            "Events were lost: everything before a loss is unknown after it. Use larger"
            " buffers (buffer_size_kb) or fewer events."
        )
    if guests_paging:
        said.append(
            "kvm_mmu_pagetable_walk and kvm_mmu_paging_element show the guest's own page"
            " tables; they say nothing about the TDP MMU."
        )
    return [*said, *ALWAYS]
