# SPDX-License-Identifier: GPL-2.0-only
"""Speed and memory of `septum replay` on a long recording, beside `trace-cmd report`.

    python bench/replay_scale.py --events 10000000 RECORDING [--dat FILE]

The long recording is RECORDING repeated, with times that go on, and fed as
lines: nothing is written.  ``--dat`` compares one trace.dat with what `trace-cmd report`
needs to print it, in the same run.  Times are processor time of one process.
"""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from septum.trace.replay import Replay, follow
from septum.trace.source import Lines, open_trace
from septum.trace.text import match_envelope

_STAMP = re.compile(r"(\[\d+\] \S+ +)(\d+\.\d+)(: .*)", re.DOTALL)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def repeated(lines: list[str], events: int) -> Iterator[list[str]]:
    """Batches of lines: the recording again and again, later each time."""
    parts = [_STAMP.search(line) for line in lines]
    split = [
        (line[: part.start(2)], float(part[2]), part[3])
        for line, part in zip(lines, parts, strict=True)
        if part is not None
    ]
    span = split[-1][1] - split[0][1] + 0.001
    done, turn = 0, 0
    while done < events:
        for start in range(0, len(split), 4096):
            batch = split[start : start + 4096]
            yield [f"{head}{stamp + turn * span:.6f}{rest}" for head, stamp, rest in batch]
            done += len(batch)
            if done >= events:
                return
        turn += 1


def long_run(path: Path, events: int) -> None:
    with open_trace(path) as stream:
        lines = [line for batch in Lines(stream) for line in batch if match_envelope(line)]
    run = Replay("long")
    run.feed(["# tracer: nop"])
    spent, begin = 0.0, peak_mib()
    told = 0
    for batch in repeated(lines, events):
        start = time.process_time()
        run.feed(batch)
        spent += time.process_time() - start
        told += len(batch)
        if told % 1_000_000 < len(batch):
            print(f"  {told:>10} events {told / spent:>9.0f}/s {peak_mib():.0f} MiB", flush=True)
    result = run.finish()
    print(
        f"{result.event_count} events, {result.event_count / spent:.0f}/s, {spent:.1f} s,"
        f" peak {peak_mib():.0f} MiB ({begin:.0f} MiB before), findings {len(result.findings)},"
        f" live tables {result.tables.live}"
    )


def beside_trace_cmd(dat: Path) -> None:
    start = time.process_time()
    run = follow(dat)
    own = time.process_time() - start
    text = _spent(["trace-cmd", "report", "-t", str(dat)])
    print(f"{dat.name}: {run.result.event_count} events")
    print(f"  septum, own reader, with judging: {own:.2f} s {run.result.event_count / own:.0f}/s")
    print(f"  trace-cmd report -t, printing:    {text:.2f} s {run.result.event_count / text:.0f}/s")


def _spent(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("recording", type=Path)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--dat", type=Path, help="an uncompressed trace.dat")
    args = parser.parse_args()
    if args.dat is not None:
        beside_trace_cmd(args.dat)
    long_run(args.recording, args.events)
    return 0


if __name__ == "__main__":
    sys.exit(main())
