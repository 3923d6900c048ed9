# SPDX-License-Identifier: GPL-2.0-only
"""Reader of binary `trace.dat` files, versions 6 and 7 (trace-cmd.dat.v6(5), .v7(5)).

`TraceDat` reads the meta data: event formats, task names, clock, where each CPU's pages
are.  `TraceDat.events` merges the CPUs by time stamp, ties by CPU number, which is the
order of `trace-cmd report`.  Pages are read as they are needed: memory does not grow with
the file.
"""

from __future__ import annotations

import heapq
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from struct import Struct, error
from typing import BinaryIO, Final

from septum.trace.codecs import TraceInputError, inflate
from septum.trace.fields import RAW
from septum.trace.formats import EventFormat, parse_format
from septum.trace.probes import SEAMCALL_DONE, SEAMCALL_ENTER
from septum.trace.ring import PageLayout, RawEvent, page_events

__all__ = ["TRACE_DAT_MAGIC", "TraceDat"]

TRACE_DAT_MAGIC: Final = b"\x17\x08\x44tracing"
_COMPRESSED: Final = 1
_DONE: Final = 0
_BUFFER: Final = 3
_TRACECLOCK: Final = 4
_UNAME: Final = 5
_OFFSET: Final = 7
_TSC2NSEC: Final = 14
_HEADER_INFO: Final = 16
_FTRACE_EVENTS: Final = 17
_EVENT_FORMATS: Final = 18
_CMDLINES: Final = 21
_SAVED_TGIDS: Final = 32  # gpuvis: the text of saved_tgids
_BLOCK: Final = 1 << 16
_MIN_PAGE: Final = 64
_MAX_OFFSET: Final = 1 << 62
_MAX_SECTION: Final = 1 << 28
"""Far above any real section; a larger size is damage."""
_MAX_NAME: Final = 1 << 12
_WANTED: Final = RAW.keys() | SEAMCALL_ENTER | SEAMCALL_DONE
_NOT_NS: Final = ("counter", "uptime", "x86-tsc")

_u16 = Struct("<H")
_u32 = Struct("<I")
_u64 = Struct("<Q")
_section = Struct("<HHIQ")
_option = Struct("<HI")
_cpu_entry = Struct("<IQQ")


class _Cut(Exception):
    """The file ends where more is expected."""


def _named(text: str, name: str) -> EventFormat | None:
    """A format of which only the name is used."""
    number = text.find("ID: ")
    digits = text[number + 4 : text.find("\n", number)]
    return EventFormat(name, int(digits)) if number > 0 and digits.isdecimal() else None


@dataclass(slots=True)
class _Cpu:
    cpu: int
    offset: int
    size: int
    compressed: bool


@dataclass(slots=True)
class _Source:
    """The file, read by position."""

    stream: BinaryIO

    def seek(self, offset: int) -> None:
        if offset >= _MAX_OFFSET:
            raise _Cut
        self.stream.seek(offset)

    def take(self, count: int) -> bytes:
        if count > _MAX_SECTION:
            raise _Cut
        data = self.stream.read(count)
        if len(data) < count:
            raise _Cut
        return data

    def number(self, kind: Struct) -> int:
        value: int = kind.unpack(self.take(kind.size))[0]
        return value

    def string(self) -> str:
        out = bytearray()
        while (byte := self.take(1)) != b"\0":
            out += byte
            if len(out) > _MAX_NAME:
                raise _Cut
        return out.decode("utf-8", "replace")


@dataclass(slots=True)
class TraceDat:
    """Open with `read`; then the fields hold what the file says of itself."""

    source: _Source
    version: int = 0
    compression: str = "none"
    layout: PageLayout = field(default_factory=PageLayout)
    formats: dict[int, EventFormat] = field(default_factory=dict)
    tasks: dict[int, str] = field(default_factory=dict)
    tgids: dict[int, int] = field(default_factory=dict)
    """By task: its process.  trace-cmd does not save it; the trace-cmd of gpuvis does."""
    cpus: list[_Cpu] = field(default_factory=list)
    uname: str = ""
    clock: str = ""
    offset: int = 0
    """Nanoseconds that the recorder wants added to every time stamp."""
    tsc: tuple[int, int, int] | None = None
    """(mult, shift, offset) from TSC to nanoseconds."""
    cut: str | None = None
    done: int = 0
    """Bytes of ``size`` that were read."""

    @classmethod
    def read(cls, stream: BinaryIO) -> TraceDat:
        """Read the meta data of a seekable stream; TraceInputError if there is no use."""
        dat = cls(_Source(stream))
        try:
            dat._open()
        except (_Cut, error, ValueError) as problem:
            if isinstance(problem, TraceInputError):
                raise
            dat.cut = "the trace.dat ends early"
        if not dat.cpus or not dat.formats:
            why = "it ends before its event data" if dat.cut else "it holds no event data"
            raise TraceInputError(f"a trace.dat that cannot be used: {why}")
        return dat

    # -------------------------------------------------------------------- meta data

    def _open(self) -> None:
        source = self.source
        if source.take(len(TRACE_DAT_MAGIC)) != TRACE_DAT_MAGIC:
            raise TraceInputError("not a trace.dat")
        version = source.string()
        self.version = int(version) if version.isdecimal() else 0
        if self.version not in (6, 7):
            raise TraceInputError(f"trace.dat version {version!r}; septum reads 6 and 7")
        endian, long_size, page = source.take(1)[0], source.take(1)[0], source.number(_u32)
        if endian != 0:
            raise TraceInputError("a trace.dat of a big-endian machine: not x86")
        if not _MIN_PAGE <= page <= _BLOCK:
            raise _Cut
        self.layout = PageLayout(page, 8, long_size, 8 + long_size)
        if self.version == 6:
            self._version_6()
        else:
            self.compression = source.string()
            source.string()
            self._options_7(source.number(_u64))

    def _version_6(self) -> None:
        source = self.source
        if source.string() == "header_page":
            self._header_page(source.take(source.number(_u64)).decode("latin-1"))
        source.string()
        source.take(source.number(_u64))
        self._ftrace_formats()
        self._event_formats()
        source.take(source.number(_u32))
        source.take(source.number(_u32))
        self._cmdlines(source.take(source.number(_u64)))
        cpus = source.number(_u32)
        self._buffers_6(cpus)

    def _buffers_6(self, cpus: int) -> None:
        source = self.source
        kind = source.take(10)
        instances = []
        if kind == b"options  \0":
            while (option := source.number(_u16)) != _DONE:
                data = source.take(source.number(_u32))
                if option == _BUFFER:
                    instances.append(_u64.unpack_from(data)[0])
                self._one_option(option, data)
            kind = source.take(10)
        if kind == b"flyrecord\0":
            self._flyrecord_6(cpus)
        for offset in instances:
            source.seek(offset)
            kind = source.take(10)
            if kind == b"flyrecord\0":
                self._flyrecord_6(cpus)

    def _flyrecord_6(self, cpus: int) -> None:
        for cpu in range(cpus):
            offset, size = self.source.number(_u64), self.source.number(_u64)
            self.cpus.append(_Cpu(cpu, offset, size, False))

    def _options_7(self, offset: int) -> None:
        source = self.source
        todo: list[tuple[int, int]] = []
        buffers: list[bytes] = []
        seen: set[int] = set()
        while offset and offset not in seen:
            seen.add(offset)
            source.seek(offset)
            data, offset = self._section(), 0
            at = 0
            while at + _option.size <= len(data):
                option, size = _option.unpack_from(data, at)
                body = data[at + _option.size : at + _option.size + size]
                at += _option.size + size
                if option == _DONE:
                    offset = _u64.unpack_from(body)[0] if len(body) >= 8 else 0
                    break
                if option == _BUFFER:
                    buffers.append(body)
                elif option in (_HEADER_INFO, _FTRACE_EVENTS, _EVENT_FORMATS, _CMDLINES):
                    todo.append((option, _u64.unpack_from(body)[0]))
                else:
                    self._one_option(option, body)
        for option, where in todo:
            source.seek(where)
            self._meta_section(option)
        for body in buffers:
            self._buffer_7(body)

    def _section(self) -> bytes:
        _, flags, _, size = _section.unpack(self.source.take(_section.size))
        data = self.source.take(size)
        if flags & _COMPRESSED:
            data = self._inflate(data[8:])
        return data

    def _inflate(self, data: bytes) -> bytes:
        try:
            return inflate(self.compression)(data)
        except TraceInputError:
            raise
        except Exception:  # zlib.error, ZstdError
            raise _Cut from None

    def _meta_section(self, option: int) -> None:
        data = self._section()
        inner = TraceDat(_Source(io.BytesIO(data)))
        if option == _EVENT_FORMATS:
            inner.formats = self.formats
            inner._event_formats()
        elif option == _FTRACE_EVENTS:
            inner.formats = self.formats
            inner._ftrace_formats()
        elif option == _CMDLINES:
            size = _u64.unpack_from(data)[0]
            self._cmdlines(data[8 : 8 + size])
        elif inner.source.string() == "header_page":
            size = inner.source.number(_u64)
            self._header_page(inner.source.take(size).decode("latin-1"))

    def _buffer_7(self, body: bytes) -> None:
        offset = _u64.unpack_from(body)[0]
        name, clock, rest = body[8:].split(b"\0", 2)
        if not name:
            self.clock = clock.decode("latin-1")
        page, count = _u32.unpack_from(rest)[0], _u32.unpack_from(rest, 4)[0]
        if not _MIN_PAGE <= page <= _BLOCK:
            raise _Cut
        old = self.layout
        self.layout = PageLayout(page, old.commit_at, old.commit_size, old.data_at)
        self.source.seek(offset)
        _, flags, _, _ = _section.unpack(self.source.take(_section.size))
        for number in range(count):
            cpu, start, size = _cpu_entry.unpack_from(rest, 8 + number * _cpu_entry.size)
            if size:
                self.cpus.append(_Cpu(cpu, start, size, bool(flags & _COMPRESSED)))

    def _one_option(self, option: int, data: bytes) -> None:
        text = data.split(b"\0", 1)[0].decode("utf-8", "replace").strip()
        if option == _UNAME:
            self.uname = text
        elif option == _SAVED_TGIDS:
            self._saved_tgids(text)
        elif option == _TRACECLOCK and not self.clock:
            chosen = re.search(r"\[(\S+)\]", text)
            self.clock = chosen[1] if chosen else text
        elif option == _OFFSET and re.fullmatch(r"-?(0x[0-9a-f]+|\d+)", text):
            self.offset = int(text, 0)
        elif option == _TSC2NSEC and len(data) >= 16:
            mult, shift = _u32.unpack_from(data)[0], _u32.unpack_from(data, 4)[0]
            self.tsc = (mult, shift, _u64.unpack_from(data, 8)[0])

    def _saved_tgids(self, text: str) -> None:
        for line in text.splitlines():
            pid, _, tgid = line.partition(" ")
            if pid.isdecimal() and tgid.strip().isdecimal():
                self.tgids[int(pid)] = int(tgid)

    def _header_page(self, text: str) -> None:
        found = {
            match[1]: (int(match[2]), int(match[3]))
            for match in re.finditer(r"(\w+);\s*offset:(\d+);\s*size:(\d+);", text)
        }
        commit, data = found.get("commit", (8, 8)), found.get("data", (16, 0))
        self.layout = PageLayout(self.layout.size, commit[0], commit[1], data[0])

    def _ftrace_formats(self) -> None:
        """Of the system ftrace, e.g. print (trace_marker)."""
        for _ in range(self.source.number(_u32)):
            self._one_format()

    def _event_formats(self) -> None:
        for _ in range(self.source.number(_u32)):
            self.source.string()
            for _ in range(self.source.number(_u32)):
                self._one_format()

    def _one_format(self) -> None:
        """Only the formats that can be of use are taken apart: a file has hundreds."""
        text = self.source.take(self.source.number(_u64)).decode("latin-1")
        name = text[6 : text.find("\n")]
        event = parse_format(text) if name in _WANTED else _named(text, name)
        if event is not None:
            self.formats[event.id] = event

    def _cmdlines(self, data: bytes) -> None:
        for line in data.decode("utf-8", "replace").splitlines():
            pid, _, comm = line.partition(" ")
            if pid.isdecimal():
                self.tasks[int(pid)] = comm

    # ----------------------------------------------------------------------- events

    def seconds(self) -> Callable[[int], float]:
        """From a raw time stamp to the number that `trace-cmd report` prints."""
        offset = self.offset
        if self.tsc is not None:
            mult, shift, start = self.tsc
            return lambda ts: (((ts - start) * mult >> shift) + offset) / 1e9
        if self.clock in _NOT_NS:
            return lambda ts: float(ts + offset)
        return lambda ts: (ts + offset) / 1e9

    @property
    def size(self) -> int:
        """Bytes of all CPUs' events in the file."""
        return sum(cpu.size for cpu in self.cpus)

    def events(self) -> Iterator[RawEvent]:
        """All CPUs' events by time."""
        return heapq.merge(*[self._cpu_events(cpu) for cpu in self.cpus])

    def _cpu_events(self, cpu: _Cpu) -> Iterator[RawEvent]:
        layout = self.layout
        for block in self._compressed(cpu) if cpu.compressed else self._plain(cpu):
            for at in range(0, len(block), layout.size):
                yield from page_events(block[at : at + layout.size], cpu.cpu, layout)

    def _plain(self, cpu: _Cpu) -> Iterator[bytes]:
        step = max(_BLOCK // self.layout.size, 1) * self.layout.size
        try:
            for at in range(0, cpu.size, step):
                self.source.seek(cpu.offset + at)
                want = min(step, cpu.size - at)
                data = self.source.stream.read(want)
                self.done += len(data)
                yield data
                if len(data) < want:
                    raise _Cut
        except _Cut:
            self._cut_short(cpu)

    def _compressed(self, cpu: _Cpu) -> Iterator[bytes]:
        at, end = cpu.offset, cpu.offset + cpu.size
        try:
            self.source.seek(at)
            chunks = self.source.number(_u32)
            at += 4
            for _ in range(chunks):
                if at >= end:
                    break
                self.source.seek(at)
                packed, _ = self.source.number(_u32), self.source.number(_u32)
                at += 8 + packed
                self.done += 8 + packed
                yield self._inflate(self.source.take(packed))
        except _Cut:
            self._cut_short(cpu)

    def _cut_short(self, cpu: _Cpu) -> None:
        self.cut = f"the trace.dat ends early: data of CPU {cpu.cpu} is missing"
