# SPDX-License-Identifier: GPL-2.0-only
"""Whole recordings are not in the repository; a variable says where they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def recordings() -> Path:
    folder = os.environ.get("SEPTUM_RECORDINGS")
    if not folder:
        pytest.skip("SEPTUM_RECORDINGS names no folder of recordings")
    return Path(folder)
