# SPDX-License-Identifier: GPL-2.0-only
"""How much of what goes wrong does `septum replay` see?

Takes real recordings, deletes, swaps or changes one sampled line at a time, replays, and
counts.  Every alteration that gives no finding is classed by a rule of its own (`why`),
from the lines alone:

    python bench/replay_detection.py --samples 1000 RECORDING...

The entries count of a tracefs header shows every deletion by itself; it is taken out here,
so that the rules are measured.  Only a stretch around the alteration is replayed if the
recording is of several VMs one after the other (`--whole` replays all of it).
"""

from __future__ import annotations

import argparse
import io
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from septum.kvm.shadow import ShadowTables, is_leaf
from septum.kvm.spte import PT_WRITABLE_MASK, is_shadow_present_pte
from septum.kvm.versions import EPT, NPT, SpteFormat, spte_format_of
from septum.trace import replay
from septum.trace.events import SpteChanged, parse_payload
from septum.trace.source import Lines, open_trace
from septum.trace.text import match_envelope

KINDS = ("delete", "swap", "change")
CHANGED = "kvm_tdp_mmu_spte_changed"
_NUMBER = re.compile(r"(?<![\w.])(?:0x)?([0-9a-f]+)(?![\w.])")


def read_lines(path: Path) -> list[str]:
    """The lines with an envelope, in order, headers left out but the tracer mark."""
    with open_trace(path) as stream:
        lines = [line for batch in Lines(stream) for line in batch]
    return [line for line in lines if match_envelope(line) or line.startswith("# tracer:")]


@dataclass
class Line:
    """What one line is, for choosing and classing."""

    comm: str
    pid: str
    cpu: str
    time: str
    name: str
    payload: str

    @property
    def change(self) -> SpteChanged | None:
        event = parse_payload(self.name, self.payload)
        return event if isinstance(event, SpteChanged) else None


def parsed(line: str) -> Line | None:
    match = match_envelope(line)
    return Line(*match.groups("")) if match is not None else None


@dataclass
class Altered:
    """``number`` is the place of the alteration in ``lines``; ``before`` what stood there."""

    kind: str
    lines: list[str]
    number: int
    before: tuple[str, ...]
    after: tuple[str, ...]


def alter(kind: str, lines: list[str], number: int, rng: random.Random) -> Altered | None:
    """One alteration of line ``number``; None if this line cannot be altered so."""
    if kind == "delete":
        return Altered(kind, lines[:number] + lines[number + 1 :], number, (lines[number],), ())
    if kind == "swap":
        other = number + 1
        if other >= len(lines) or lines[other] == lines[number]:
            return None
        pair = (lines[number], lines[other])
        out = [*lines[:number], pair[1], pair[0], *lines[other + 1 :]]
        return Altered(kind, out, number, pair, (pair[1], pair[0]))
    line = lines[number]
    start = line.index(": ") + 1
    spans = [match.span(1) for match in _NUMBER.finditer(line, start)]
    if not spans:
        return None
    at = rng.randrange(*rng.choice(spans))
    old = line[at]
    digits = "0123456789" if old.isdigit() and rng.random() < 0.5 else "0123456789abcdef"
    new = rng.choice([digit for digit in digits if digit != old])
    changed = line[:at] + new + line[at + 1 :]
    return Altered(
        kind, [*lines[:number], changed, *lines[number + 1 :]], number, (line,), (changed,)
    )


def why(case: Altered, fmt: SpteFormat) -> str:
    """Why an alteration need not show, judged from its lines alone; ``unclassed`` if no
    reason applies."""
    first = parsed(case.before[0])
    assert first is not None
    if case.kind == "swap":
        return _why_swap(first, parsed(case.before[1]))
    if case.kind == "change" and parsed(case.after[0]) is None:
        return "the line cannot be read any more (counted as unreadable)"
    change = first.change
    if change is None:
        return f"no SPTE change: {_owed(first.name)}"
    if case.kind == "delete":
        reason = _why_delete(change, fmt)
    else:
        reason = _why_change(change, parsed(case.after[0]), fmt)
    if reason == "unclassed" and not _seen_later(case, change):
        return "no later line names the entry: the recording ends while the table lives"
    return reason


def _seen_later(case: Altered, change: SpteChanged) -> bool:
    """Whether a line after the altered one names its entry."""
    key = f"as id {change.as_id} gfn {change.gfn:x} level {change.level} "
    return any(key in line for line in case.lines[case.number + 1 :])


def _owed(name: str) -> str:
    """What a line of this event says that nothing else repeats."""
    if name == "kvm_page_fault":
        return "kvm_page_fault: exits without it are normal (prefault, async fault)"
    if name in ("kvm_mmu_set_spte", "kvm_mmu_spte_requested", "kvm_mmu_get_page"):
        return f"{name}: also printed by attempts that change nothing"
    return f"{name}: no other line repeats what it says"


def _hidden(value: int, other: int, fmt: SpteFormat) -> bool:
    return is_shadow_present_pte(value & other) and not (value ^ other) & ~fmt.volatile


def _why_delete(change: SpteChanged, fmt: SpteFormat) -> str:
    _, _, level, old, new = change
    if _hidden(old, new, fmt):
        cleared = old & ~new
        if cleared & (PT_WRITABLE_MASK | fmt.accessed | fmt.dirty):
            return "it cleared A, D or W, which CPU or fast_page_fault set again without a line"
        return "it set A, D or W, which may also happen without a line"
    if not is_leaf(old, level) and not is_shadow_present_pte(new):
        return "an empty entry of a removed table"
    return "unclassed"


def _why_change(change: SpteChanged, after: Line | None, fmt: SpteFormat) -> str:
    altered = after.change if after is not None else None
    if altered is None:
        return "the line cannot be read any more (counted as unreadable)"
    if altered == change:
        return "the digit is not part of the event"
    places = [
        name for name, one, two in zip(change._fields, change, altered, strict=True) if one != two
    ]
    if places in (["old_spte"], ["new_spte"]):
        one, two = getattr(change, places[0]), getattr(altered, places[0])
        if _hidden(one, two, fmt):
            return "only A, D or W differ, which also change without a line"
        if places == ["new_spte"]:
            return (
                "the value is not seen again: no later line names the entry before its table goes"
            )
    return "unclassed"


def _why_swap(first: Line, second: Line | None) -> str:
    if second is None:
        return "the neighbour is no event"
    one, two = first.change, second.change
    same_time = first.time == second.time
    where = "one time stamp" if same_time else "no time order (text without header)"
    if first.cpu != second.cpu:
        return f"{where}, other CPUs: their order is not exact anyway"
    if one is None or two is None:
        return f"{where}, same CPU: one is no SPTE change"
    if one[:3] != two[:3]:
        return f"{where}, same CPU: other entries, the same run"
    return "unclassed"


@dataclass
class Tally:
    done: int = 0
    found: int = 0
    other: int = 0
    """No finding, but the result says that a line is missing or cannot be read."""
    reasons: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    unclassed: list[Altered] = field(default_factory=list)


def stretches(lines: list[str]) -> list[tuple[int, int]]:
    """[start, end) of the parts that begin with a VM's first root while none lives."""
    tables, cuts = ShadowTables(), [0]
    for number, line in enumerate(lines):
        found = parsed(line)
        if found is None:
            continue
        change = found.change
        if change is not None:
            as_id, gfn, level, old, new = change
            table = tables.find(as_id, gfn, level, old)
            gone = tables.store(table, tables.index(gfn, level), old, new)
            if gone is not None:
                tables.drop(gone)
        elif " new" in found.payload and " l4 " in found.payload and not tables.live:
            cuts.append(number)
    # A stretch begins a little before its root: with the lines since the last VM's end.
    return list(zip(cuts, [*cuts[1:], len(lines)], strict=True))


def measure(
    lines: list[str], kind: str, samples: int, rng: random.Random, *, whole: bool
) -> Iterator[Tally]:
    tally = Tally()
    parts = [(0, len(lines))] if whole else stretches(lines)
    head = [line for line in lines[:1] if line.startswith("#")] or ["# tracer: nop"]
    fmt = _format(lines)
    while tally.done < samples:
        number = rng.randrange(len(lines))
        start, end = next(part for part in parts if part[0] <= number < part[1])
        part = [line for line in lines[start:end] if not line.startswith("#")]
        number -= start + (end - start - len(part))
        case = alter(kind, part, number, rng) if number >= 0 else None
        if case is None:
            continue
        tally.done += 1
        text = "".join(line + "\n" for line in head + case.lines).encode("latin-1")
        result = replay(io.BytesIO(text), name="altered")
        if result.findings:
            tally.found += 1
            tally.rules[min(result.findings, key=lambda f: abs(f.line - number)).rule] += 1
        else:
            reason = why(case, fmt)
            tally.reasons[reason] += 1
            if reason == "unclassed":
                tally.unclassed.append(case)
            tally.other += result.unreadable > 0
        yield tally


def _format(lines: list[str]) -> SpteFormat:
    for line in lines:
        found = parsed(line)
        change = found.change if found is not None else None
        if change is not None:
            fmt = spte_format_of(change.new_spte, change.level)
            if fmt is not None:
                return EPT if fmt is EPT else NPT
    return NPT


def report(path: Path, kind: str, tally: Tally, seconds: float) -> None:
    rate = 100 * tally.found / max(tally.done, 1)
    print(
        f"{path.parent.name}/{path.name} {kind}: {tally.found} of {tally.done} found"
        f" ({rate:.1f} %), {seconds:.0f} s"
    )
    for rule, count in tally.rules.most_common():
        print(f"    {count:>6}  {rule}")
    print(f"  not found: {tally.done - tally.found}")
    for reason, count in tally.reasons.most_common():
        print(f"    {count:>6}  {reason}")
    for case in tally.unclassed:
        print(f"    unclassed, line {case.number} of its part")
        for sign, lines in (("-", case.before), ("+", case.after)):
            for line in lines:
                print(f"      {sign}{line}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("recordings", nargs="+", type=Path)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", choices=KINDS, action="append", help="only this; repeat")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--changes", action="store_true", help="sample only SPTE changes")
    args = parser.parse_args()
    unclassed = 0
    for path in args.recordings:
        lines = read_lines(path)
        if args.changes:
            print("only kvm_tdp_mmu_spte_changed lines are sampled")
        for kind in args.kind or KINDS:
            rng, begin = random.Random(args.seed), time.process_time()
            tally = Tally()
            for tally in measure(lines, kind, args.samples, rng, whole=args.whole):
                if sys.stderr.isatty():
                    print(f"\r{kind} {tally.done}", end="", file=sys.stderr)
            report(path, kind, tally, time.process_time() - begin)
            unclassed += tally.reasons["unclassed"]
    print(f"unclassed: {unclassed}")
    return int(unclassed > 0)


if __name__ == "__main__":
    sys.exit(main())
