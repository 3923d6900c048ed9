# SPDX-License-Identifier: GPL-2.0-only
"""An image on disk, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Code"]


@dataclass(frozen=True, slots=True)
class Code:
    """An image that is ready to be loaded.

    :ivar name: how rows call it.
    :ivar source: the tree that it was built from, where source lines are looked up.
    :ivar tree: the same as the user named it.
    :ivar content: digest of what the tree held (`septum.native.tree.Tree.digest`).
    """

    name: str
    image: Path
    source: Path
    tree: str
    version: str
    content: str
