# SPDX-License-Identifier: GPL-2.0-only
"""Where a task is in its code, as a value: for telling that it is there again.

Asks for Python's frames, so not compiled (`septum.machine.reading` reads them).  Frames of the
machine, and of what else may be compiled, are left out in both builds: there a task is
identified by what it has seen (`septum.machine.rounds`).
"""

from __future__ import annotations

import sys

from septum.machine.reading import Reader
from septum.machine.state import Task

__all__ = ["place"]


def place(task: Task, opaque: tuple[str, ...], *, running: bool) -> object:
    """Function, instruction and local variables of every frame of a task that has begun;
    comparable, not hashable.

    :param opaque: modules (with all below them) whose frames do not count.
    :param running: the task is the one that asks.
    """
    frame = sys._getframe().f_back if running else getattr(task.glet, "gr_frame", None)
    return Reader(opaque).frames(frame)
