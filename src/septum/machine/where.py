# SPDX-License-Identifier: GPL-2.0-only
"""Source locations, taken only when a schedule is replayed.

Not compiled: compiled functions have no frames, so what is walked here is the model's own
code, in both builds.
"""

from __future__ import annotations

import sys
from types import FrameType

__all__ = ["caller", "function"]


def caller() -> tuple[tuple[str, str, int] | None, tuple[str, ...]]:
    """Function, file and line of the model code that made the current access."""
    frame: FrameType | None = sys._getframe().f_back
    where: tuple[str, str, int] | None = None
    stack: list[str] = []
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        code = frame.f_code
        if not module.startswith(("septum.machine", "septum.explore", "contextlib")):
            if where is None:
                where = (code.co_name, code.co_filename, frame.f_lineno)
            stack.append(code.co_name)
        frame = frame.f_back
    return where, tuple(reversed(stack))


def function(skip: tuple[str, ...]) -> str:
    """Name of the innermost function that is running, of a module that is not in ``skip`` nor
    below one that is."""
    frame: FrameType | None = sys._getframe().f_back
    while frame is not None:
        if not frame.f_globals.get("__name__", "").startswith(skip):
            return frame.f_code.co_name
        frame = frame.f_back
    return ""
