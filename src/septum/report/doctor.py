# SPDX-License-Identifier: GPL-2.0-only
"""What works on this machine: each tool that septum can use, what for, how to get it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from septum import compiled
from septum.report.layout import clean, columns, shorten

__all__ = ["PROBES", "Answer", "Probe", "doctor_lines", "examine"]


@dataclass(frozen=True, slots=True)
class Probe:
    """One thing to look for.

    :ivar purpose: what of septum needs it.
    :ivar get: how to get it, for Debian and Ubuntu or pip.
    :ivar look: its version or path, empty if it is not here.
    :ivar required: septum does not work without it.
    """

    name: str
    purpose: str
    get: str
    look: Callable[[], str]
    required: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What a probe found; ``found`` is empty if nothing."""

    probe: Probe
    found: str


def _program(name: str, *version: str) -> Callable[[], str]:
    def look() -> str:
        path = shutil.which(name)
        if path is None:
            return ""
        if not version:
            return path
        try:
            done = subprocess.run([path, *version], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return path
        lines = (done.stdout or done.stderr).strip().splitlines()
        return clean(lines[0]) if lines else path

    return look


def _package(name: str) -> Callable[[], str]:
    def look() -> str:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return ""

    return look


def _header(path: str) -> Callable[[], str]:
    return lambda: path if (Path("/usr/include") / path).exists() else ""


def _python() -> str:
    return sys.version.split()[0] if sys.version_info >= (3, 11) else ""


def _hot_path() -> str:
    return "compiled" if compiled() else ""


def _zstd() -> str:
    return "in Python" if sys.version_info >= (3, 14) else _package("zstandard")()


def _tracefs() -> str:
    for path in ("/sys/kernel/tracing", "/sys/kernel/debug/tracing"):
        events = Path(path) / "events" / "kvmmmu"
        try:
            if events.is_dir():
                return str(events)
        except OSError:
            continue
    return ""


PROBES: Final[tuple[Probe, ...]] = (
    Probe("Python", "everything (3.11 or later)", "apt install python3", _python, True),
    Probe("greenlet", "tasks", "pip install greenlet", _package("greenlet"), True),
    Probe("hot path", "speed: compiled by mypyc", "make compiled", _hot_path),
    Probe("gcc", "kernel and compiled build", "apt install gcc", _program("gcc", "--version")),
    Probe("make", "kernel build", "apt install make", _program("make", "--version")),
    Probe("flex", "kernel build", "apt install flex", _program("flex", "--version")),
    Probe("bison", "kernel build", "apt install bison", _program("bison", "--version")),
    Probe("bc", "kernel build", "apt install bc", _program("bc", "--version")),
    Probe("libelf", "kernel build", "apt install libelf-dev", _header("gelf.h")),
    Probe("KVM tracepoints", "record: events of this host", "root, kvm loaded", _tracefs),
    Probe("trace-cmd", "record", "apt install trace-cmd", _program("trace-cmd")),
    Probe("bpftrace", "record on TDX hosts", "apt install bpftrace", _program("bpftrace")),
    Probe("zstandard", "replay of .zst files", "pip install zstandard", _zstd),
    Probe("Textual", "step", "pip install 'septum[tui]'", _package("textual")),
    Probe("Dask", "check --cluster", "pip install 'septum[cluster]'", _package("distributed")),
    Probe(
        "Graphviz", "pictures of show --format dot", "apt install graphviz", _program("dot", "-V")
    ),
    Probe("spin", "bench/peers.py", "apt install spin", _program("spin", "-V")),
    Probe("java", "bench/peers.py: TLC", "apt install default-jre-headless", _program("java")),
    Probe("Chromium", "tests of pages", "apt install chromium", _program("chromium")),
    Probe(
        "chromedriver", "tests of pages", "apt install chromium-driver", _program("chromedriver")
    ),
)


def examine(probes: Sequence[Probe] = PROBES) -> list[Answer]:
    """Ask every probe."""
    return [Answer(probe, probe.look()) for probe in probes]


def doctor_lines(answers: Sequence[Answer], width: int) -> list[str]:
    """The table: what is here, and what to do about what is not."""
    rows = [("what", "needed for", "here")]
    for a in answers:
        rows.append((a.probe.name, a.probe.purpose, clean(a.found) or f"no: {a.probe.get}"))
    lines = [shorten(line, width) for line in columns(rows)]
    missing = [a.probe.name for a in answers if not a.found and a.probe.required]
    if missing:
        return [*lines, "", f"septum does not work without {', '.join(missing)}."]
    absent = sum(not a.found for a in answers)
    if absent:
        return [*lines, "", f"septum works; {absent} of {len(answers)} optional things are absent."]
    return [*lines, "", "Everything works here."]
