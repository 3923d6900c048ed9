# SPDX-License-Identifier: GPL-2.0-only
"""What can go wrong with a tree or a build, each with what to do."""

from __future__ import annotations

__all__ = ["BuildError"]


class BuildError(RuntimeError):
    """The tree cannot be built: one message, what and where and how to mend it."""
