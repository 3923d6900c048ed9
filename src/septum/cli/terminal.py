# SPDX-License-Identifier: GPL-2.0-only
"""What depends on where output goes: colour, width.

Colour only on a terminal, never with ``NO_COLOR`` or ``TERM=dumb``.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import Any, TextIO

import click

from septum.report.layout import WIDTH, Paint, plain

__all__ = ["colour", "painter", "width"]

_STYLES: dict[str, dict[str, Any]] = {
    "violated": {"fg": "red", "bold": True},
    "holds": {"fg": "green"},
    "bounded": {"fg": "yellow"},
    "sampled": {"fg": "yellow"},
    "vacuous": {"fg": "yellow"},
    "error": {"fg": "red"},
    "n/a": {"dim": True},
    "finding": {"fg": "red", "bold": True},
    "racing": {"bold": True},
    "function": {"dim": True},
    "state": {"dim": True},
    "differs": {"bold": True},
}


def colour(stream: TextIO | None) -> bool:
    """Whether ``stream`` shall get colour; None is one that the caller has closed."""
    return (
        stream is not None
        and stream.isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM", "") != "dumb"
    )


def painter() -> Paint:
    """Colours for stdout, or none."""
    if not colour(sys.stdout):
        return plain

    def paint(kind: str, text: str) -> str:
        style = _STYLES.get(kind)
        return click.style(text, **style) if style else text

    return paint


def width(wide: bool) -> int:
    """Columns for text: 78, or with ``--wide`` what the terminal has (132 elsewhere)."""
    if not wide:
        return WIDTH
    return max(shutil.get_terminal_size((132, 24)).columns - 1, WIDTH)
