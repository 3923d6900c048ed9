# SPDX-License-Identifier: GPL-2.0-only
"""What can go wrong with a tree or a build, each with what to do."""

from __future__ import annotations

__all__ = ["BuildError", "SharingGrew"]


class BuildError(RuntimeError):
    """The tree cannot be built: one message, what and where and how to mend it."""


class SharingGrew(RuntimeError):
    """An execution used a word in two tasks that was not a scheduling point before (or Python
    answered the scheduler in C in two ways): what was explored so far does not count."""
