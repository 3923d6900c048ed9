# SPDX-License-Identifier: GPL-2.0-only
"""Writes small trace.dat files of versions 6 and 7, as trace-cmd lays them out."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

PAGE = 4096
HEADER_PAGE = (
    "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n"
    "\tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;\n"
    "\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n"
    "\tfield: char data;\toffset:16;\tsize:4080;\tsigned:1;\n"
)
COMMON = (
    "\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n"
    "\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;\n"
    "\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;\n"
    "\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n"
)
CHANGED, GET_PAGE, MARKER = 300, 301, 5


def _format(name: str, number: int, fields: Sequence[tuple[str, int, int]]) -> bytes:
    rows = "".join(
        f"\tfield:{text};\toffset:{at};\tsize:{size};\tsigned:0;\n" for text, at, size in fields
    )
    return f'name: {name}\nID: {number}\nformat:\n{COMMON}{rows}\nprint fmt: "x"\n'.encode()


FTRACE = [_format("print", MARKER, [("unsigned long ip", 8, 8), ("char buf[]", 16, 0)])]
KVMMMU = [
    _format(
        "kvm_tdp_mmu_spte_changed",
        CHANGED,
        [
            *(("u64 gfn", 8, 8), ("u64 old_spte", 16, 8), ("u64 new_spte", 24, 8)),
            *(("u8 level", 32, 1), ("u8 as_id", 33, 1)),
        ],
    ),
    _format(
        "kvm_mmu_get_page",
        GET_PAGE,
        [
            *(("__u8 mmu_valid_gen", 8, 1), ("__u64 gfn", 16, 8), ("__u32 role", 24, 4)),
            *(("__u32 root_count", 28, 4), ("bool unsync", 32, 1), ("bool created", 33, 1)),
        ],
    ),
]


@dataclass
class Raw:
    """One event of one CPU; ``missed`` events were lost before it."""

    time: int
    cpu: int
    data: bytes
    missed: int = 0


def changed(pid: int, gfn: int, level: int, old: int, new: int, as_id: int = 0) -> bytes:
    return struct.pack("<HBBiQQQBB6x", CHANGED, 0, 1, pid, gfn, old, new, level, as_id)


def get_page(pid: int, gfn: int, role: int) -> bytes:
    return struct.pack("<HBBiB7xQII??6x", GET_PAGE, 0, 1, pid, 0, gfn, role, 0, False, True)


def marker(pid: int, text: str) -> bytes:
    body = text.encode() + b"\0"
    return struct.pack("<HBBiQ", MARKER, 0, 0, pid, 0) + body + bytes(-len(body) % 4)


def pages(events: Sequence[Raw]) -> bytes:
    """The ring buffer pages of one CPU: a new one for each loss, and when one is full."""
    out, body, start, time, missed = b"", b"", 0, 0, 0

    def close() -> bytes:
        if not body:
            return b""
        commit = len(body) | (1 << 31 | 1 << 30 if missed else 0)
        tail = struct.pack("<Q", missed) if missed else b""
        return (struct.pack("<QQ", start, commit) + body + tail).ljust(PAGE, b"\0")

    for event in events:
        if event.missed or len(body) > PAGE - 200 or not body:
            out += close()
            body, start, time, missed = b"", event.time, event.time, event.missed
        delta = event.time - time
        if delta >= 1 << 27:
            body += struct.pack("<II", 30 | (delta & (1 << 27) - 1) << 5, delta >> 27)
            delta = 0
        words = len(event.data) // 4
        if words <= 28:
            body += struct.pack("<I", words | delta << 5)
        else:
            body += struct.pack("<II", delta << 5, len(event.data) + 4)
        body += event.data
        time = event.time
    return out + close()


def _sized(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def _headers() -> bytes:
    return b"header_page\0" + _sized(HEADER_PAGE.encode()) + b"header_event\0" + _sized(b"x\n")


def _ftrace() -> bytes:
    return struct.pack("<I", len(FTRACE)) + b"".join(_sized(one) for one in FTRACE)


def _systems() -> bytes:
    listed = b"".join(_sized(one) for one in KVMMMU)
    return struct.pack("<I", 1) + b"kvmmmu\0" + struct.pack("<I", len(KVMMMU)) + listed


TASKS = b"100 CPU 0/KVM\n101 CPU 1/KVM\n99 vmm\n"
START = b"\x17\x08\x44tracing"
UNAME = b"Linux (none) 7.3.4+deb13-amd64 x86_64\0"


def _by_cpu(events: Sequence[Raw]) -> list[bytes]:
    cpus = max(event.cpu for event in events) + 1
    return [pages([e for e in events if e.cpu == cpu]) for cpu in range(cpus)]


def _saved_tgids(text: bytes) -> bytes:
    return struct.pack("<HI", 32, len(text) + 1) + text + b"\0" if text else b""


def version_6(events: Sequence[Raw], tgids: bytes = b"") -> bytes:
    data = _by_cpu(events)
    out = START + b"6\0" + b"\0\x08" + struct.pack("<I", PAGE)
    out += _headers() + _ftrace() + _systems()
    out += struct.pack("<I", 0) + struct.pack("<I", 0) + _sized(TASKS)
    out += struct.pack("<I", len(data)) + b"options  \0"
    out += struct.pack("<HI", 5, len(UNAME)) + UNAME + _saved_tgids(tgids)
    out += struct.pack("<H", 0) + b"flyrecord\0"
    at = (len(out) + 16 * len(data) + PAGE - 1) // PAGE * PAGE
    for one in data:
        out += struct.pack("<QQ", at, len(one))
        at += len(one)
    return out.ljust((len(out) + PAGE - 1) // PAGE * PAGE, b"\0") + b"".join(data)


def version_7(
    events: Sequence[Raw],
    compression: str = "zlib",
    pack: Callable[[bytes], bytes] = zlib.compress,
    clock: str = "local",
    tgids: bytes = b"",
) -> bytes:
    flag = int(compression != "none")
    out = bytearray(START + b"7\0" + b"\0\x08" + struct.pack("<I", PAGE))
    out += compression.encode() + b"\0" + b"1\0"
    pointer = len(out)
    out += bytes(8)
    options = struct.pack("<HI", 5, len(UNAME)) + UNAME + _saved_tgids(tgids)

    def section(number: int, data: bytes) -> int:
        at = len(out)
        if flag:
            packed = pack(data)
            data = struct.pack("<II", len(packed), len(data)) + packed
        out.extend(struct.pack("<HHIQ", number, flag, 0, len(data)) + data)
        return at

    for number, body in ((16, _headers()), (17, _ftrace()), (18, _systems()), (21, _sized(TASKS))):
        options += struct.pack("<HIQ", number, 8, section(number, body))
    buffer_at = len(out)
    out += struct.pack("<HHIQ", 3, flag, 0, 0)
    data = _by_cpu(events)
    entry = struct.pack("<Q", buffer_at) + b"\0" + clock.encode() + b"\0"
    entry += struct.pack("<II", PAGE, len(data))
    for cpu, one in enumerate(data):
        at = len(out)
        if flag:
            chunks = [pack(one[i : i + PAGE]) for i in range(0, len(one), PAGE)]
            out += struct.pack("<I", len(chunks))
            for chunk in chunks:
                out += struct.pack("<II", len(chunk), PAGE) + chunk
        else:
            out += one
        entry += struct.pack("<IQQ", cpu, at, len(out) - at)
    options += struct.pack("<HI", 3, len(entry)) + entry + struct.pack("<HIQ", 0, 8, 0)
    out[pointer : pointer + 8] = struct.pack("<Q", len(out))
    out += struct.pack("<HHIQ", 0, 0, 0, len(options)) + options
    return bytes(out)
