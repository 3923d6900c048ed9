# SPDX-License-Identifier: GPL-2.0-only
"""How good the guess of the remaining work is: at 10, 25 and 50 % of searches, against the truth.

python bench/estimates.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from math import exp, log
from pathlib import Path

from septum.explore import MachineProgram, SearchResult, search
from septum.scenarios.build import build

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "explore"))
from programs import last_zero, readers

SHARES = (10, 25, 50)  # percent of the executions


def row(design: str, scenario: str) -> Callable[[], MachineProgram]:
    """A row of the default suite."""
    return lambda: build(design, scenario).program


ROWS: dict[str, Callable[[], MachineProgram]] = {
    "last_zero(8)": lambda: last_zero(8),
    "last_zero(9)": lambda: last_zero(9),
    "readers(9)": lambda: readers(9),
    "v7.3 install-leaf-fails": row("v7.3", "install-leaf-fails"),
    "v7.3 refault-punch": row("v7.3", "refault-punch"),
    "v7.3 td-fast-zap-private": row("v7.3", "td-fast-zap-private"),
    "v7.3 punch-files": row("v7.3", "punch-files"),
    "v7.3 install-table-fails": row("v7.3", "install-table-fails"),
    "v7.3 zap-rerun": row("v7.3", "zap-rerun"),
    "feb06 zap-accept": row("feb06", "zap-accept"),
}


def main() -> None:
    print(
        f"{'guess / truth':<26}{'executions':>10}" + "".join(f"{f'at {s} %':>14}" for s in SHARES)
    )
    off = []
    for name, make in ROWS.items():
        told: list[tuple[int, tuple[int, int]]] = []

        def note(found: SearchResult, told: list[tuple[int, tuple[int, int]]] = told) -> None:
            told.append((found.executions, found.expected))

        total = search(make(), progress=note).executions
        cells = []
        for share in SHARES:
            low, high = [guess for now, guess in told if 100 * now <= share * total][-1]
            if not low:
                cells.append("-")
                continue
            cells.append(f"{low / total:.2g}-{high / total:.2g}")
            off.append(abs(log((low * high) ** 0.5 / total)))
        print(f"{name:<26}{total:>10}" + "".join(f"{cell:>14}" for cell in cells))
    print(
        f"the middle of the range is off by a factor of {exp(sum(off) / len(off)):.1f} on average"
    )


if __name__ == "__main__":
    main()
