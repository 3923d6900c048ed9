# SPDX-License-Identifier: GPL-2.0-only
"""Bytes to lines: compression, cuts, garbage."""

import bz2
import gzip
import importlib
import io
import lzma
import os
import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trace_rig import DATA

from septum.trace import TraceInputError, replay
from septum.trace.source import MAX_LINE, Lines, open_trace

TEXT = (DATA / "linux-7.3-begin.trace").read_bytes()
EVENTS = 128


def lines_of(data: bytes) -> tuple[list[str], Lines]:
    lines = Lines(io.BytesIO(data))
    return [line for batch in lines for line in batch], lines


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("none", bytes),
        ("gzip", gzip.compress),
        ("xz", lzma.compress),
        ("bzip2", bz2.compress),
    ],
)
def test_compressions(name: str, compress: type[bytes]) -> None:
    got, lines = lines_of(compress(TEXT))
    assert got == TEXT.decode().splitlines()
    assert (lines.compression, lines.cut, lines.unterminated) == (name, None, None)


def test_several_members() -> None:
    half = TEXT.index(b"\n", len(TEXT) // 2) + 1
    for compress in (gzip.compress, lzma.compress):
        got, lines = lines_of(compress(TEXT[:half]) + compress(TEXT[half:]))
        assert got == TEXT.decode().splitlines()
        assert lines.cut is None


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, bz2.compress])
def test_cut_compressed_data(compress: type[bytes]) -> None:
    noise = random.Random(1).randbytes(60000).hex("\n", 32).encode() + b"\n"
    data = compress(TEXT + noise)
    got, lines = lines_of(data[: len(data) * 9 // 10])
    assert lines.cut is not None and "ends early" in lines.cut
    if compress is not bz2.compress:  # one bzip2 block holds it all
        assert got[:140] == TEXT.decode().splitlines()


def test_cut_gzip_is_replayed_up_to_the_cut(tmp_path: Path) -> None:
    file = tmp_path / "cut.trace.gz"
    file.write_bytes(gzip.compress(TEXT)[:-30])
    result = replay(file)
    assert result.partial
    assert 100 < result.event_count < EVENTS
    assert any("the gzip data ends early" in note for note in result.notes)
    assert result.findings == []


def test_damaged_gzip() -> None:
    data = bytearray(gzip.compress(TEXT * 20))
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    _, lines = lines_of(bytes(data))
    assert lines.cut is not None


def test_last_line_without_end_is_not_used() -> None:
    got, lines = lines_of(b"one\ntwo")
    assert got == ["one"]
    assert lines.unterminated == "two"


def test_long_lines_are_dropped_not_kept() -> None:
    data = b"a\n" + b"x" * (5 * MAX_LINE) + b"\nb\n" + b"y" * (MAX_LINE + 1) + b"\n"
    got, lines = lines_of(data)
    assert [line for line in got if line] == ["a", "b"]
    assert lines.too_long == [2, 4]


@pytest.mark.parametrize(
    ("head", "advice"),
    [(b"PERFILE2", "binary perf.data")],
)
def test_binary_formats_are_named(head: bytes, advice: str) -> None:
    for data in (head + bytes(100), gzip.compress(head + bytes(100))):
        with pytest.raises(TraceInputError, match=advice):
            lines_of(data)


def test_zstd_without_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(TraceInputError, match=r"zstd -dc FILE \| septum replay -"):
        lines_of(b"\x28\xb5\x2f\xfd" + bytes(10))


def test_zstd() -> None:
    zstandard = pytest.importorskip("zstandard")
    got, lines = lines_of(zstandard.ZstdCompressor().compress(TEXT))
    assert got == TEXT.decode().splitlines()
    assert lines.cut is None


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(TraceInputError, match="No such file"):
        open_trace(tmp_path / "none")
    with pytest.raises(TraceInputError, match="is a directory"):
        open_trace(tmp_path)


def test_a_stream_that_fails() -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell():
                raise OSError(5, "Input/output error")
            return super().read(size)

    lines = Lines(Failing(b"one\n" * 100))
    assert sum(len(batch) for batch in lines) == 100
    assert lines.cut == "reading stopped: Input/output error"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is empty"),
        (b"\n", "no line is of a recording"),
        (b"\0" * 1000, "no line is of a recording"),
        (random.Random(2).randbytes(200_000), "line 1: "),
        (b"\x7fELF" + random.Random(3).randbytes(5000), "line 1: binary data"),
        (b"\x1f\x8b", "no line is of a recording"),
        (b"\xfd7zXZ\x00", "the xz data ends early"),
        (b"\x17\x08\x44tracing5\0", "trace.dat version '5'"),
        (b"\x17\x08\x44tracing7\0", "it ends before its event data"),
    ],
    ids=[
        *("empty", "newline", "NUL", "random", "ELF", "gzip magic", "xz magic", "old dat"),
        "cut dat",
    ],
)
def test_what_is_no_recording_is_refused_in_one_line(data: bytes, why: str) -> None:
    with pytest.raises(TraceInputError, match=re.escape(why)) as caught:
        replay(io.BytesIO(data), name="bad")
    assert str(caught.value).startswith("bad: ")
    assert "\n" not in str(caught.value)


def test_other_events_are_counted_and_the_right_ones_asked_for() -> None:
    result = replay(io.BytesIO(TEXT.replace(b"kvm_", b"sched_")), name="x")
    assert (result.findings, result.leafs) == ([], (0, 0, 0))
    assert any("There is no kvm_tdp_mmu_spte_changed line" in s for s in result.unobservable)


def test_a_header_without_events_is_a_recording() -> None:
    result = replay(io.BytesIO(b"# tracer: nop\n#\n"), name="x")
    assert (result.event_count, result.partial) == (0, False)


def test_crlf() -> None:
    unix = replay(io.BytesIO(TEXT), name="x")
    dos = replay(io.BytesIO(TEXT.replace(b"\n", b"\r\n")), name="x")
    assert dos.to_json() == unix.to_json()


def test_utf_16() -> None:
    unix = replay(io.BytesIO(TEXT), name="x")
    wide = replay(io.BytesIO(TEXT.decode().encode("utf-16")), name="x")
    assert wide.events == unix.events
    assert wide.leafs == unix.leafs


def test_garbage_between_lines() -> None:
    rows = TEXT.split(b"\n")
    rows[30:30] = [b"\xff\xfe\x00\x01" * 20, b"", b"not a line"]
    result = replay(io.BytesIO(b"\n".join(rows)), name="x")
    assert result.event_count == EVENTS
    assert result.unreadable == 2
    assert [entry.line for entry in result.first_unreadable] == [31, 33]
    assert result.partial
    assert result.findings == []


def test_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.write(write, TEXT)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(stream))
        result = replay("-")
    assert (result.file, result.event_count) == ("-", EVENTS)


@given(st.binary(max_size=3000), st.integers(0, len(TEXT)), st.integers(0, 200))
def test_no_bytes_raise(noise: bytes, at: int, gone: int) -> None:
    data = TEXT[:at] + noise + TEXT[at + gone :]
    try:
        result = replay(io.BytesIO(data), name="x")
    except TraceInputError as error:  # the noise is a magic number, or nothing is left
        assert str(error).startswith("x: ")
    else:
        assert result.event_count + result.unreadable <= result.lines


@given(st.binary(max_size=300))
def test_no_compressed_bytes_raise(noise: bytes) -> None:
    data = bytearray(gzip.compress(TEXT, mtime=0))
    data[200 : 200 + len(noise)] = noise
    try:
        assert replay(io.BytesIO(bytes(data)), name="x").event_count <= EVENTS
    except TraceInputError as error:
        assert re.search("no line is of a recording|the gzip data", str(error))
