# SPDX-License-Identifier: GPL-2.0-only
"""Golden files: tests/data/golden.  ``SEPTUM_GOLDEN=write`` writes them anew."""

from __future__ import annotations

import os
from pathlib import Path

DIRECTORY = Path(__file__).parent.parent / "data" / "golden"


def check_golden(name: str, text: str) -> None:
    """``text`` is what the reviewed file says."""
    path = DIRECTORY / f"{name}.txt"
    if os.environ.get("SEPTUM_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text(), f"differs from {path.name}; SEPTUM_GOLDEN=write renews it"
