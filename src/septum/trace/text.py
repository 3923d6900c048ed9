# SPDX-License-Identifier: GPL-2.0-only
"""One line of text to one record: tracefs `trace` and `trace_pipe`, `trace-cmd report`,
`perf script`.

The envelope is ``comm-pid [cpu] flags seconds.fraction: event: payload`` (facts 8.1).
A comm may hold spaces, slashes, dashes and brackets, so the pattern looks for the whole
envelope and takes its first place in the line.  The flag column, a ``(tgid)`` column and
a system prefix (``kvmmmu:``) are optional; a clock without fraction is accepted.  Every
repetition is bounded, so that no line can make the match slow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

__all__ = [
    "BufferStarted",
    "Header",
    "Lost",
    "Record",
    "match_envelope",
    "match_rest",
    "parse_line",
    "task_name",
]

_AFTER_PID: Final = (
    r"[ \t]{1,12}(?:\([- \d]{1,10}\)[ \t]{0,4})?\[(\d{1,5})\][ \t]{1,24}"
    r"(?:[^\s:]{4,6}[ \t]{1,24})?(\d{1,20}(?:\.\d{1,9})?):"
    r"[ \t]{1,8}(?:\w{1,64}:)?(\w{1,128}):(?:[ \t]{1,32}(.*))?"
)
match_envelope: Final = re.compile(
    r"[ \t]{0,32}(.{0,48}?)-(\d{1,10})" + _AFTER_PID, re.ASCII | re.DOTALL
).match
"""Groups: comm, pid, cpu, time, event name, payload."""
match_rest: Final = re.compile(
    r"[ \t]{1,24}(?:[^\s:]{4,6}[ \t]{1,24})?(\d{1,20}(?:\.\d{1,9})?):[ \t]{1,8}(?:\w{1,64}:)?"
    r"(?:kvm_tdp_mmu_spte_changed:[ \t]{1,32}as id (\d) gfn ([0-9a-f]{1,16}) level (\d)"
    r" old_spte ([0-9a-f]{1,16}) new_spte ([0-9a-f]{1,16})\Z"
    r"|(\w{1,128}):(?:[ \t]{1,32}(.*))?)",
    re.ASCII | re.DOTALL,
).match
"""What follows ``]`` of the CPU.  Groups: time; the fields of a change; or name, payload."""
_PERF: Final = re.compile(
    r"[ \t]{0,32}(.{0,48}?)[ \t]{1,8}(?:\d{1,10}/)?(\d{1,10})" + _AFTER_PID, re.ASCII | re.DOTALL
)
_LOST: Final = re.compile(
    r"\s*CPU:?\s*(\d{1,5})\s*\[(?:LOST (\d{1,18}) EVENTS|(?:(\d{1,18}) )?EVENTS DROPPED)\]\s*"
)
_WRITTEN: Final = re.compile(r"# entries-in-buffer/entries-written: (\d{1,18})/(\d{1,18})\b")
_STARTED: Final = re.compile(r"#{3,} CPU (\d{1,5}) buffer started #{3,}")
_STACK: Final = re.compile(r" ?=> |\s*<stack trace>|\t\s*[0-9a-f]{1,16} ")
"""Call chains that ftrace or perf print below an event."""
_PERF_LOST: Final = re.compile(r".*PERF_RECORD_LOST.*?lost (\d{1,18})")


Record = tuple[str, str, str, str, str, str]
"""The groups of `match_envelope`: text; ``comm`` is raw, see `task_name`."""


@dataclass(frozen=True, slots=True)
class Header:
    """``# tracer:`` begins a recording; the entries line tells what was overwritten."""

    begins: bool
    entries: int
    overwritten: int


@dataclass(frozen=True, slots=True)
class Lost:
    """Events of one CPU are missing before this line; count 0 if not told."""

    cpu: int
    count: int


@dataclass(frozen=True, slots=True)
class BufferStarted:
    """The ring buffer of this CPU holds nothing older than the next line."""

    cpu: int


def task_name(comm: str) -> str:
    """The comm as text to show: UTF-8 if it is, without padding and control characters."""
    text = comm.strip().encode("latin-1", "replace").decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "?" for char in text)


def _parse_comment(line: str) -> Header | BufferStarted | None:
    if line.startswith("# tracer:"):
        return Header(True, 0, 0)
    match = _WRITTEN.match(line)
    if match is not None:
        entries, written = int(match[1]), int(match[2])
        return Header(False, entries, max(0, written - entries))
    match = _STARTED.match(line)
    return BufferStarted(int(match[1])) if match is not None else None


def parse_line(line: str) -> Record | Header | Lost | BufferStarted | str | None:
    """The record; a header or a loss mark; None for nothing; a str is the reason why
    the line cannot be read."""
    match = match_envelope(line) or _PERF.match(line)
    if match is not None:
        comm, pid, cpu, time, name, payload = match.groups("")
        return comm, pid, cpu, time, name, payload
    plain = line.removeprefix("\xef\xbb\xbf").removeprefix("\xff\xfe")
    if "\0" in plain:
        plain = plain.replace("\0", "")
        if plain and plain.isprintable():
            return parse_line(plain)
    plain = plain.rstrip()
    if not plain:
        return None
    if plain.startswith("#"):
        return _parse_comment(plain)
    lost = _LOST.fullmatch(plain)
    if lost is not None:
        return Lost(int(lost[1]), int(lost[2] or lost[3] or 0))
    lost = _PERF_LOST.match(plain)
    if lost is not None:
        return Lost(-1, int(lost[1]))
    if _STACK.match(plain):
        return None
    if re.fullmatch(r"cpus=\d+", plain):  # trace-cmd report
        return Header(False, 0, 0)
    if re.fullmatch(r"version = \d+|CPU \d+ is empty", plain):
        return None
    return _reason(plain)


def _reason(line: str) -> str:
    odd = sum(not char.isprintable() and char != "\t" for char in line)
    if odd * 10 > len(line):
        return "binary data"
    if re.search(r"\[\d{1,5}\]", line) is None:
        return "no task-pid [cpu] before the event"
    if re.search(r"\d:(\s|$)", line) is None:
        return "no time stamp"
    return "no event name after the time stamp"
