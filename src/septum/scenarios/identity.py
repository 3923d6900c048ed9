# SPDX-License-Identifier: GPL-2.0-only
"""What makes two searches the same: septum's own code, and a design's own files."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import septum
from septum import __version__
from septum.designs.registry import lookup

__all__ = ["code", "digest", "file_digest"]

_PACKAGE = Path(septum.__file__).parent
_FLOORS = ("machine", "explore", "tdx", "kvm", "designs", "scenarios")


@cache
def code() -> str:
    """septum's version and a digest of every source file that decides what a search finds."""
    total = hashlib.sha256()
    for floor in _FLOORS:
        for path in sorted((_PACKAGE / floor).rglob("*.py")):
            total.update(path.relative_to(_PACKAGE).as_posix().encode())
            total.update(path.read_bytes())
    return f"{__version__} {total.hexdigest()[:12]}"


def digest(design: str) -> str:
    """A digest of the files outside septum in which the design's functions stand; empty
    if there are none.  What those files import is not looked at.

    :raises DesignError: there is no such design.
    """
    files = {Path(f.__code__.co_filename) for f in lookup(design).functions.values()}
    own = sorted(path for path in files if _PACKAGE not in path.parents)
    return file_digest(*own) if own else ""


def file_digest(*paths: str | Path) -> str:
    """A digest of files; of one that is gone, its name."""
    total = hashlib.sha256()
    for path in map(Path, paths):
        total.update(path.read_bytes() if path.is_file() else str(path).encode())
    return total.hexdigest()[:12]
