# SPDX-License-Identifier: GPL-2.0-only
"""What can go wrong with a tree or a build, each with what to do."""

from __future__ import annotations

from pathlib import Path

__all__ = ["BuildError", "SharingGrew", "disk_full"]

_FULL = ("No space left on device", "Disk quota exceeded", "file truncated")


class BuildError(RuntimeError):
    """The tree cannot be built: one message, what and where and how to mend it."""


class SharingGrew(RuntimeError):
    """An execution used a word in two tasks that was not a scheduling point before (or Python
    answered the scheduler in C in two ways): what was explored so far does not count."""


def disk_full(output: str, where: Path) -> str:
    """What to say if a tool failed because ``where`` has no room; empty if it did not.

    :param output: what the tool said.
    """
    if not any(words in output for words in _FULL):
        return ""
    return f"{where}: the disk is full; a build needs about 150 MB (XDG_CACHE_HOME: elsewhere)"
