# SPDX-License-Identifier: GPL-2.0-only
"""Names and source lines of addresses in an image."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

__all__ = ["Frame", "Lines", "read_symbols"]


class Frame(NamedTuple):
    """One frame: of inlined functions, the innermost comes first."""

    function: str
    file: str
    line: int


def read_symbols(image: Path) -> dict[str, int]:
    """Address of every symbol (``nm``); of several with one name, the first."""
    out = subprocess.run(["nm", str(image)], capture_output=True, text=True, check=True).stdout
    symbols: dict[str, int] = {}
    for line in out.splitlines():
        fields = line.split()
        if len(fields) == 3:
            symbols.setdefault(fields[2], int(fields[0], 16))
    return symbols


class Lines:
    """``addr2line``, kept running; asks once per address.

    :param tree: source tree whose prefix is left out of file names.
    :param farm: links to the tree, from which it was compiled if it has an in-tree build.
    """

    def __init__(self, image: Path, tree: str = "", farm: str = "") -> None:
        self.image = image
        self.tree = tree.rstrip("/") + "/" if tree else ""
        self.farm = farm.rstrip("/") + "/" if farm else ""
        self._process: subprocess.Popen[str] | None = None
        self.frames = cache(self._frames)

    def _ask(self, pc: int) -> list[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                ["addr2line", "-f", "-i", "-a", "-e", str(self.image)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        # The answer to an address without code marks the end of the one before.
        process.stdin.write(f"{pc:#x}\n0x0\n")
        process.stdin.flush()
        lines: list[str] = []
        process.stdout.readline()
        while True:
            line = process.stdout.readline().rstrip("\n")
            if line.startswith("0x0000000000000000"):
                process.stdout.readline()
                process.stdout.readline()
                return lines
            lines.append(line)

    def _frames(self, pc: int) -> tuple[Frame, ...]:
        """Frames of the instruction that lies before ``pc`` (a return address)."""
        lines = self._ask(pc - 1)
        out = []
        for function, place in zip(lines[::2], lines[1::2], strict=False):
            file, _, number = place.partition(" ")[0].rpartition(":")
            line = int(number) if number.isdigit() else 0
            out.append(Frame(function, file.removeprefix(self.tree).removeprefix(self.farm), line))
        return tuple(out) or (Frame("?", "?", 0),)

    def close(self) -> None:
        """End the helper process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
