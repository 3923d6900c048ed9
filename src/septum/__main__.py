# SPDX-License-Identifier: GPL-2.0-only
"""``python -m septum``: the command line, where the ``septum`` script is not installed."""

from __future__ import annotations

from septum.cli import main

if __name__ == "__main__":
    main(prog_name="septum")
