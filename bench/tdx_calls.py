# SPDX-License-Identifier: GPL-2.0-only
"""Calls per second of the TDX Module model, in sequential use.

Each row repeats a short cycle that ends where it began, and counts its calls.  The best
of several rounds is printed: the others measure what else the machine was doing.

    python bench/tdx_calls.py [--seconds 0.5] [VECTORS...]

With vector files also the steps per second of `septum tdx conform` on each.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from septum.machine import Machine
from septum.tdx import TdxModule, make_td
from septum.tdx.build import BuiltTd, add_tables, must
from septum.tdx.conform import check_file

GPA = 0x40000000
PAGE = 0x80000000
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Cycle:
    """Calls that lead back to the state before."""

    name: str
    calls: int
    run: Callable[[TdxModule, BuiltTd], None]


def zap(module: TdxModule, td: BuiltTd) -> None:
    """AUG, BLOCK, TRACK, REMOVE."""
    must(module.tdh_mem_page_aug(td.tdr, GPA, 0, PAGE))
    must(module.tdh_mem_range_block(td.tdr, GPA, 0))
    must(module.tdh_mem_track(td.tdr))
    must(module.tdh_mem_page_remove(td.tdr, GPA, 0))


def accept(module: TdxModule, td: BuiltTd) -> None:
    """AUG, VP.ENTER, ACCEPT, interrupt, BLOCK, TRACK, REMOVE."""
    must(module.tdh_mem_page_aug(td.tdr, GPA, 0, PAGE))
    must(module.tdh_vp_enter(td.tdvprs[0]))
    module.tdg_mem_page_accept(GPA, 0)
    module.guest_interrupt(0)
    must(module.tdh_mem_range_block(td.tdr, GPA, 0))
    must(module.tdh_mem_track(td.tdr))
    must(module.tdh_mem_page_remove(td.tdr, GPA, 0))


def tables(module: TdxModule, td: BuiltTd) -> None:
    """SEPT.ADD, BLOCK, TRACK, SEPT.REMOVE."""
    page = td.sept + 0x100000
    must(module.tdh_mem_sept_add(td.tdr, GPA + 0x200000, 1, page))
    must(module.tdh_mem_range_block(td.tdr, GPA + 0x200000, 1))
    must(module.tdh_mem_track(td.tdr))
    must(module.tdh_mem_sept_remove(td.tdr, GPA + 0x200000, 1))


def refused(module: TdxModule, td: BuiltTd) -> None:
    """AUG above a missing table: the walk fails."""
    module.tdh_mem_page_aug(td.tdr, GPA + 0x40000000, 0, PAGE)


def read(module: TdxModule, td: BuiltTd) -> None:
    """SEPT.RD."""
    must(module.tdh_mem_sept_rd(td.tdr, GPA, 1))


CYCLES = (
    Cycle("AUG, BLOCK, TRACK, REMOVE", 4, zap),
    Cycle("AUG, VP.ENTER, ACCEPT, interrupt, BLOCK, TRACK, REMOVE", 7, accept),
    Cycle("SEPT.ADD, BLOCK, TRACK, SEPT.REMOVE", 4, tables),
    Cycle("AUG refused by the walk", 1, refused),
    Cycle("SEPT.RD", 1, read),
)


def calls_per_second(cycle: Cycle, seconds: float) -> float:
    """The best round's rate."""
    module = TdxModule(Machine())
    td = make_td(module)
    add_tables(module, td, GPA, 0, td.sept)
    best = 0.0
    for _ in range(ROUNDS):
        mark = module.m.mark()
        done = 0
        begun = perf_counter()
        while (took := perf_counter() - begun) < seconds / ROUNDS:
            for _ in range(20):
                cycle.run(module, td)
            done += 20
        best = max(best, done * cycle.calls / took)
        module.m.rewind(mark)
    return best


def main() -> None:
    """Print one row per cycle and per vector file."""
    parser = argparse.ArgumentParser(description="Calls per second of the TDX Module model.")
    parser.add_argument("--seconds", type=float, default=1.0, help="per cycle")
    parser.add_argument("vectors", nargs="*", type=Path, help="vector files")
    args = parser.parse_args()
    print(f"{'cycle':<56}{'calls/s':>10}")
    for cycle in CYCLES:
        print(f"{cycle.name:<56}{calls_per_second(cycle, args.seconds):>10,.0f}")
    for path in args.vectors:
        begun = perf_counter()
        report = check_file(path)
        rate = report.steps / (perf_counter() - begun)
        name = f"conform {path.name} ({report.steps} steps)"
        print(f"{name:<56}{rate:>10,.0f}")


if __name__ == "__main__":
    main()
