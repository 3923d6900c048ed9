# SPDX-License-Identifier: GPL-2.0-only
"""Loads an image at its fixed address and calls into it.

Memory, as everything below is addressed: the image at `IMAGE`, its per-CPU areas every
`CPU_STRIDE` above it, the kernel's page structures at `VMEMMAP`, and at `ARENA` what its
allocators hand out, one piece per task.  The kernel sees the arena as physical memory from
`FIRST_PFN` on.  One image per process: its address is fixed.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import mmap
import re
import signal
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from septum.native.answers import Answers

__all__ = [
    "ARENA",
    "ARENA_TASK",
    "CPUS",
    "FIRST_PFN",
    "GMEM_PFN",
    "HVA_PFN",
    "ONLY_FREED",
    "SEQUENTIAL",
    "TASKS",
    "VMEMMAP",
    "Event",
    "Image",
    "ImageError",
    "map_memory",
]

TASKS: Final = 8
ONLY_FREED: Final = -2
"""No writer: of a word of a page that some read and others free."""
SEQUENTIAL: Final = TASKS
CPUS: Final = 8
IMAGE: Final = 0x60000000
CPU_STRIDE: Final = 0x1000000
ARENA: Final = 0x1_0000_0000
ARENA_TASK: Final = 0x200000
ARENA_SIZE: Final = ARENA_TASK * (TASKS + 1)
FIRST_PFN: Final = 0x40000
GMEM_PFN: Final = 0x48000  # guest memory: PFNs that nothing backs
HVA_PFN: Final = 0x49000  # userspace's memory, neither
LAST_PFN: Final = 0x4A400
STRUCT_PAGE: Final = 64
STRUCTS: Final = ARENA + ARENA_SIZE  # struct page of every PFN, watched like the arena
STRUCTS_SIZE: Final = (LAST_PFN - FIRST_PFN) * STRUCT_PAGE
VMEMMAP: Final = STRUCTS - FIRST_PFN * STRUCT_PAGE
FOLIOS: Final = 256  # guest pages per task
STACKS: Final = 0x1_4000_0000
STACK_SIZE: Final = 0x10000
SHADOW: Final = 0x2_0000_0000
SHADOW_SIZE: Final = 0x1000_0000
SAVED: Final = 0x2_2000_0000  # the start state's pages, as they are first written
SAVED_SIZE: Final = 0x100_0000
WORK_MAX: Final = 3_000_000
PAGE: Final = 4096
_MAP_FIXED_NOREPLACE: Final = 0x100000
_MAP_NORESERVE: Final = 0x4000
_BUGFLAG_WARNING: Final = 1
_SHARED, _CANDIDATE, _BY, _WATCHED, _WAS_BY, _NEW = 1, 8, 0x10, 0x20, 0x40, 0x80
_MANY, _PAGE, _PAGE_WRITTEN = 15, 0x30, 0x31
"""Marks of a granule (c/runtime.h)."""


class ImageError(RuntimeError):
    """An image that cannot be loaded here: why, and what to do."""


class Event(ctypes.Structure):
    """struct septum_event."""

    _fields_ = [
        ("kind", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("addr", ctypes.c_uint64),
        ("pc", ctypes.c_uint64),
        ("type", ctypes.c_uint64),
        ("before", ctypes.c_uint64),
        ("after", ctypes.c_uint64),
        ("performed", ctypes.c_uint64),
        ("arg", ctypes.c_uint64 * 4),
        ("result", ctypes.c_uint64),
        ("fp", ctypes.c_uint64),
    ]


class Found(ctypes.Structure):
    """struct septum_found."""

    _fields_ = [(n, ctypes.c_uint64) for n in ("what", "pc", "addr", "task", "text")]


class _Bug(ctypes.Structure):
    _fields_ = [("pc", ctypes.c_uint64), ("flags", ctypes.c_uint64)]


_CONFIG: Final = (
    "arena",
    "arena_task",
    "arena_size",
    "image",
    "image_end",
    "shadow_arena",
    "shadow_image",
    "shared_arena",
    "shared_image",
    "path_arena",
    "path_image",
    "stack",
    "stack_size",
    "cpu_stride",
    "work_max",
    "dead_arena",
    "saved",
)


class _Sigaction(ctypes.Structure):
    _fields_ = [
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_uint64 * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    ]


class _Stack(ctypes.Structure):
    _fields_ = [("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_LIBC.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]


def map_memory(addr: int, size: int) -> None:
    """Fresh zeroed memory at a fixed address; what is not touched costs nothing.

    :raises ImageError: the address is taken.
    """
    size = size + PAGE - 1 & -PAGE
    prot = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE | _MAP_FIXED_NOREPLACE
    if _LIBC.mmap(addr, size, prot, flags, -1, 0) != addr:
        raise ImageError(
            f"address {addr:#x} is taken in this process: an image was loaded before, or "
            "vm.overcommit_memory forbids the mapping"
        )
    _mapped.append((addr, size))


_mapped: list[tuple[int, int]] = []  # what this process, or the one it was forked from, mapped


def forget_inherited() -> None:
    """In a forked process: unmap the image that the parent had loaded, if any."""
    while _mapped:
        _LIBC.munmap(*_mapped.pop())


class Image:
    """The loaded image.

    :ivar symbols: address of every symbol.
    :raises ImageError: no image file, wrong machine, address taken.
    """

    def __init__(self, path: Path, symbols: dict[str, int]) -> None:
        self.path = path
        self.symbols = symbols
        self._keep: list[Any] = []
        self.answers: Answers | None = None
        self.engine_mapped = False
        self._start_marks: list[bytes] = []
        self._load(path.read_bytes())
        self.config = self._array("septum_config", len(_CONFIG))
        self._configure()
        self.resume = self.function("septum_resume", 1)
        self.can = self.function("septum_can", 1)
        self.is_lock = self.function("septum_is_lock", 1)
        self.begin = self.function("septum_begin", 0)
        self._held_write = self.function("septum_held_write", 2)
        self._used_entries = self.function("septum_used_entries", 3)
        self._looks: dict[str, Callable[[int], int]] = {}
        self.memory_hash = self.function("septum_settled_hash", 0)
        self._spawn = self.function("septum_spawn", 7)
        self._save = self.function("septum_save", 0)
        self._poke = self.function("septum_poke", 3)
        self._peek = self.function("septum_peek", 2)
        self._restore = self.function("septum_restore", 0)
        self.exploring = ctypes.c_int.from_address(symbols["septum_exploring"])
        self.epilogue = ctypes.c_int.from_address(symbols["septum_epilogue"])
        self.found_count = ctypes.c_uint64.from_address(symbols["septum_found_count"])
        self.found = (Found * 64).from_address(symbols["septum_found"])
        self.new_shared_count = ctypes.c_uint64.from_address(symbols["septum_new_shared_count"])
        size = self.sizes()
        self.events = [
            Event.from_address(symbols["septum_tasks"] + n * size + 8) for n in range(TASKS + 1)
        ]
        self._traps()

    # --- loading -------------------------------------------------------------------------

    def _load(self, data: bytes) -> None:
        if data[:4] != b"\x7fELF":
            raise ImageError(f"{self.path}: not an image; build it again with --clean")
        phoff, phnum = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<H", data, 56)[0]
        end = self.symbols["septum_end"]
        map_memory(IMAGE, end - IMAGE)
        for n in range(phnum):
            kind, _, offset, addr, _, size = struct.unpack_from("<IIQQQQ", data, phoff + 56 * n)
            if kind == 1 and size:
                ctypes.memmove(addr, data[offset : offset + size], size)
        for cpu in range(1, CPUS):
            # Stubs come along: some of them stand for per-CPU variables.
            first = self.symbols["septum_percpu"] & -PAGE
            map_memory(self._percpu(cpu), self.symbols["septum_stub_data_end"] - first)
            ctypes.memmove(self._percpu(cpu), first, self._percpu_size())
        map_memory(ARENA, ARENA_SIZE)
        map_memory(STACKS, STACK_SIZE * (TASKS + 1))
        map_memory(STRUCTS, STRUCTS_SIZE)
        map_memory(SHADOW, SHADOW_SIZE)
        map_memory(SAVED, SAVED_SIZE)

    def _percpu(self, cpu: int) -> int:
        return (self.symbols["septum_percpu"] & -PAGE) + cpu * CPU_STRIDE

    def _percpu_size(self) -> int:
        return self.symbols["septum_percpu_end"] - (self.symbols["septum_percpu"] & -PAGE)

    def _configure(self) -> None:
        image = self.symbols["septum_data"]
        values = {
            "arena": ARENA,
            "arena_task": ARENA_TASK,
            "arena_size": ARENA_SIZE + STRUCTS_SIZE,
            "image": image,
            "image_end": self.symbols["septum_data_end"],
            "shadow_arena": SHADOW,
            "shadow_image": SHADOW + 0x400_0000,
            "shared_arena": SHADOW + 0x800_0000,
            "shared_image": SHADOW + 0xA00_0000,
            "path_arena": SHADOW + 0xD00_0000,
            "path_image": SHADOW + 0xE00_0000,
            "stack": STACKS,
            "stack_size": STACK_SIZE,
            "cpu_stride": CPU_STRIDE,
            "work_max": WORK_MAX,
            "dead_arena": SHADOW + 0xC00_0000,
            "saved": SAVED,
        }
        for n, name in enumerate(_CONFIG):
            self.config[n] = values[name]
        ctypes.c_int.from_address(self.symbols["septum_has_fsgsbase"]).value = 1
        ctypes.c_int.from_address(self.symbols["septum_current"]).value = SEQUENTIAL
        bump = self.symbols["septum_bump_offset"]
        offset = ctypes.c_uint64.from_address(bump).value
        size = self.sizes()
        for n in range(TASKS + 1):
            at = self.symbols["septum_tasks"] + n * size + offset
            ctypes.c_uint64.from_address(at).value = ARENA + n * ARENA_TASK
        self._bump_at = offset
        self._cpu_at = self.u64(self.symbols["septum_cpu_offset"])
        regions = self._array("septum_regions", 2 * (3 + CPUS))
        parts = [(image, values["image_end"] - image), (ARENA, values["arena_size"])]
        parts += [(self._percpu(cpu), self._percpu_size()) for cpu in range(1, CPUS)]
        parts.append((values["path_arena"], SHADOW + SHADOW_SIZE - values["path_arena"]))
        for n, (start, length) in enumerate(parts):
            regions[2 * n], regions[2 * n + 1] = start, length + PAGE - 1 & -PAGE
        used = ctypes.c_uint64.from_address(self.symbols["septum_regions_used"])
        used.value = len(parts)
        self._hot = ctypes.c_uint64.from_address(self.symbols["septum_hot_used"])
        self._hot_lost = ctypes.c_uint64.from_address(self.symbols["septum_hot_lost"])
        self._shared = (
            (values["shared_arena"], ARENA, ARENA + values["arena_size"]),
            (values["shared_image"], image, values["image_end"]),
        )

    def sizes(self) -> int:
        """sizeof(struct task)."""
        return ctypes.c_uint64.from_address(self.symbols["septum_task_size"]).value

    def _array(self, name: str, length: int) -> Any:
        return (ctypes.c_uint64 * length).from_address(self.symbols[name])

    def _traps(self) -> None:
        """Trapped instructions go to the runtime, on a stack of their own."""
        stack = ctypes.create_string_buffer(0x10000)
        self._keep.append(stack)
        alt = _Stack(ctypes.cast(stack, ctypes.c_void_p).value, 0, 0x10000)
        if _LIBC.sigaltstack(ctypes.byref(alt), None):
            raise ImageError("sigaltstack() failed")
        siginfo, onstack, nodefer = 4, 0x08000000, 0x40000000
        action = _Sigaction()
        action.handler = self.symbols["septum_on_signal"]
        action.flags = siginfo | onstack | nodefer
        for number in (signal.SIGILL, signal.SIGSEGV, signal.SIGBUS):
            if _LIBC.sigaction(int(number), ctypes.byref(action), None):
                raise ImageError("sigaction() failed")

    def bugs(self, entry: int, flags: int) -> None:
        """Read the kernel's bug table: ``entry`` bytes each, its flags at ``flags``."""
        start, end = self.symbols["septum_bugs"], self.symbols["septum_bugs_end"]
        count = (end - start) // entry
        table = (_Bug * max(count, 1))()
        for n in range(count):
            at = start + n * entry
            table[n].pc = at + ctypes.c_int32.from_address(at).value
            table[n].flags = ctypes.c_uint16.from_address(at + flags).value
        self._keep.append(table)
        where = ctypes.c_uint64.from_address(self.symbols["septum_bugs_table"])
        where.value = ctypes.addressof(table)
        ctypes.c_uint64.from_address(self.symbols["septum_bugs_count"]).value = count

    # --- calling -------------------------------------------------------------------------

    def function(self, name: str, args: int) -> Callable[..., int]:
        """A function of the runtime, called on this stack."""
        proto = ctypes.CFUNCTYPE(ctypes.c_uint64, *[ctypes.c_uint64] * args)
        return proto(self.symbols[name])

    def spawn(self, task: int, cpu: int, name: str, *args: int) -> None:
        """Prepare a task that calls a function of the image; `resume` runs it."""
        values = [a & (1 << 64) - 1 for a in (*args, 0, 0, 0, 0)[:4]]
        self._spawn(task, cpu, self.symbols[name], *values)

    # --- memory --------------------------------------------------------------------------

    def u64(self, addr: int) -> int:
        value = ctypes.c_uint64.from_address(addr).value
        if self.answers is not None:
            self.answers.loaded(addr, 8, value)
        return value

    def entries(self, page: int, empty: int) -> list[tuple[int, int]]:
        """The first entry of a page table, and those of the others that are neither 0 nor
        ``empty``, with their indices."""
        if self.answers is not None:
            self.look("septum_page_hash", page)
        found = (ctypes.c_uint32 * 512)()
        used = found[: self._used_entries(page, empty, ctypes.addressof(found))]
        indices = used if used[:1] == [0] else [0, *used]
        return [(n, ctypes.c_uint64.from_address(page + 8 * n).value) for n in indices]

    def poke(self, addr: int, value: int, task: int) -> None:
        """Write a word on behalf of a task (-1: nobody explores)."""
        if self.answers is not None:
            self.answers.poked(addr, value)
        self._poke(task, addr, value)

    def peek(self, addr: int, task: int) -> int:
        """Read a word on behalf of a task (-1: nobody explores): it shares what it reads."""
        value = self._peek(task, addr)
        if self.answers is not None:
            self.answers.peeked(addr, value)
        return value

    def is_shared(self, addr: int) -> bool:
        """The granule's accesses are scheduling points."""
        for shared, base, end in self._shared:
            if base <= addr < end:
                mark = ctypes.c_uint8.from_address(shared + (addr - base >> 3)).value
                return mark == _SHARED or mark & _WAS_BY != 0 or mark & (_BY | _NEW) == _BY
        return False

    def share(self, addr: int, writer: int = -1) -> None:
        """Make the granule's accesses scheduling points.

        :param writer: the only task that writes it, whose reads are none; -1: more than one;
            `ONLY_FREED`: nobody, but its page is freed.
        """
        mark = _PAGE if writer == ONLY_FREED else _SHARED if writer < 0 else _BY + writer
        for shared, base, end in self._shared:
            if base <= addr < end:
                ctypes.c_uint8.from_address(shared + (addr - base >> 3)).value = mark

    def held_write(self, task: int, lock: int) -> int:
        """Whether a task holds a lock for writing."""
        value = self._held_write(task, lock)
        if self.answers is not None:
            self.answers.held(task, lock, value)
        return value

    def shared(self) -> list[tuple[int, int]]:
        """Addresses of the granules that tasks share, those that were found since the last
        `share_only` as well, each with the only task that writes it, as `share` is told."""
        out = []
        for shared, base, end in self._shared:
            marks = ctypes.string_at(shared, end - base >> 3)
            for at in re.finditer(rb"[\x01\x10-\x1f\x30\x31\x40-\xff]", marks):
                out.append((base + 8 * at.start(), _writer(marks[at.start()])))
        return out

    def share_only(self, words: Iterable[tuple[int, int]]) -> None:
        """These (as `shared` gives them), and those that were marked in the start state.
        Candidates stay what they are."""
        for (shared, _, _), marks in zip(self._shared, self._start_marks, strict=True):
            now = ctypes.string_at(shared, len(marks))
            ctypes.memmove(shared, marks, len(marks))
            for at in re.finditer(rb"[\x08\x09\x28\x29]", now):
                mark = now[at.start()] & _WATCHED | _CANDIDATE
                ctypes.c_uint8.from_address(shared + at.start()).value = mark
        for addr, writer in words:
            self.share(addr, writer)

    def cpu(self, task: int) -> int:
        """The CPU that a task runs on now (an IPI's handler: the target)."""
        at = self.symbols["septum_tasks"] + task * self.sizes() + self._cpu_at
        return self.u64(at)

    def load(self, addr: int, size: int) -> int:
        value = int.from_bytes(ctypes.string_at(addr, size), "little")
        if self.answers is not None:
            self.answers.loaded(addr, size, value)
        return value

    def look(self, function: str, argument: int) -> int:
        """Call a function of the image that only looks at its memory."""
        known = self._looks.get(function)
        if known is None:
            known = self._looks[function] = self.function(function, 1)
        value = known(argument)
        if self.answers is not None:
            self.answers.called(self.symbols[function], argument, value)
        return value

    @staticmethod
    def text(addr: int) -> str:
        return ctypes.string_at(addr).decode("utf-8", "replace") if addr else ""

    def bump(self, task: int) -> int:
        """Where the arena of a task ends by now."""
        at = self.symbols["septum_tasks"] + task * self.sizes() + self._bump_at
        return self.u64(at)

    # --- snapshots -----------------------------------------------------------------------

    def save(self) -> None:
        """Keep the present state as the one that `restore` goes back to."""
        self._start_marks = [
            ctypes.string_at(shared, end - base >> 3) for shared, base, end in self._shared
        ]
        self._save()

    def count_only(self, addr: int, size: int) -> None:
        """Words that only count, for people: states that differ in them are the same."""
        used = ctypes.c_uint64.from_address(self.symbols["septum_statistics_used"])
        if used.value == 16 or size > PAGE:
            return
        at = self.symbols["septum_statistics"] + 16 * used.value
        ctypes.c_uint64.from_address(at).value = addr
        ctypes.c_uint64.from_address(at + 8).value = size & ~7
        used.value += 1

    def restore(self) -> None:
        """Back to the saved state.

        :raises ImageError: executions write more memory than can be kept.
        """
        self._restore()
        self.check_kept()

    def check_kept(self) -> None:
        """:raises ImageError: some of what was written could not be kept."""
        if self._hot_lost.value:
            raise ImageError(f"executions write more than {SAVED_SIZE >> 20} MB of memory")

    @property
    def hot_bytes(self) -> int:
        """Memory that executions have written so far: the size of a snapshot."""
        return self._hot.value * PAGE


def _writer(mark: int) -> int:
    """What `Image.share` is to be told of a shared granule."""
    if mark & _BY and (mark & _NEW or mark == _PAGE):
        return ONLY_FREED
    several = mark in (_SHARED, _PAGE_WRITTEN) or mark & _WAS_BY or mark & _MANY == _MANY
    return -1 if several else mark & _MANY
