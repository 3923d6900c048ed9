# SPDX-License-Identifier: GPL-2.0-only
"""Decompression of recordings: streams (`decompressor`) and single blocks (`inflate`).

Compression is told by the first bytes, not by the name.  zstd comes from Python 3.14 or
the package `zstandard`.
"""

from __future__ import annotations

import bz2
import importlib
import lzma
import zlib
from collections.abc import Callable
from typing import Final, Protocol

__all__ = ["MAGIC", "Decompressor", "TraceInputError", "decompressor", "inflate"]

_GZIP: Final = b"\x1f\x8b\x08"
_XZ: Final = b"\xfd7zXZ\x00"
_BZ2: Final = (b"BZh", b"1AY&SY")  # the block size is between
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
MAGIC: Final = 10
"""Bytes that tell all of them apart."""


class TraceInputError(ValueError):
    """The input cannot be read at all; the text says why and what to do."""


class Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


def _zstd() -> Callable[[], Decompressor]:
    """Python 3.14's own module, else the package."""
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
            "the recording is compressed with zstd; pip install zstandard,"
            " or for a text recording use: zstd -dc FILE | septum replay -"
        ) from None


def decompressor(head: bytes) -> tuple[str, Callable[[], Decompressor]] | None:
    """Name and maker of what reads a file that begins with ``head``; None if plain."""
    if head.startswith(_GZIP):
        return "gzip", lambda: zlib.decompressobj(zlib.MAX_WBITS | 16)
    if head.startswith(_XZ):
        return "xz", lzma.LZMADecompressor
    if head.startswith(_BZ2[0]) and head[4:].startswith(_BZ2[1]):
        return "bzip2", bz2.BZ2Decompressor
    if head.startswith(_ZSTD):
        return "zstd", _zstd()
    return None


def inflate(name: str) -> Callable[[bytes], bytes]:
    """Decompress one block of a trace.dat: ``name`` is ``none``, ``zlib`` or ``zstd``."""
    if name == "none":
        return lambda data: data
    if name == "zlib":
        return zlib.decompress
    if name == "zstd":
        make = _zstd()
        return lambda data: make().decompress(data)
    raise TraceInputError(
        f"trace.dat compressed with {name!r}, septum knows zlib and zstd; make text of it:"
        " trace-cmd report -t FILE > report.txt"
    )
