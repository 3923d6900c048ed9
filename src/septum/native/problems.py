# SPDX-License-Identifier: GPL-2.0-only
"""What the runtime noticed (WARN, BUG, oops, freed memory, ...) as findings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from septum.native.driver import Driver
    from septum.native.symbols import Frame

__all__ = ["judges_status", "report_problems"]

WARN, BUG, OOPS, UAF, UNMODELLED, LOCKDEP, LOOP, DOUBLE_FREE = range(1, 9)

_DO: Final = 'the runtime has no model of it: see docs/kernel.md, "A function that nobody modelled"'


def report_problems(driver: Driver, number: int) -> None:
    """Report and forget what lies in the runtime's list."""
    image = driver.image
    for n in range(image.found_count.value):
        found = image.found[n]
        frames = driver.kernel.lines.frames(found.pc)
        text = image.text(found.text)
        _report(driver, number, found, frames, text)
    image.found_count.value = 0


def _place(frames: tuple[Frame, ...]) -> str:
    return f"{frames[0].file}:{frames[0].line}"


def _report(driver: Driver, number: int, found: Any, frames: tuple[Frame, ...], text: str) -> None:
    m = driver.m
    inner = frames[0].function
    at = f"{inner}() at {_place(frames)}"
    kind = found.what
    if kind == UNMODELLED:
        m.report("UNMODELLED", f"UNMODELLED {text} called from {at}: {_DO}")
    elif kind == UAF:
        name = driver.kernel.objects.cell(found.addr).name
        m.report("I6", f"access to {name} ({text}) in {at}", name)
    elif kind == DOUBLE_FREE:
        m.report("I6", f"{driver.kernel.objects.cell(found.addr).name} is freed twice in {at}")
    elif kind == LOCKDEP:
        name = driver.kernel.objects.cell(found.addr).name if found.addr else ""
        m.report("I10", f"lockdep: {text} {name} in {at}", name)
    elif kind == LOOP:
        m.report("LIVELOCK", f"{at}: {text}")
    elif kind == OOPS:
        m.report(f"BUG:{inner}", f"oops: {text} {found.addr:#x} in {at}")
    else:
        _warning(driver, number, found, frames, text)


def _warning(driver: Driver, number: int, found: Any, frames: tuple[Frame, ...], text: str) -> None:
    m = driver.m
    lines = _source(driver, frames)
    source = lines[0] if lines else ""
    function = frames[0].function
    is_bug = found.what == BUG or "BUG_ON" in source
    if judges_status(lines):
        last = driver.last.get(number)
        injected = last is not None and not hasattr(last[1], "changed")
        m.emit("tdx_bug", function, driver.describe_last(number), injected)
        if injected:
            return  # an injected status is not a finding, its consequences are
    elif "lockdep_assert" in source:
        m.report("I10", f"{function}() at {_place(frames)}: {source}")
        return
    detail = source or text or "WARN"
    m.report(f"{'BUG' if is_bug else 'WARN'}:{function}", f"{_place(frames)}: {detail}")


def judges_status(lines: list[str]) -> bool:
    """Whether a trap is about the status of a SEAMCALL, which kernels before TDX_BUG_ON() tell
    apart by what they print next.

    :param lines: of the source, from the trap's own on.
    """
    if not lines:
        return False
    return "TDX_BUG_ON" in lines[0] or (
        "_ON" in lines[0] and any("pr_tdx_error" in line for line in lines[1:])
    )


def _source(driver: Driver, frames: tuple[Frame, ...]) -> list[str]:
    """The line of the user's source that a trap belongs to, and the two behind it."""
    for frame in frames:
        for path in (Path(frame.file), Path(driver.kernel.lines.tree) / frame.file):
            try:
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            except OSError:
                continue
            if 0 < frame.line <= len(lines):
                return [line.strip() for line in lines[frame.line - 1 : frame.line + 2]]
    return []
