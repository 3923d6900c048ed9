# SPDX-License-Identifier: GPL-2.0-only
"""From a file, a pipe or stdin to lines of text.

Compression is told by the first bytes, not by the name.  Decompression is incremental,
so that a cut file yields everything up to the cut.  Text is decoded one byte to one
character: no byte is an error, and names are put right when they are shown.  A line
longer than `MAX_LINE` is not text of a recording; it is skipped without being kept.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Final

from septum.trace.codecs import MAGIC, Decompressor, TraceInputError, decompressor
from septum.trace.dat import TRACE_DAT_MAGIC

__all__ = ["MAX_LINE", "Lines", "TraceInputError", "open_trace"]

MAX_LINE: Final = 1 << 16
_CHUNK: Final = 1 << 16
_PERF_DATA: Final = b"PERFILE2"


def open_trace(path: str | Path) -> BinaryIO:
    """Open a recording; TraceInputError says why that is not possible."""
    path = Path(path)
    try:
        return path.open("rb")
    except IsADirectoryError:
        raise TraceInputError(f"{path}: is a directory, not a recording") from None
    except OSError as error:
        raise TraceInputError(f"{path}: {error.strerror}") from None


def _refuse_binary(head: bytes) -> None:
    if head.startswith(_PERF_DATA):
        raise TraceInputError("a binary perf.data; make text of it: perf script -i FILE > text")


class Lines:
    """Iterates over batches of lines; afterwards `cut` says what is missing, if known."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.compression = "none"
        self.taken = 0
        """Bytes read from the stream so far, as they are in the file."""
        self.cut: str | None = None
        self.unterminated: str | None = None
        """The last line, if no line end follows it: it may be cut."""
        self.too_long: list[int] = []
        """Numbers of lines longer than MAX_LINE; an empty line stands for each."""
        self._blocks = self._bytes()
        self._first = b""

    def trace_dat(self) -> BinaryIO | None:
        """The whole recording as a seekable file if it is a binary trace.dat, else None.
        Call it before iterating.  A compressed or piped one goes to a temporary file."""
        self._first = next(self._blocks, b"")
        if not self._first.startswith(TRACE_DAT_MAGIC):
            return None
        if self.compression == "none" and self.stream.seekable():
            self.stream.seek(0)
            return self.stream
        spool = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        spool.write(self._first)
        for block in self._blocks:
            spool.write(block)
        spool.seek(0)
        return spool

    def _bytes(self) -> Iterator[bytes]:
        head = self._read()
        while 0 < len(head) < MAGIC:
            more = self._read()
            if not more:
                break
            head += more
        found = decompressor(head)
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
            data = self.stream.read(_CHUNK)
        except OSError as error:
            self.cut = f"reading stopped: {error.strerror}"
            return b""
        self.taken += len(data)
        return data

    def _decompressed(self, data: bytes, make: Callable[[], Decompressor]) -> Iterator[bytes]:
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
            if out:
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
        for data in chain((self._first,), self._blocks):
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
