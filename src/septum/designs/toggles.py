# SPDX-License-Identifier: GPL-2.0-only
"""Suggestions of the founding mail (and one mutation), each a patch on any base that has
the text it changes (facts 6.9).

A toggle is a list of hunks: a function, text of it, the text instead.  The first of a hunk's
alternatives that the base contains is used; a base with none of them makes the toggle
inapplicable, and `DesignError` says so.  The patched text is what runs, what
``septum designs diff`` prints and what counterexamples point to.

``+nonpresent`` (D4a)
    The reviewer: RFC v5 patch 08 should call remove_external_spte() if the new SPTE is not
    *present*, not if it is no *leaf*: leaf to table is not a removal.  The patch author:
    intended, so that the level check in TDX fires; the old leaf is gone.  Visible only with a
    huge mirror leaf: TDX is not called, only the KVM_BUG_ON of tdp_mmu_set_spte() fires, and
    where that is gone, nothing.

``+shared-param`` (D4b)
    The reviewer: a parameter ``bool shared`` for set_external_spte(), so that a split under
    mmu_lock held for read can return BUSY to the MMU, while under the write lock it retries
    without vCPUs and then bugs the VM.  The patch author: no objection.  Without it the hook
    cannot choose: tdh_do_no_vcpus() under the read lock breaks lockdep (I10), -EBUSY under the
    write lock bugs the VM.  With T-split, a shared split is one PAGE.DEMOTE: only a module that
    needs no BLOCK and TRACK for it (hypothetical) accepts that.

``+split-busy``
    What the hook can do *without* that parameter to be usable under the read lock: split by one
    PAGE.DEMOTE and return BUSY, whatever lock is held.  Under the write lock the caller, which
    cannot retry, then bugs the VM.  Hypothetical as the shared split of ``+shared-param`` is.

``+warn-shared`` (D4c)
    The reviewer: WARN in the void wrapper if a mirror changes under the shared lock, since
    failure must go back through set_spte_atomic.  The patch author: no, it should be usable
    everywhere.  Fires exactly for handle_removed_pt(shared=true) on a mirror table.

``+opencoded-cas`` (D4d)
    The reviewer: check frozen(new), frozen(old) and yielded in one place and call
    try_cmpxchg64() directly.  The patch author: the helper stays, ageing needs the same rules.
    Only where the assertion is; a difference only if one caller loses it.

``+mirror-bool`` (D4e)
    The reviewer: pass ``bool is_mirror_sp`` instead of the SPTE's address to
    __handle_changed_spte(), which then cannot read it again.  The patch author: pass sp
    (``feb10-sp``).  No observable difference.

``+reread-sptep``
    The founding mail's question: "what if __handle_changed_spte() reads *iter->sptep in step
    2?"  It does here, and takes what it finds for the new value: FROZEN, for a mirror SPTE
    under the read lock, so neither hook nor statistics follow (I1, I4).

The TDX dispatch of a change with old present is a parameter of its own (facts 6.1), for the
designs from ``rfc-v5`` on:

``+t-rm``
    TDX removes whatever was present, also if the new SPTE is present: the dispatch of ``v7.3``.
    A split or merge ends at the level check of tdx_sept_remove_leaf_spte(), before any SEAMCALL.

``+t-bug``
    TDX bugs the VM if old and new SPTE are present: the dispatch of ``rfc-v5``.  The S-EPT
    is not touched then.

``+t-split``
    TDX splits if old and new SPTE are present, by BLOCK, TRACK and PAGE.DEMOTE: the dispatch
    of ``feb06``, with the allocation of the S-EPT page that a split needs.
"""

from __future__ import annotations

import inspect
import linecache
import textwrap
from collections.abc import Callable, Mapping
from functools import partial
from types import FunctionType
from typing import Any, Final

from septum.designs import feb06, rfc_v5
from septum.designs.registry import DesignError, Toggle
from septum.kvm import tdx_sept

__all__ = ["TOGGLES", "Hunk", "patch"]

Function = Callable[..., Any]
Hunk = tuple[str, tuple[tuple[str, str], ...]]
"""A function's name, and alternatives (text, text instead)."""


# --- patching -----------------------------------------------------------------------------


def patch(
    toggle: str, hunks: tuple[Hunk, ...], base: Mapping[str, Function]
) -> dict[str, Function]:
    """Apply ``hunks`` to the functions of ``base``; what they became.

    :raises DesignError: ``base`` lacks a function, or all alternatives for it.
    """
    sources: dict[str, str] = {}
    for name, alternatives in hunks:
        if name not in sources:
            if name not in base:
                raise DesignError(f"toggle {toggle!r} does not apply: the base has no {name}()")
            sources[name] = textwrap.dedent(inspect.getsource(base[name]))
        for old, new in alternatives:
            if old in sources[name]:
                sources[name] = sources[name].replace(old, new)
                break
        else:
            text = alternatives[0][0].strip().splitlines()[0]
            raise DesignError(
                f"toggle {toggle!r} does not apply: {name}() of the base has no {text!r}"
            )
    return {name: _compile(toggle, base[name], source) for name, source in sources.items()}


def _compile(toggle: str, function: Function, source: str) -> Function:
    """``source`` as a function in the module of ``function``, known to `inspect`."""
    assert isinstance(function, FunctionType)
    was = function.__code__.co_filename.rpartition("/")[2].strip("<>")
    filename = f"<{was}+{toggle}:{function.__name__}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    made: dict[str, Any] = {}
    exec(compile(source, filename, "exec"), function.__globals__, made)
    (patched,) = made.values()
    result: Function = getattr(patched, "__func__", patched)  # a class's static method
    return result


# --- hunks ------------------------------------------------------------------------------------

_NONPRESENT: Final[tuple[Hunk, ...]] = (
    (
        "handle_changed_spte",
        (
            (
                "elif was_leaf and is_mirror_sptep(sptep) and not is_leaf:",
                "elif was_leaf and is_mirror_sptep(sptep) and not is_present:",
            ),
            (
                "elif was_leaf and is_mirror_sptep(sptep):",
                "elif was_leaf and is_mirror_sptep(sptep) and not is_present:",
            ),
        ),
    ),
)

_SHARED_SIGNATURE: Final = (
    ("new_spte: int, level: int) ->", "new_spte: int, level: int, shared: bool) ->"),
    ("new_spte: int, level: int\n", "new_spte: int, level: int, shared: bool\n"),
)
_SHARED_CALL: Final = (("old_spte, new_spte, level)", "old_spte, new_spte, level, shared)"),)
_SHARED_PARAM: Final[tuple[Hunk, ...]] = (
    (
        "__handle_changed_spte",
        (
            (
                "set_external_spte(kvm, gfn, old_spte, new_spte, level)",
                "set_external_spte(kvm, gfn, old_spte, new_spte, level, shared)",
            ),
        ),
    ),
    ("set_external_spte", _SHARED_SIGNATURE),
    ("set_external_spte", _SHARED_CALL),
    ("tdx_sept_set_private_spte", _SHARED_SIGNATURE),
)
# Where the base has a split: the read lock allows no retry without vCPUs, and no TRACK.
_SHARED_SPLIT: Final[tuple[Hunk, ...]] = (
    ("tdx_sept_set_private_spte", _SHARED_CALL),
    ("tdx_sept_split_private_spte", _SHARED_SIGNATURE),
    (
        "tdx_sept_split_private_spte",
        (
            (
                "    lockdep_assert_held_write(kvm.mmu_lock, name)\n",
                "    if not shared:\n        lockdep_assert_held_write(kvm.mmu_lock, name)\n",
            ),
        ),
    ),
    (
        "tdx_sept_split_private_spte",
        (
            (
                "    no_vcpus = kvm.fn.tdh_do_no_vcpus\n",
                "    if shared:\n"
                "        result = kvm.fn.tdh_mem_page_demote(kvm, gfn, level, external_spt)\n"
                "        if kvm.fn.tdx_operand_busy(result.rax):\n"
                '            kvm.m.reach("PAGE.DEMOTE returned BUSY")\n'
                "            return -EBUSY\n"
                '        if TDX_BUG_ON(result, "TDH_MEM_PAGE_DEMOTE", kvm, name):\n'
                "            return -EIO\n"
                "        return 0\n"
                "    no_vcpus = kvm.fn.tdh_do_no_vcpus\n",
            ),
        ),
    ),
)

_SPLIT_BUSY: Final[tuple[Hunk, ...]] = (
    (
        "tdx_sept_split_private_spte",
        (("    lockdep_assert_held_write(kvm.mmu_lock, name)\n", ""),),
    ),
    (
        "tdx_sept_split_private_spte",
        (
            (
                "    no_vcpus = kvm.fn.tdh_do_no_vcpus\n"
                "    result = no_vcpus(kvm, kvm.fn.tdh_mem_range_block, gfn, level)\n"
                '    if TDX_BUG_ON(result, "TDH_MEM_RANGE_BLOCK", kvm, name):\n'
                "        return -EIO\n"
                "    kvm.fn.tdx_track(kvm)\n"
                "    result = no_vcpus("
                "kvm, kvm.fn.tdh_mem_page_demote, gfn, level, external_spt)\n",
                "    result = kvm.fn.tdh_mem_page_demote(kvm, gfn, level, external_spt)\n"
                "    if kvm.fn.tdx_operand_busy(result.rax):\n"
                '        kvm.m.reach("PAGE.DEMOTE returned BUSY")\n'
                "        return -EBUSY\n",
            ),
        ),
    ),
)

_WARN_SHARED: Final[tuple[Hunk, ...]] = (
    (
        "handle_changed_spte",
        tuple(
            (
                f"    KVM_BUG_ON(\n        kvm.fn.__handle_changed_spte(kvm, {arguments}",
                f"    WARN_ON(\n        {test} and shared,\n        kvm,\n"
                '        "handle_changed_spte",\n'
                '        "a mirror SPTE changes under the shared lock",\n    )\n'
                f"    KVM_BUG_ON(\n        kvm.fn.__handle_changed_spte(kvm, {arguments}",
            )
            for arguments, test in (
                ("as_id, sptep,", "is_mirror_sptep(sptep)"),
                ("sp,", "is_mirror_sp(sp)"),
            )
        ),
    ),
)

_OPENCODED_CAS: Final[tuple[Hunk, ...]] = (
    (
        "tdp_mmu_set_spte_atomic",
        (
            (
                '    WARN_ON(is_frozen_spte(new_spte), kvm, name, "new SPTE is frozen")\n',
                "    WARN_ON(\n"
                "        is_frozen_spte(new_spte) or is_frozen_spte(iter.old_spte)"
                " or iter.yielded,\n"
                "        kvm,\n"
                "        name,\n"
                '        "old or new SPTE is frozen, or the iterator yielded",\n'
                "    )\n",
            ),
        ),
    ),
    (
        "tdp_mmu_set_spte_atomic",
        (
            (
                "        ret: int = kvm.fn.__tdp_mmu_set_spte_atomic(kvm, iter, FROZEN_SPTE)\n",
                "        ok, iter.old_spte = iter.sptep.try_cmpxchg(iter.old_spte, FROZEN_SPTE)\n",
            ),
        ),
    ),
    (
        "tdp_mmu_set_spte_atomic",
        (
            (
                "        ret = kvm.fn.__tdp_mmu_set_spte_atomic(kvm, iter, new_spte)\n"
                "    if ret:\n"
                "        return ret\n"
                "    ret = ",
                "        ok, iter.old_spte = iter.sptep.try_cmpxchg(iter.old_spte, new_spte)\n"
                "    if not ok:\n"
                "        return -EBUSY\n"
                "    ret: int = ",
            ),
        ),
    ),
)

_MIRROR_BOOL: Final[tuple[Hunk, ...]] = (
    (
        "__handle_changed_spte",
        (("    sptep: Spte,\n", "    is_mirror_sp: bool,\n"),),
    ),
    (
        "__handle_changed_spte",
        (
            (
                "    sp = sptep_to_sp(sptep)\n"
                "    trace_kvm_tdp_mmu_spte_changed(kvm, sp, gfn, level, old_spte, new_spte)\n",
                "    kvm.trace(\n"
                '        "kvm_tdp_mmu_spte_changed",\n'
                "        as_id=as_id,\n"
                "        gfn=gfn,\n"
                "        level=level,\n"
                "        old_spte=old_spte,\n"
                "        new_spte=new_spte,\n"
                "    )\n",
            ),
        ),
    ),
    ("__handle_changed_spte", (("elif is_mirror_sptep(sptep):", "elif is_mirror_sp:"),)),
    (
        "handle_changed_spte",
        (
            (
                "        kvm.fn.__handle_changed_spte("
                "kvm, as_id, sptep, gfn, old_spte, new_spte, level, shared),\n",
                "        kvm.fn.__handle_changed_spte(\n"
                "            kvm, as_id, is_mirror_sptep(sptep), gfn, old_spte, new_spte, level, "
                "shared\n        ),\n",
            ),
        ),
    ),
    (
        "tdp_mmu_set_spte_atomic",
        (
            (
                "        kvm, iter.as_id, iter.sptep, iter.gfn, iter.old_spte, new_spte, "
                "iter.level, True\n",
                "        kvm,\n        iter.as_id,\n        is_mirror_sptep(iter.sptep),\n"
                "        iter.gfn,\n        iter.old_spte,\n        new_spte,\n"
                "        iter.level,\n        True,\n",
            ),
        ),
    ),
)


# --- applying them ----------------------------------------------------------------------------


def _shared_param(base: Mapping[str, Function]) -> dict[str, Function]:
    has_split = "tdx_sept_split_private_spte" in base
    return patch("shared-param", _SHARED_PARAM + (_SHARED_SPLIT if has_split else ()), base)


def _reread_sptep(base: Mapping[str, Function]) -> dict[str, Function]:
    """By the address if it is passed, else through sp: no parameter prevents it."""
    toggle, name = "reread-sptep", "__handle_changed_spte"
    line = f'    name = "{name}"\n'
    parameters = _parameters(toggle, name, base)
    if "sptep" in parameters:
        sptep = "sptep"
    elif "sp" in parameters:
        sptep = "sp.spt.word(kvm.geometry.index(root_gfn, level))"
        line += "    root_gfn = gfn if is_mirror_sp(sp) else gfn | kvm.gfn_direct_bits\n"
    else:
        raise DesignError(f"toggle {toggle!r} does not apply: {name}() has nothing to read again")
    reread = f"    new_spte = {sptep}.read()  # FROZEN, if our caller froze it\n"
    return patch(toggle, ((name, ((line.splitlines(True)[0], line + reread),)),), base)


def _parameters(toggle: str, name: str, base: Mapping[str, Function]) -> frozenset[str]:
    if name not in base:
        raise DesignError(f"toggle {toggle!r} does not apply: the base has no {name}()")
    return frozenset(inspect.signature(base[name]).parameters)


_SPLIT: Final = (
    feb06.tdh_mem_page_demote,
    feb06.tdp_mmu_alloc_sp_for_split,
    feb06.tdp_mmu_alloc_sp_unlocked,
    feb06.tdp_mmu_split_huge_pages_root,
    feb06.tdx_sept_set_private_spte,
    feb06.tdx_sept_split_private_spte,
)


def _dispatch(
    toggle: str, functions: tuple[Function, ...], base: Mapping[str, Function]
) -> dict[str, Function]:
    if "old_spte" not in _parameters(toggle, "tdx_sept_set_private_spte", base):
        raise DesignError(
            f"toggle {toggle!r} does not apply: the hook of the base is not given the old SPTE"
        )
    return {f.__name__: f for f in functions}


# --- the list ---------------------------------------------------------------------------------


def _doc(name: str) -> str:
    """The paragraph of this module's docstring about a toggle."""
    lines = (__doc__ or "").splitlines()
    start = next(i for i, line in enumerate(lines) if f"``+{name}``" in line)
    end = next((i for i in range(start, len(lines)) if not lines[i]), len(lines))
    return inspect.cleandoc("\n".join(lines[start + 1 : end]))


def _toggle(
    name: str, apply: Callable[[Mapping[str, Function]], Mapping[str, Function]], *can: str
) -> Toggle:
    return Toggle(name, apply, _doc(name), capabilities=frozenset(can))


TOGGLES: Final = (
    _toggle("nonpresent", partial(patch, "nonpresent", _NONPRESENT)),
    _toggle("shared-param", _shared_param),
    _toggle("split-busy", partial(patch, "split-busy", _SPLIT_BUSY)),
    _toggle("warn-shared", partial(patch, "warn-shared", _WARN_SHARED)),
    _toggle("opencoded-cas", partial(patch, "opencoded-cas", _OPENCODED_CAS)),
    _toggle("mirror-bool", partial(patch, "mirror-bool", _MIRROR_BOOL)),
    _toggle("reread-sptep", _reread_sptep),
    _toggle("t-rm", partial(_dispatch, "t-rm", (tdx_sept.tdx_sept_set_private_spte,))),
    _toggle("t-bug", partial(_dispatch, "t-bug", (rfc_v5.tdx_sept_set_private_spte,))),
    _toggle("t-split", partial(_dispatch, "t-split", _SPLIT), "split-write"),
)
