# SPDX-License-Identifier: GPL-2.0-only
"""Writes a synthetic recording of compiled kernel code, as `septum record --tdx` would make one.

    python scripts/make_kernel_recording.py TREE SCENARIO FILE [--seed N] [--fault KIND]

The header of FILE says that it is synthetic.  ``--fault`` inserts one, and says so there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from septum.native.build import build
from septum.scenarios import find
from septum.trace.synthetic_kernel import FAULTS, record_kernel


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("tree", type=Path)
    parser.add_argument("scenario")
    parser.add_argument("file", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fault", choices=FAULTS)
    args = parser.parse_args()
    lines = record_kernel(build(args.tree).code, find(args.scenario), args.seed)
    if args.fault is not None:
        what = FAULTS[args.fault].__doc__ or ""
        lines = FAULTS[args.fault](lines)
        lines.insert(3, f"# inserted fault: {what}")
    args.file.write_text("".join(line + "\n" for line in lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
