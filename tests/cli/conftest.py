# SPDX-License-Identifier: GPL-2.0-only
"""The schema validator lives with the report tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "report"))
