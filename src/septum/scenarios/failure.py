# SPDX-License-Identifier: GPL-2.0-only
"""Python exceptions in a design's functions, as a finding tells them."""

from __future__ import annotations

import traceback
from pathlib import Path

import septum

__all__ = ["failure"]

_PACKAGE = str(Path(septum.__file__).parent)


def failure(error: Exception) -> str:
    """``error``, and where it was raised: the innermost place in the user's own file, or
    the innermost one of all."""
    frames = traceback.extract_tb(error.__traceback__)
    users = [f for f in frames if not f.filename.startswith((_PACKAGE, "<"))]
    at = (users or frames)[-1]
    place = f"{Path(at.filename).name.strip('<>')}:{at.lineno} in {at.name}()"
    return f"{type(error).__name__}: {error} ({place})"
