# SPDX-License-Identifier: GPL-2.0-only
"""Settings for all tests: Hypothesis never judges by time, and repeats itself in CI."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("septum", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("septum")
