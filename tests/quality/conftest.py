# SPDX-License-Identifier: GPL-2.0-only
"""Lets these tests use the programs of tests/explore."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "explore"))
