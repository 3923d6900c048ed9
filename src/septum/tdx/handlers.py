# SPDX-License-Identifier: GPL-2.0-only
"""Which function answers which leaf.  A handler's docstring is the manual of its call."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

from septum.tdx import guest, mem_page, mem_range, mem_resize, mem_sept, mng, phymem, vp
from septum.tdx.call import Call
from septum.tdx.enter import tdh_vp_enter

__all__ = ["HANDLERS", "TDCALLS", "Handler", "handler_doc"]

Handler = Callable[[Call], int]

HANDLERS: Final[dict[str, Handler]] = {
    "TDH.VP.ENTER": tdh_vp_enter,
    "TDH.MNG.ADDCX": mng.tdh_mng_addcx,
    "TDH.MEM.PAGE.ADD": mem_page.tdh_mem_page_add,
    "TDH.MEM.SEPT.ADD": mem_sept.tdh_mem_sept_add,
    "TDH.VP.ADDCX": vp.tdh_vp_addcx,
    "TDH.MEM.PAGE.RELOCATE": mem_page.tdh_mem_page_relocate,
    "TDH.MEM.PAGE.AUG": mem_page.tdh_mem_page_aug,
    "TDH.MEM.RANGE.BLOCK": mem_range.tdh_mem_range_block,
    "TDH.MNG.KEY.CONFIG": mng.tdh_mng_key_config,
    "TDH.MNG.CREATE": mng.tdh_mng_create,
    "TDH.VP.CREATE": vp.tdh_vp_create,
    "TDH.MEM.PAGE.DEMOTE": mem_resize.tdh_mem_page_demote,
    "TDH.MR.EXTEND": mng.tdh_mr_extend,
    "TDH.MR.FINALIZE": mng.tdh_mr_finalize,
    "TDH.VP.FLUSH": vp.tdh_vp_flush,
    "TDH.MNG.VPFLUSHDONE": mng.tdh_mng_vpflushdone,
    "TDH.MNG.KEY.FREEID": mng.tdh_mng_key_freeid,
    "TDH.MNG.INIT": mng.tdh_mng_init,
    "TDH.VP.INIT": vp.tdh_vp_init,
    "TDH.MEM.PAGE.PROMOTE": mem_resize.tdh_mem_page_promote,
    "TDH.PHYMEM.PAGE.RDMD": phymem.tdh_phymem_page_rdmd,
    "TDH.MEM.SEPT.RD": mem_sept.tdh_mem_sept_rd,
    "TDH.MNG.KEY.RECLAIMID": mng.tdh_mng_key_reclaimid,
    "TDH.PHYMEM.PAGE.RECLAIM": phymem.tdh_phymem_page_reclaim,
    "TDH.MEM.PAGE.REMOVE": mem_page.tdh_mem_page_remove,
    "TDH.MEM.SEPT.REMOVE": mem_sept.tdh_mem_sept_remove,
    "TDH.MEM.TRACK": mem_range.tdh_mem_track,
    "TDH.MEM.RANGE.UNBLOCK": mem_range.tdh_mem_range_unblock,
    "TDH.PHYMEM.CACHE.WB": phymem.tdh_phymem_cache_wb,
    "TDH.PHYMEM.PAGE.WBINVD": phymem.tdh_phymem_page_wbinvd,
}
TDCALLS: Final = guest.HANDLERS


def handler_doc(call: str) -> str:
    """The manual text of a call, by its name.

    :raises KeyError: no such call.
    """
    handler = HANDLERS.get(call) or TDCALLS[call]
    # Compiled functions have no docstrings; their sources lie beside them.
    return inspect.getdoc(handler) or _source_docs(handler.__module__).get(handler.__name__, "")


@cache
def _source_docs(module: str) -> dict[str, str]:
    """The docstrings of a module of this package, by function, from its source."""
    path = Path(__file__).parent / f"{module.rpartition('.')[2]}.py"
    return {
        node.name: ast.get_docstring(node) or ""
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
