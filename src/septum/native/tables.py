# SPDX-License-Identifier: GPL-2.0-only
"""The tables that the scheduler in C and Python share (c/engine.h), and names by number."""

from __future__ import annotations

import ctypes
from collections.abc import Hashable, Sequence
from typing import Final

from septum.machine.dependency import COMMUTE, KIND_NAMES, RELATION
from septum.native.image import Image, map_memory

__all__ = ["BODY_CALLS", "EDGES", "LOGGED", "SAID", "SNAPSHOTS", "VISITED", "Tables"]

ENGINE: Final = 0x3_0000_0000
_MB: Final = 1 << 20
_NODES: Final = 1 << 20
_OPS: Final = 1 << 22
EDGES: Final = 1 << 22
VISITED: Final = 1 << 25  # states
SNAPSHOTS: Final = 1 << 30
_OBJECTS: Final = 16384
_TEXTS: Final = 1024
BODY_CALLS: Final = 64
LOGGED: Final = "<8Ii5IQQQQ"
"""struct logged."""
SAID: Final = (
    "a fault met FROZEN_SPTE",
    "mmu_seq forced a retry",
    "an invalidation in progress forced a retry",
    "vCPU saw wait_for_sept_zap",
    "two invalidations were in progress",
)
"""Texts that C knows by number."""

# table -> offset and size in bytes
_PLACES: Final = {
    "nodes": (0, 32 * _NODES),
    "ops": (0x1000_0000, 16 * _OPS),
    "edges": (0x2000_0000, 16 * EDGES),
    "objects": (0x3000_0000, 8 * _OBJECTS),
    "buckets": (0x3100_0000, 16 * 65536),
    "log": (0x3200_0000, 96 * 32768),
    "acc": (0x3300_0000, 16 * _MB),
    "waits": (0x3400_0000, 16 * _MB),
    "bodies": (0x3500_0000, _MB),
    "conflicts": (0x3600_0000, 4096),
    "visited": (0x1_0000_0000, 2 * 16 * VISITED),
    "snapshots": (0x2_0000_0000, SNAPSHOTS),
}
_CONFIG: Final = (
    *("nodes", "ops", "edges", "edges_size", "objects", "buckets", "log", "acc", "waits"),
    *("bodies", "frozen", "tasks", "conflicts", "leave", "zap"),
    *("visited", "visited_size", "snapshots", "snapshots_size"),
)


def place(table: str) -> int:
    """The address of a table."""
    return ENGINE + _PLACES[table][0]


class Tables:
    """One set per process, as the image is."""

    def __init__(self, image: Image) -> None:
        self.image = image
        if not image.engine_mapped:
            for offset, size in _PLACES.values():
                map_memory(ENGINE + offset, size)
            image.engine_mapped = True
        self.full = False  # C goes on asking for what it does not know
        self.objects: list[str] = [""]
        self._objects: dict[str, int] = {}
        self.strings: list[str] = [""]
        self._strings: dict[str, int] = {}
        self._watched: list[int] = []
        self.values: list[Hashable] = [None]
        self._values: dict[Hashable, int] = {None: 0}
        self.texts: list[str] = list(SAID)
        self._texts = {text: n for n, text in enumerate(SAID)}
        self._nodes = (ctypes.c_uint64 * (4 * _NODES)).from_address(place("nodes"))
        self._ops = (ctypes.c_uint64 * (2 * _OPS)).from_address(place("ops"))
        self._ops_used = 0
        self._flags = (ctypes.c_uint32 * (2 * _OBJECTS)).from_address(place("objects"))
        self._add_edge = image.function("septum_add_edge", 3)
        self.name_object = image.function("septum_name_object", 2)
        self._objects_used = ctypes.c_uint64.from_address(image.symbols["septum_objects_used"])
        self._clear()
        conflicts = (ctypes.c_uint32 * 32).from_address(place("conflicts"))
        kinds = range(len(KIND_NAMES))
        for kind in kinds:
            conflicts[kind] = sum(
                1 << other
                for other in kinds
                if RELATION[kind][other] != COMMUTE or RELATION[other][kind] != COMMUTE
            )

    def _clear(self) -> None:
        """What an earlier set left there."""
        for table in ("nodes", "edges", "objects", "buckets"):
            ctypes.memset(place(table), 0, _PLACES[table][1])
        ctypes.c_uint64.from_address(self.image.symbols["septum_edges_used"]).value = 0
        ctypes.c_uint64.from_address(self.image.symbols["septum_watched_used"]).value = 0
        self._objects_used.value = 1

    def configure(self, values: dict[str, int]) -> None:
        """Tell C where everything is."""
        config = (ctypes.c_uint64 * len(_CONFIG)).from_address(self.image.symbols["septum_engine"])
        for n, name in enumerate(_CONFIG):
            config[n] = values[name] if name in values else place(name)

    # --- names ---------------------------------------------------------------------------

    def object(self, name: str) -> int:
        """The number of an object of footprints."""
        number = self._objects.get(name)
        if number is None:
            number = len(self.objects)
            if number >= _OBJECTS:
                self.full = True
                return 0
            self._objects[name] = number
            self.objects.append(name)
            self._objects_used.value = number + 1
        return number

    def flags(self, number: int, flags: int, dying: int) -> None:
        """What an object is (enum OBJ_*), and the object that says that it may die."""
        self._flags[2 * number] = flags
        self._flags[2 * number + 1] = dying

    def string(self, text: str) -> int:
        """The number of an operation, or of what it is done to."""
        number = self._strings.get(text)
        if number is None:
            number = self._strings[text] = len(self.strings)
            self.strings.append(text)
        return number

    def watch(self, number: int) -> None:
        """Answers blame the object as of an earlier point: states differ if it changed since.
        Its first use makes all states known so far worthless."""
        if number not in self._watched:
            self._watched.append(number)
            place_of = self.image.symbols["septum_watched"]
            if len(self._watched) > 8:
                self.full = True
                return
            ctypes.c_uint32.from_address(place_of + 4 * len(self._watched) - 4).value = number
            used = self.image.symbols["septum_watched_used"]
            ctypes.c_uint64.from_address(used).value = len(self._watched)

    @property
    def watched(self) -> int:
        """How many objects are watched."""
        return len(self._watched)

    def value(self, value: Hashable) -> int:
        """The number of a value that a point saw or left."""
        number = self._values.get(value)
        if number is None:
            number = self._values[value] = len(self.values)
            self.values.append(value)
        return number

    def text(self, what: str) -> int:
        """The number of something worth noting (`Machine.reach`)."""
        number = self._texts.get(what)
        if number is None:
            number = len(self.texts)
            if number >= _TEXTS:
                self.full = True
                return 0
            self._texts[what] = number
            self.texts.append(what)
        return number

    # --- the tree ------------------------------------------------------------------------

    def add_edge(self, node: int, value: int, child: int) -> None:
        if child >= _NODES or not self._add_edge(node, value, child):
            self.full = True

    def set_node(
        self, node: int, kind: int, a: int, b: int, ops: Sequence[tuple[int, int, int]]
    ) -> None:
        begin = self._ops_used
        if begin + len(ops) > _OPS or node >= _NODES:
            self.full = True
            return
        for n, (code, first, second) in enumerate(ops, begin):
            self._ops[2 * n] = code | first << 32
            self._ops[2 * n + 1] = second
        self._ops_used += len(ops)
        at = 4 * node
        self._nodes[at + 1], self._nodes[at + 2], self._nodes[at + 3] = begin, a, b
        self._nodes[at] = kind | len(ops) << 32
