# SPDX-License-Identifier: GPL-2.0-only
"""The conformance cases C01..C37 of facts/tdx-module.md section 9, as tables."""

from __future__ import annotations

from typing import Any

import pytest
from tdx_rig import M2, NULL, SRC, TDR, V0, V1, G, P, Rig, S, text

OK = "SUCCESS"
WALK = "EPT_WALK_FAILED|RCX"
STATE = "EPT_ENTRY_STATE_INCORRECT|RCX"
NOT_BLOCKED = "GPA_RANGE_NOT_BLOCKED|RCX"
NOT_TRACKED = "TLB_TRACKING_NOT_DONE|RCX"
BAD_PROMOTE = "EPT_INVALID_PROMOTE_CONDITIONS|RCX"
TREE = "OPERAND_BUSY|SEPT_TREE"
EXIT = "exit SUCCESS|exit reason 48"
FREE_RCX = 0x8000000000000000
SVE = 1 << 63
INTR = "INTERRUPTED_RESTARTABLE"
BLOCKED = "GPA_RANGE_ALREADY_BLOCKED|RCX"


def bad(operand: str) -> str:
    return f"OPERAND_INVALID|{operand}"


def meta(operand: str) -> str:
    return f"PAGE_METADATA_INCORRECT|{operand}"


CASES: dict[str, tuple[str, list[tuple[Any, ...]]]] = {
    "C01": (
        "I 1",
        [
            ("add", G, 0, P(0), WALK, {"rcx": FREE_RCX, "rdx": 3}),
            ("sept_add", 0, 3, S(0), OK, {"rcx": 0, "rdx": 0}),
            ("sept_add", 0, 3, S(5), STATE, {"rcx": 7, "rdx": 0x8403}),
            ("sept_add", 0, 3, S(5), {"rdx": TDR | 1}, OK),
            ("pamt", S(5), "NDA/0"),
            ("pamt", S(0), "EPT/0"),
        ],
    ),
    "C02": (
        "I 1 +T",
        [
            ("sept_add", G, 0, S(5), bad("RCX")),
            ("sept_add", G, 4, S(5), bad("RCX")),
            ("sept_add", G, 1, S(5), {"rdx": TDR | 4}, bad("RDX")),
            ("sept_add", G, 1, NULL, bad("R8")),
            ("sept_add", G, 1, NULL, {"version": 1, "r9": NULL, "r10": NULL, "r11": NULL}, OK),
            ("sept_add", G + M2, 1, NULL, {"version": 1}, STATE),
            ("sept_add", G + M2, 1, S(5), {"version": 2}, bad("RAX")),
            ("sept_add", G + M2, 1, S(5) | SVE, OK),
        ],
    ),
    "C03": (
        "I 1 +T",
        [
            ("sept_add", G + M2, 1, S(0), meta("R8")),
            ("sept_add", 0x8000000000, 2, S(5), WALK, {"rdx": 3}),
        ],
    ),
    "C04": (
        "R 1 +T",
        [
            ("aug", G, 0, P(0), OK),
            ("entry", G, 0, 0x81000000800000F0),
            ("sept_rd", G, 0, OK, {"rcx": 0x80000000800000F0, "rdx": 0x200}),
            ("aug", G + 0x1000, 0, P(0), meta("R8")),
            ("aug", G + 0x1000, 0, P(0x800), bad("R8")),
            ("aug", G + 0x1000, 0, P(0x1000) | 18 << 46, bad("R8")),
            ("aug", G + 0x1000, 0, 0x1000, "OPERAND_ADDR_RANGE_ERROR|R8"),
            ("aug", G, 2, P(0x1000), bad("RCX")),
            ("aug", G, 0, P(0x1000), {"rdx": TDR + 0x1000}, meta("RDX")),
        ],
    ),
    "C05": (
        "R 1 +T",
        [
            ("sept_add", 2 * G, 2, S(3), OK),
            ("aug", G, 0, P(0), OK),
            ("aug", 2 * G, 1, P(0x1000), bad("R8")),
            ("aug", 2 * G, 1, P(0), meta("R8")),
            ("aug", 2 * G, 1, P(M2), OK),
            ("chldcnt", 4 + 1 + 512),
            ("aug", G + 0x1000, 0, P(M2 + 0x1000), meta("R8")),
            ("rdmd", P(M2 + 0x1000), OK, {"rcx": 3, "r8": 1}),
        ],
    ),
    "C06": ("R 1 +T", [("aug", G, 1, P(2 * M2), STATE, {"rcx": 7, "rdx": 0x8401})]),
    "C07": (
        "I 1 +T",
        [
            ("aug", G, 0, P(0), OK),
            ("remove", G, 0, OK, {"rcx": P(0)}),
            ("rdmd", P(0), OK, {"rcx": 0, "rdx": TDR}),
            ("remove", G, 0, STATE, {"rcx": FREE_RCX, "rdx": 0}),
        ],
    ),
    "C08": (
        "R 1 +T",
        [
            ("aug", G, 0, P(0), OK),
            ("remove", G, 0, NOT_BLOCKED, {"rdx": 0x200}),
            ("block", G, 0, OK),
            ("remove", G, 0, NOT_TRACKED, {"rcx": 0, "rdx": 0}),
            ("track", OK),
            ("remove", G, 0, OK, {"rcx": P(0)}),
        ],
    ),
    "C09": (
        "R 2 +T",
        [
            ("aug", G, 0, P(0), OK),
            ("enter", V0, "td-entry"),
            ("refs", [0, 1]),
            ("accept", G, 0, OK),
            ("entry", G, 0, SVE | P(0) | 0xF7),
            ("block", G, 0, 2, OK),
            ("track", OK),
            ("epoch", 2),
            ("remove", G, 0, NOT_TRACKED),
            ("track", "PREVIOUS_TLB_EPOCH_BUSY"),
            ("touch", G, EXIT, {"rcx": 2, "rdx": 0, "r8": G}),
            ("remove", G, 0, OK),
        ],
    ),
    "C10": (
        "R 1 +T",
        [
            ("aug", G, 0, P(0), OK),
            ("block", G, 0, OK),
            ("track", OK),
            ("track", OK),
            ("epoch", 3),
            ("enter", V0, "td-entry"),
            ("remove", G, 0, OK),
        ],
    ),
    "C11": (
        "R 1 +T",
        [
            ("aug", G, 0, P(0), OK),
            ("block", G, 0, OK),
            ("unblock", G, 0, "TLB_TRACKING_NOT_DONE|SEPT_TREE", {"rcx": 0, "rdx": 0}),
            ("track", OK),
            ("unblock", G, 0, OK),
            ("entry", G, 0, 0x81000000800000F0),
            ("unblock", G, 0, STATE),
        ],
    ),
    "C12": (
        "I 1 +T",
        [
            ("add", G, 0, P(0), OK),
            ("block", G, 0, OK),
            ("block", G, 0, BLOCKED, {"rcx": P(0) | SVE | 0xF0, "rdx": 0x100}),
            ("extend", G, "EPT_ENTRY_NOT_PRESENT|RCX", {"rdx": 0x100}),
            ("unblock", G, 0, OK),
        ],
    ),
    "C13": (
        "I 1 +T",
        [
            ("extend", G + 0x80, bad("RCX")),
            ("aug", G, 0, P(0), OK),
            ("extend", G, "EPT_ENTRY_NOT_PRESENT|RCX"),
            ("add", G + 0x1000, 0, P(0x1000), OK),
            ("extend", G + 0x1000, OK),
            ("extend", G + 0x1100, OK),
        ],
    ),
    "C14": (
        "I 1 +T",
        [
            ("add", G, 1, P(0), bad("RCX")),
            ("add", G | 1 << 47, 0, P(0), bad("RCX")),
            ("add", G, 0, P(0), SRC + 8, bad("R9")),
            ("add", G, 0, P(8), SRC + 8, bad("R9")),
            ("add", G, 0, S(0), meta("R8")),
            ("finalize", OK),
            ("add", G, 0, P(0), "OP_STATE_INCORRECT"),
        ],
    ),
    "C15": (
        "I 1 +T",
        [
            ("aug", G + M2, 1, P(M2), OK),
            ("demote", G + M2, 1, S(5), OK),
            ("entry", G + M2, 1, SVE | S(5) | 7),
            ("entry", G + M2, 0, 0x81000000800000F0 + M2),
            ("entry", G + M2 + 0x1FF000, 0, 0x81000000800000F0 + M2 + 0x1FF000),
            ("rdmd", P(M2 + 0x3000), OK, {"rcx": 3, "r8": 0}),
            ("chldcnt", 3 + 512 + 1),
            ("rdmd", S(5), OK, {"rcx": 8}),
        ],
    ),
    "C16": (
        "R 1 +T",
        [
            ("aug", G + M2, 1, P(M2), OK),
            ("demote", G + M2, 1, S(5), NOT_BLOCKED, {"rdx": 0x201}),
            ("block", G + M2, 1, OK),
            ("demote", G + M2, 1, S(5), NOT_TRACKED),
            ("track", OK),
            ("demote", G + M2, 1, S(5), {"intr": 1}, INTR, {"rcx": G + M2 + 1, "rdx": TDR}),
            ("entry", G + M2, 1, 0x81800000802000F0),
            ("pamt", S(5), "NDA/0"),
            ("demote", G + M2, 1, P(M2 + 0x1000), meta("R8")),
            ("demote", G + M2, 1, S(5) | SVE, bad("R8")),
            ("demote", G + M2, 0, S(5), bad("RCX")),
            ("demote", G + M2, 1, S(5), {"rdx": TDR | 2}, bad("RDX")),
            ("demote", G + M2, 1, S(5), OK),
            ("entry", G + M2, 0, 0x81000000802000F0),
        ],
    ),
    "C17": (
        "I 1 +T",
        [
            ("augs", G, P(0), 512, OK),
            ("promote", G, 1, OK, {"rcx": S(2), "rdx": 0}),
            ("entry", G, 1, 0x81000000800000F0),
            ("pamt", S(2), "NDA/0"),
            ("pamt", P(0x5000), "REG/1"),
            ("chldcnt", 2 + 512),
            ("promote", G, 1, STATE, {"rdx": 0x201}),
        ],
    ),
    "C18 hole": (
        "I 1 +T",
        [
            ("augs", G, P(0), 511, OK),
            ("promote", G, 1, BAD_PROMOTE, {"rcx": 7, "rdx": 0x8401}),
            ("entry", G, 0, 0x81000000800000F0),
        ],
    ),
    "C18 alignment": (
        "I 1 +T",
        [
            ("augs", G, P(0x1000), 512, OK),
            ("promote", G, 1, BAD_PROMOTE, {"rcx": 7, "rdx": 0x8401}),
        ],
    ),
    "C18 mixed": (
        "I 1 +T",
        [
            ("augs", G, P(0), 511, OK),
            ("add", G + 0x1FF000, 0, P(0x1FF000), OK),
            ("promote", G, 1, BAD_PROMOTE, {"rcx": 7, "rdx": 0x8401}),
        ],
    ),
    "C19": (
        "R 1 +T",
        [
            ("augs", G, P(0), 512, OK),
            ("promote", G, 1, NOT_BLOCKED),
            ("block", G, 1, OK),
            ("promote", G, 1, NOT_TRACKED),
            ("track", OK),
            ("promote", G, 1, {"intr": 1}, INTR, {"rcx": G | 1, "rdx": TDR}),
            ("promote", G, 1, OK),
            ("entry", G, 1, 0x81000000800000F0),
        ],
    ),
    "C20": (
        "I 1 +T",
        [
            ("add", G, 0, P(0), OK),
            ("sept_remove", G, 1, "EPT_PAGE_NOT_FREE|RCX", {"rcx": 7, "rdx": 0x8401}),
            ("remove", G, 0, OK),
            ("sept_remove", G, 1, OK, {"rcx": S(2)}),
            ("entry", G, 1, 0x80E0000000000000),
        ],
    ),
    "C21": (
        "R 1 +T",
        [
            ("sept_remove", G, 1, NOT_BLOCKED, {"rcx": 7}),
            ("block", G, 1, OK),
            ("sept_remove", G, 1, NOT_TRACKED),
            ("track", OK),
            ("sept_remove", G, 1, OK),
            ("block", G, 1, STATE, {"rdx": 1}),
        ],
    ),
    "C22": (
        "I 1 +T",
        [
            ("add", G, 0, P(0), OK),
            ("relocate", G, 0, P(0), bad("R8")),
            ("relocate", G, 0, P(0x1000), OK, {"rcx": P(0)}),
            ("entry", G, 0, SVE | P(0x1000) | 0xF7),
            ("relocate", G, 1, P(0x2000), bad("RCX")),
            ("finalize", OK),
            ("relocate", G, 0, P(0x2000), NOT_BLOCKED),
            ("block", G, 0, OK),
            ("relocate", G, 0, P(0x2000), NOT_TRACKED),
            ("track", OK),
            ("relocate", G, 0, S(0), meta("R8")),
            ("relocate", G, 0, P(0x2000), OK),
            ("entry", G, 0, SVE | P(0x2000) | 0xF7),
            ("relocate", G + 0x1000, 0, P(0x3000), STATE),
        ],
    ),
    "C23": (
        "R 1 +T",
        [
            ("enter", V0, "td-entry"),
            ("accept", G, 0, EXIT, {"rcx": 2, "rdx": 1, "r8": G}),
            ("vcpu", V0, "state", 2),
            ("refs", [0, 0]),
        ],
    ),
    "C24": (
        "R 1 +T",
        [
            ("aug", G, 0, P(0), OK),
            ("enter", V0, "td-entry"),
            ("accept", G, 0, OK),
            ("accept", G, 0, "PAGE_ALREADY_ACCEPTED|level 0", {"rax": 0x00000B0A00000000}),
            ("accept", G, 1, "PAGE_SIZE_MISMATCH|level 1", {"rax": 0xC0000B0B00000001}),
            ("accept", G, 2, bad("RCX")),
            ("accept", G, 8, bad("RCX")),
            ("accept", G | 1 << 47, 0, bad("RCX")),
        ],
    ),
    "C25": (
        "R 1 +T",
        [
            ("sept_add", 2 * G, 2, S(3), OK),
            ("aug", 2 * G, 1, P(0), OK),
            ("enter", V0, "td-entry"),
            (
                "accept",
                2 * G + 0x5000,
                0,
                EXIT,
                {"rdx": 0x0000408800000001, "r8": 2 * G + 0x5000},
            ),
            ("enter", V0, "td-entry"),
            ("accept", 2 * G, 1, OK),
            ("accept", 2 * G + 0x5000, 0, "PAGE_ALREADY_ACCEPTED|level 1"),
        ],
    ),
    "C26 leaf": (
        "R 1 +T",
        [
            ("aug", G, 0, P(0), OK),
            ("block", G, 0, OK),
            ("enter", V0, "td-entry"),
            ("accept", G, 0, EXIT, {"rdx": 0x000040C000000001}),
        ],
    ),
    "C26 table": (
        "R 1 +T",
        [
            ("aug", G, 0, P(0), OK),
            ("block", G, 1, OK),
            ("enter", V0, "td-entry"),
            ("accept", G, 1, "PAGE_SIZE_MISMATCH|level 1"),
            ("accept", G, 0, EXIT, {"rdx": 0x0000204800000001}),
        ],
    ),
    "C27": (
        "R 2 +T",
        [
            ("sept_add", 2 * G, 2, S(3), OK),
            ("aug", 2 * G, 1, P(0), OK),
            ("enter", V0, "td-entry"),
            ("enter", V1, 1, "td-entry"),
            ("accept", 2 * G, 1, 0, 1, "retry"),
            ("entry", 2 * G, 1, 0x81000000800010F0),
            ("sept_rd", 2 * G, 1, OK, {"rcx": P(0) | 0x80000000000010F0}),
            ("vcpu", V0, "rip", 0x1000),
            ("accept", 2 * G, 1, 1, 1, "retry"),
            ("entry", 2 * G, 1, 0x81000000800020F0),
            ("accept", 2 * G, 1, 1, OK),
            ("entry", 2 * G, 1, SVE | P(0) | 0xF7),
        ],
    ),
    "C28 shared": (
        "R 1 +T",
        [
            ("aug", G + M2, 1, P(M2), OK),
            ("lock", "sept-tree", "shared", 1),
            ("block", G, 0, TREE),
            ("unblock", G, 0, TREE),
            ("sept_remove", G, 1, TREE),
            ("aug", G, 0, P(0), OK),
            ("sept_add", G + 2 * M2, 1, S(5), OK),
            ("sept_rd", G, 0, OK),
            ("remove", G, 0, NOT_BLOCKED),
            ("relocate", G, 0, P(0x1000), NOT_BLOCKED),
            ("demote", G + M2, 1, S(6), NOT_BLOCKED),
            ("promote", G, 1, NOT_BLOCKED),
        ],
    ),
    "C28 exclusive": (
        "R 1 +T",
        [
            ("lock", "sept-tree", 1),
            ("block", G, 0, TREE),
            ("unblock", G, 0, TREE),
            ("sept_remove", G, 1, TREE),
            ("aug", G, 0, P(0), TREE),
            ("sept_add", G + M2, 1, S(5), TREE),
            ("sept_rd", G, 0, TREE),
            ("remove", G, 0, TREE),
            ("relocate", G, 0, P(0x1000), TREE),
            ("demote", G, 1, S(5), TREE),
            ("promote", G, 1, TREE),
            ("track", OK),
        ],
    ),
    "C28 build": (
        "I 1 +T",
        [
            ("lock", "sept-tree", 1),
            ("add", G, 0, P(0), OK),
            ("extend", G, OK),
        ],
    ),
    "C29": (
        "R 1 +T",
        [
            ("aug", G, 0, P(0), OK),
            ("lock", "sept-entry", "", "acquire", {"gpa": hex(G), "level": 0}, 1),
            ("aug", G, 0, P(0x1000), "OPERAND_BUSY|RCX", {"rdx": 0x200}),
            ("entry", G, 0, 0x81100000800008F0),
            ("sept_rd", G, 0, "OPERAND_BUSY|RCX"),
            ("remove", G, 0, "OPERAND_BUSY|RCX"),
            ("relocate", G, 0, P(0x1000), "OPERAND_BUSY|RCX"),
            ("block", G, 0, "OPERAND_BUSY|RCX"),
            ("unblock", G, 0, "OPERAND_BUSY|RCX"),
            ("enter", V0, "td-entry"),
            ("accept", G, 0, "OPERAND_BUSY|RCX"),
            ("lock", "sept-entry", "", "release", {"gpa": hex(G), "level": 0}, 1),
            ("entry", G, 0, 0x81100000800000F0),
            ("accept", G, 0, "OPERAND_BUSY|RCX"),
            ("sept_rd", G, 0, OK),
            ("accept", G, 0, OK),
        ],
    ),
    "C30": (
        "R 1",
        [
            ("lock", "td-epoch", 1),
            ("enter", V0, 1, "OPERAND_BUSY|TD_EPOCH", {"rax": 0x80000200000000A9}),
            ("vcpu", V0, "lp", 1),
            ("refs", [0, 0]),
            ("track", "OPERAND_BUSY|TD_EPOCH"),
            ("lock", "td-epoch", "exclusive", "release", 1),
            ("lock", "td-epoch", "shared", 1),
            ("track", "OPERAND_BUSY|TD_EPOCH"),
        ],
    ),
    "C31": (
        "R 1 +T",
        [
            ("enter", V0, "td-entry"),
            ("finalize", "OPERAND_BUSY|RCX"),
            ("add", G, 0, P(0), "OPERAND_BUSY|RDX"),
            ("vpflushdone", "OPERAND_BUSY|RCX"),
            ("vp_flush", V0, "OPERAND_BUSY|RCX"),
            ("aug", G, 0, P(0), OK),
            ("enter", V0, 1, "VCPU_STATE_INCORRECT"),
            ("interrupt", "exit SUCCESS|exit reason 1"),
            ("enter", V0, 1, "VCPU_ASSOCIATED"),
            ("vp_flush", V0, 1, "VCPU_NOT_ASSOCIATED"),
            ("vpflushdone", "FLUSHVP_NOT_DONE"),
            ("vp_flush", V0, OK, {"flush": True}),
            ("vp_flush", V0, "VCPU_NOT_ASSOCIATED"),
        ],
    ),
    "C32": (
        "R 1 +T",
        [
            ("lock", "pamt", "exclusive", "acquire", {"hpa": hex(TDR), "size": 0}, 1),
            ("aug", G, 0, P(0), "OPERAND_BUSY|RDX"),
            ("track", "OPERAND_BUSY|RCX"),
            ("enter", V0, "OPERAND_BUSY|TDR", {"rax": 0x8000020000000080}),
            ("lock", "pamt", "exclusive", "release", {"hpa": hex(TDR), "size": 0}, 1),
            ("lock", "pamt", "exclusive", "acquire", {"hpa": hex(V0), "size": 0}, 1),
            ("enter", V0, "OPERAND_BUSY|RCX"),
        ],
    ),
    "C33": (
        "R 1 +T",
        [
            *[
                step
                for _ in range(7)
                for step in (("enter", V0, "td-entry"), ("touch", G + 0x40, EXIT, {"r8": G}))
            ],
            ("enter", V0, "SUCCESS|exit reason 48", {"rcx": 2, "rdx": 0, "r8": G}),
            ("refs", [0, 0]),
            ("lock", "sept-tree", "shared", 1),
            ("enter", V0, TREE, {"rax": 0x8000020000000092}),
            ("refs", [0, 0]),
        ],
    ),
    "C34 #VE": (
        "R 1 +T",
        [
            ("aug", G, 0, P(0), OK),
            ("enter", V0, "td-entry"),
            ("touch", G, "vector 20"),
            ("touch", G, "vector 8"),
            ("block", G, 0, OK),
            ("touch", G, EXIT, {"rdx": 0}),
        ],
    ),
    "C34 exit": (
        "R 1 +T noVE",
        [
            ("aug", G, 0, P(0), OK),
            ("enter", V0, "td-entry"),
            ("touch", G, EXIT, {"rdx": 6}),
        ],
    ),
    "C35": (
        "R 1 +T",
        [
            ("aug", G, 0, P(0), OK),
            ("vpflushdone", OK),
            ("aug", G + 0x1000, 0, P(0x1000), "TD_KEYS_NOT_CONFIGURED"),
            ("sept_rd", G, 0, "TD_KEYS_NOT_CONFIGURED"),
            ("enter", V0, "TD_KEYS_NOT_CONFIGURED"),
            ("vp_flush", V0, "TD_KEYS_NOT_CONFIGURED"),
            ("freeid", "WBCACHE_NOT_COMPLETE"),
            ("cache_wb", 1, "WBCACHE_RESUME_ERROR"),
            ("cache_wb", 0, OK),
            ("freeid", "WBCACHE_NOT_COMPLETE"),
            ("cache_wb", 0, 1, OK),
            ("freeid", OK),
            ("cache_wb", 0, "NO_HKID_READY_TO_WBCACHE"),
            ("reclaim", TDR, "TD_ASSOCIATED_PAGES_EXIST", {"rcx": 4}),
            ("reclaim_all", "TDX_SUCCESS"),
            ("reclaim", TDR, OK),
        ],
    ),
    "C36": (
        "R 1 +T",
        [
            ("reclaim", P(0), meta("RCX"), {"rcx": 0}),
            ("reclaim", P(0x10), bad("RCX")),
            ("reclaim", 0x1000, "OPERAND_ADDR_RANGE_ERROR|RCX"),
            ("reclaim", S(0), "LIFECYCLE_STATE_INCORRECT", {"rcx": 8, "rdx": TDR}),
            ("wbinvd", S(0), meta("RCX")),
            ("wbinvd", P(0) | 18 << 46, OK),
        ],
    ),
    "C37": (
        "R 1 +T",
        [
            ("sept_rd", G, 0, {"rdx": TDR | 1}, bad("RDX")),
            ("sept_rd", G, 5, bad("RCX")),
            ("sept_rd", G | 1 << 48, 0, bad("RCX")),
            ("sept_rd", G | 1 << 52, 0, bad("RCX")),
            ("sept_rd", G | 8, 0, bad("RCX")),
            ("sept_rd", G + 0x1000, 1, bad("RCX")),
            ("fatal", 1),
            ("sept_rd", G, 0, "TD_FATAL", {"rax": 0xE000060400000000}),
        ],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_case(case: str) -> None:
    setup, steps = CASES[case]
    rig = Rig(setup)
    for number, row in enumerate(steps):
        *head, last = row
        outs: dict[str, Any] = {}
        if isinstance(last, dict):
            outs, last = last, head.pop()
        operation, *args = head
        keywords = args.pop() if args and isinstance(args[-1], dict) else {}
        value = getattr(rig, operation)(*args, **keywords)
        where = f"{case} step {number}: {operation} {args}"
        assert text(value) == last, where
        for name, wanted in outs.items():
            assert getattr(value, name) == wanted, f"{where}: {name}"


def test_every_case_is_here() -> None:
    assert {name.split()[0] for name in CASES} == {f"C{n:02d}" for n in range(1, 38)}
