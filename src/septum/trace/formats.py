# SPDX-License-Identifier: GPL-2.0-only
"""Event formats, as in /sys/kernel/tracing/events/*/*/format and in a trace.dat.

`EventFormat.reader` compiles a function that takes chosen fields from an event's bytes;
`EventFormat.text` prints all fields as ``name=value`` (`trace-cmd report -R`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from struct import Struct
from typing import Any, Final

__all__ = ["EventFormat", "Field", "parse_format"]

_FIELD: Final = re.compile(
    r"\tfield:([^;]+);\s*offset:(\d+);\s*size:(\d+);(?:\s*signed:(\d);)?", re.ASCII
)
_CODES: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}

Values = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Field:
    """``kind`` is ``int``, ``bytes`` (fixed array), ``rest`` (to the end) or ``loc``
    (__data_loc: offset and length of data behind the fixed part)."""

    name: str
    offset: int
    size: int
    signed: bool
    kind: str


@dataclass(slots=True)
class EventFormat:
    name: str
    id: int
    fields: dict[str, Field] = field(default_factory=dict)
    print_fmt: str = ""

    def reader(self, names: Sequence[str]) -> Callable[[bytes, int], Values] | None:
        """(page, offset) -> the integer fields in the order of ``names``; None if one of
        them is not there."""
        found = [self.fields.get(name) for name in names]
        chosen = [f for f in found if f is not None and f.kind == "int" and f.size in _CODES]
        if len(chosen) != len(names):
            return None
        code, at = "<", 0
        order: list[int] = []
        for index, one in sorted(enumerate(chosen), key=lambda pair: pair[1].offset):
            letter = _CODES[one.size]
            code += f"{one.offset - at}x" + (letter.lower() if one.signed else letter)
            at = one.offset + one.size
            order.append(index)
        unpack = Struct(code).unpack_from
        if order == sorted(order):
            return unpack
        pick = itemgetter(*[order.index(index) for index in range(len(names))])
        return lambda page, offset: pick(unpack(page, offset))

    def value(self, name: str, page: bytes, at: int) -> int | str:
        """One field: an integer, or text up to its NUL."""
        one = self.fields[name]
        start, size = at + one.offset, one.size
        if one.kind == "int":
            return int.from_bytes(page[start : start + size], "little", signed=one.signed)
        if one.kind == "loc":
            word = int.from_bytes(page[start : start + 4], "little")
            start, size = at + (word & 0xFFFF), word >> 16
        end = len(page) if one.kind == "rest" else start + size
        return page[start:end].split(b"\0", 1)[0].decode("utf-8", "replace").rstrip("\n")

    def integers(self, page: bytes, at: int) -> dict[str, int]:
        """All integer fields but the common ones."""
        values = {name: self.value(name, page, at) for name in self.fields if name[:7] != "common_"}
        return {name: value for name, value in values.items() if isinstance(value, int)}

    def text(self, page: bytes, at: int) -> str:
        parts = []
        for name in self.fields:
            if not name.startswith("common_"):
                value = self.value(name, page, at)
                parts.append(f"{name}={value:#x}" if isinstance(value, int) else f"{name}={value}")
        return " ".join(parts)


def parse_format(text: str) -> EventFormat | None:
    """The event of one format file; None if it is none."""
    name = re.search(r"^name: (\S+)$", text, re.MULTILINE)
    number = re.search(r"^ID: (\d+)$", text, re.MULTILINE)
    if name is None or number is None:
        return None
    event = EventFormat(name[1], int(number[1]))
    for match in _FIELD.finditer(text):
        one = _field(match[1].strip(), int(match[2]), int(match[3]), match[4] == "1")
        event.fields[one.name] = one
    printed = re.search(r"^print fmt: (.*)", text, re.MULTILINE | re.DOTALL)
    event.print_fmt = printed[1] if printed else ""
    return event


def _field(text: str, offset: int, size: int, signed: bool) -> Field:
    array = re.search(r"\[(\w*)\]$", text)
    plain = text[: array.start()] if array else text
    name = plain.replace("*", " ").split()[-1]
    if text.startswith("__data_loc"):
        # The array's brackets stand before the name there.
        return Field(text.split()[-1], offset, size, signed, "loc")
    if array is None:
        return Field(name, offset, size, signed, "int")
    return Field(name, offset, size, signed, "rest" if size == 0 else "bytes")
