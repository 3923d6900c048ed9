# SPDX-License-Identifier: GPL-2.0-only
"""From a file, a pipe or stdin to lines of text.

Compression is told by the first bytes, not by the name.  Decompression is incremental,
so that a cut file yields everything up to the cut.  Text is decoded one byte to one
character: no byte is an error, and names are put right when they are shown.  A line
longer than `MAX_LINE` is not text of a recording; it is skipped without being kept.
"""

from __future__ import annotations

import bz2
import importlib
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, Protocol

__all__ = ["MAX_LINE", "Lines", "TraceInputError", "open_trace"]

MAX_LINE: Final = 1 << 16
_CHUNK: Final = 1 << 16
_GZIP: Final = b"\x1f\x8b\x08"
_XZ: Final = b"\xfd7zXZ\x00"
_BZ2: Final = (b"BZh", b"1AY&SY")  # the block size is between
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_TRACE_DAT: Final = b"\x17\x08\x44tracing"
_PERF_DATA: Final = b"PERFILE2"
_MAGIC: Final = 10
"""Bytes that tell all of them apart."""


class TraceInputError(ValueError):
    """The input cannot be read at all; the text says why and what to do."""


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


def open_trace(path: str | Path) -> BinaryIO:
    """Open a recording; TraceInputError says why that is not possible."""
    path = Path(path)
    try:
        return path.open("rb")
    except IsADirectoryError:
        raise TraceInputError(f"{path}: is a directory, not a recording") from None
    except OSError as error:
        raise TraceInputError(f"{path}: {error.strerror}") from None


def _zstd() -> Callable[[], _Decompressor]:
    """Python 3.14's own module, else the optional package."""
    try:
        module = importlib.import_module("compression.zstd")
        return lambda: module.ZstdDecompressor()
    except ModuleNotFoundError:
        pass
    try:
        module = importlib.import_module("zstandard")
        return lambda: module.ZstdDecompressor().decompressobj()
    except ModuleNotFoundError:
        raise TraceInputError(
            "the recording is compressed with zstd; install septum[zstd], "
            "or use: zstd -dc FILE | septum replay -"
        ) from None


def _decompressor(head: bytes) -> tuple[str, Callable[[], _Decompressor]] | None:
    if head.startswith(_GZIP):
        return "gzip", lambda: zlib.decompressobj(zlib.MAX_WBITS | 16)
    if head.startswith(_XZ):
        return "xz", lzma.LZMADecompressor
    if head.startswith(_BZ2[0]) and head[4:].startswith(_BZ2[1]):
        return "bzip2", bz2.BZ2Decompressor
    if head.startswith(_ZSTD):
        return "zstd", _zstd()
    return None


def _refuse_binary(head: bytes) -> None:
    if head.startswith(_TRACE_DAT):
        raise TraceInputError(
            "a binary trace.dat; make text of it: trace-cmd report -t FILE > report.txt"
        )
    if head.startswith(_PERF_DATA):
        raise TraceInputError(
            "a binary perf.data; septum reads tracefs text and trace-cmd report text"
        )


class Lines:
    """Iterates over batches of lines; afterwards `cut` says what is missing, if known."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.compression = "none"
        self.cut: str | None = None
        self.unterminated: str | None = None
        """The last line, if no line end follows it: it may be cut."""
        self.too_long: list[int] = []
        """Numbers of lines longer than MAX_LINE; an empty line stands for each."""

    def _bytes(self) -> Iterator[bytes]:
        head = self._read()
        while 0 < len(head) < _MAGIC:
            more = self._read()
            if not more:
                break
            head += more
        found = _decompressor(head)
        if found is None:
            _refuse_binary(head)
            while head:
                yield head
                head = self._read()
            return
        self.compression, make = found
        yield from self._decompressed(head, make)

    def _read(self) -> bytes:
        try:
            return self.stream.read(_CHUNK)
        except OSError as error:
            self.cut = f"reading stopped: {error.strerror}"
            return b""

    def _decompressed(self, data: bytes, make: Callable[[], _Decompressor]) -> Iterator[bytes]:
        """All members of the file.  Errors of the libraries are of different types."""
        unit, first = make(), True
        while data or (data := self._read()):
            try:
                out = unit.decompress(data)
            except Exception as error:  # zlib.error, LZMAError, OSError, ZstdError
                self.cut = f"the {self.compression} data is damaged: {error}"
                return
            if first and out:
                _refuse_binary(out)
                first = False
            yield out
            data = b""
            if unit.eof:
                data = unit.unused_data.lstrip(b"\0") or self._read()
                unit = make()
                if not data:
                    return
        if self.cut is None:
            self.cut = f"the {self.compression} data ends early"

    def __iter__(self) -> Iterator[list[str]]:
        carry, number, skipping = "", 0, False
        for data in self._bytes():
            lines = (carry + data.decode("latin-1")).split("\n")
            carry = lines.pop()
            if skipping and lines:
                lines[0], skipping = "", False
            elif skipping:
                carry = ""
            if len(carry) > MAX_LINE:
                carry, skipping = "", True
                self.too_long.append(number + len(lines) + 1)
            for index, line in enumerate(lines):
                if len(line) > MAX_LINE:
                    self.too_long.append(number + index + 1)
                    lines[index] = ""
            number += len(lines)
            if lines:
                yield lines
        if carry or skipping:
            self.unterminated = carry
