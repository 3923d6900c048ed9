# SPDX-License-Identifier: GPL-2.0-only
"""Whole recordings: the samples, what damages them, and what must not."""

from __future__ import annotations

import heapq
import json
import os
import random
import re
from pathlib import Path

import pytest
from trace_rig import DATA, ROOT, Writer, judged, leaf, run, sample

from septum.report.replay_text import WIDTH, replay_lines
from septum.trace import ReplayResult, TraceInputError, replay
from septum.trace.recording import MAX_SAMPLES

GOLDEN = Path(__file__).parent / "golden-replay-begin.txt"
DIRTYLOG = "linux-7.3-dirtylog.trace.xz"
SAMPLES = sorted(path.name for path in DATA.iterdir() if path.suffix != ".md")
CHANGE = "kvm_tdp_mmu_spte_changed"
ENVELOPE = re.compile(r"(.*?)-(\d+)( +\[)(\d+)(\] +(?:\S{4,6} +)?)([\d.]+)(:.*)")


def parts(line: str) -> tuple[str, ...]:
    match = ENVELOPE.match(line)
    assert match is not None
    return match.groups()


def records(name: str) -> list[str]:
    return [line for line in sample(name) if ENVELOPE.match(line)]


# ------------------------------------------------------------------------- samples


@pytest.mark.parametrize(
    ("name", "kernel", "events", "linked", "removed", "leafs", "peak", "mid_life"),
    [
        ("linux-7.3-begin.trace", "7.3", 128, 5, 0, (20, 0, 0), (20, 0, 0), False),
        (DIRTYLOG, "7.3", 15206, 10, 10, (0, 0, 0), (3079, 6, 0), False),
        ("linux-6.12-smm.trace.xz", "6.12", 1988, 10, 0, (336, 0, 0), (337, 0, 0), False),
        ("linux-6.12-removal.report.txt.xz", "6.12", 3119, 0, 9, (0, 0, 0), (0, 6, 0), True),
        ("linux-6.1-removal.trace.xz", "6.1", 3149, 0, 10, (0, 0, 0), (10, 6, 0), True),
    ],
)
def test_samples(
    name: str,
    kernel: str,
    events: int,
    linked: int,
    removed: int,
    leafs: tuple[int, int, int],
    peak: tuple[int, int, int],
    mid_life: bool,
) -> None:
    result = replay(DATA / name)
    assert result.findings == []
    assert (result.kernel, result.format, result.event_count) == (kernel, "npt", events)
    assert (result.tables.linked, result.tables.removed) == (linked, removed)
    assert (result.leafs, result.peak, result.mid_life) == (leafs, peak, mid_life)
    assert (result.unreadable, result.lost_events) == (0, 0)


def test_every_sample_is_listed() -> None:
    readme = (DATA / "README.md").read_text()
    assert sorted(re.findall(r"^\| `([^`]+)`", readme, re.MULTILINE)) == SAMPLES


def test_counts_agree_with_the_text() -> None:
    lines = sample(DIRTYLOG)
    result = run(lines)
    assert result.events[CHANGE] == sum(f": {CHANGE}: " in line for line in lines)
    assert result.tables.allocated == sum("kvm_mmu_get_page:" in line for line in lines)
    assert result.tables.roots == 1
    assert result.tables.live == 0


def test_golden_text() -> None:
    result = replay(DATA / "linux-7.3-begin.trace", name="linux-7.3-begin.trace")
    text = "".join(line + "\n" for line in replay_lines(result))
    assert text == GOLDEN.read_text()


@pytest.mark.parametrize("name", SAMPLES)
def test_text_is_78_columns_and_json_is_json(name: str) -> None:
    result = replay(DATA / name)
    assert max(len(line) for line in replay_lines(result)) <= WIDTH
    doc = json.loads(json.dumps(result.to_json()))
    assert {
        *("file", "events", "findings", "leafs", "lost_events"),
        *("unreadable_lines", "unobservable", "partial"),
    } <= doc.keys()


def test_text_of_findings_is_78_columns() -> None:
    lines = sample(DIRTYLOG)
    random.Random(1).shuffle(lines)
    text = replay_lines(run([*lines, "x" * 500, "\x1b[31m"]))
    assert max(len(line) for line in text) <= WIDTH
    assert all(line.isprintable() for line in text)
    assert any(line.startswith("  and ") for line in text)


def test_samples_are_bounded() -> None:
    w = Writer()
    w.tree()
    for step in range(2000):
        gfn = step % 400
        w.change(1, gfn, 1 << 63, leaf(0x100 + gfn))
        w.change(1, gfn, leaf(0x100 + gfn), 1 << 63)
    result = run(w.lines)
    assert result.findings == []
    assert len(result.samples) <= MAX_SAMPLES + 1
    assert [s.line for s in result.samples] == sorted(s.line for s in result.samples)


def test_kernel_may_be_given() -> None:
    assert run(records("linux-7.3-begin.trace"), kernel="7.3").kernel == "7.3"
    with pytest.raises(
        TraceInputError, match=r"unknown kernel '5\.4'; known: 6\.1, 6\.12, 7\.3, 7\.2"
    ):
        run([], kernel="5.4")


# -------------------------------------------------------- what must not be a finding


def assert_clean(lines: list[str]) -> ReplayResult:
    result = run(lines)
    assert result.findings == []
    return result


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("part", [0.1, 0.35, 0.8])
def test_begin_mid_life(name: str, part: float) -> None:
    lines = records(name)
    assert assert_clean(lines[int(len(lines) * part) :]).mid_life


def lose(lines: list[str], seed: int, rate: float, longest: int) -> list[str]:
    """Drop runs of lines per CPU, with the mark before the next line of that CPU."""
    rng = random.Random(seed)
    kept: list[str] = []
    dropping: dict[str, int] = {}
    gone: dict[str, int] = {}
    for line in lines:
        cpu = parts(line)[3]
        if dropping.get(cpu, 0) > 0:
            dropping[cpu] -= 1
            gone[cpu] = gone.get(cpu, 0) + 1
            continue
        if rng.random() < rate:
            dropping[cpu] = rng.randrange(1, longest)
        if gone.get(cpu):
            kept.append(f"CPU:{int(cpu)} [LOST {gone.pop(cpu)} EVENTS]")
        kept.append(line)
    return kept


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize(("rate", "longest"), [(0.001, 1000), (0.005, 200), (0.05, 10)])
def test_lost_events(name: str, rate: float, longest: int) -> None:
    lines = lose(records(name), 1, rate, longest)
    marks = [int(n) for line in lines for n in re.findall(r"LOST (\d+)", line)]
    result = assert_clean(lines)
    assert result.lost_events == sum(marks)
    assert result.partial == bool(marks)


def test_overwritten_buffers() -> None:
    lines = records(DIRTYLOG)
    begins = {"000": 2000, "001": 6000, "002": 200, "003": 4000}
    kept = ["# tracer: nop", "# entries-in-buffer/entries-written: 11000/15206   #P:4"]
    seen = set()
    for number, line in enumerate(lines):
        cpu = parts(line)[3]
        if number >= begins[cpu]:
            if cpu not in seen:
                kept.append(f"##### CPU {int(cpu)} buffer started ####")
                seen.add(cpu)
            kept.append(line)
    result = assert_clean(kept)
    assert result.lost_events == 4206
    assert result.partial


def test_late_lines_of_a_pipe() -> None:
    """Some lines of a CPU come after newer lines of others."""
    rng = random.Random(3)
    out: list[str] = []
    held: list[str] = []
    cpu, left = "", 0
    for line in records(DIRTYLOG):
        if not left and rng.random() < 0.005:
            cpu, left = parts(line)[3], rng.randrange(1, 60)
        if left and parts(line)[3] == cpu:
            held.append(line)
        else:
            out.append(line)
        left = max(0, left - 1)
        if not left:
            out += held
            held = []
    result = assert_clean(out + held)
    assert result.leafs == (0, 0, 0)
    assert any("step back" in note for note in result.notes)


def second_vm(lines: list[str], seconds: float) -> list[str]:
    """The same run on other CPUs, by other tasks, with other pages."""

    def page(match: re.Match[str]) -> str:
        value = int(match[2], 16)
        return match[1] + (f"{value + (1 << 36):x}" if value & 0x800 else match[2])

    out = []
    for line in lines:
        comm, pid, gap, cpu, flags, time, rest = parts(line)
        rest = re.sub(r"(spte )([0-9a-f]+)", page, rest)
        rest = re.sub(r"(pfn )([0-9a-f]+)", lambda m: f"{m[1]}{int(m[2], 16) + (1 << 24):x}", rest)
        out.append(
            f"{comm}-{int(pid) + 1000}{gap}{int(cpu) + 4:03d}{flags}"
            f"{float(time) + seconds:.6f}{rest}"
        )
    return out


@pytest.mark.parametrize("seconds", [0.0000005, 0.0021, 0.05])
def test_two_vms_at_once(seconds: float) -> None:
    lines = records(DIRTYLOG)
    other = second_vm(lines, seconds)
    both = list(heapq.merge(lines, other, key=lambda line: float(parts(line)[5])))
    result = assert_clean(both)
    assert (result.tables.roots, result.tables.removed, result.leafs) == (2, 20, (0, 0, 0))
    assert_clean(both[len(both) // 3 :])


def test_joined_recordings() -> None:
    lines = sample(DIRTYLOG)
    result = assert_clean(lines + lines)
    assert result.leafs == (0, 0, 0)
    assert any("another recording begins here" in note for note in result.notes)


def test_other_clocks() -> None:
    """Without a fraction (counter, x86-tsc) and with nanoseconds."""
    lines = records(DIRTYLOG)
    ticks = [ENVELOPE.sub(rf"\1-\2\3\4\g<5>{n}\7", line) for n, line in enumerate(lines)]
    assert assert_clean(ticks).peak == (3079, 6, 0)
    fine = [ENVELOPE.sub(r"\1-\2\3\4\5\g<6>123\7", line) for line in lines]
    assert assert_clean(fine).peak == (3079, 6, 0)


def test_a_clock_of_jiffies() -> None:
    """trace_clock uptime: a trace file sorts the lines of one tick by CPU."""
    lines = records(DIRTYLOG)
    ticks = [(int(float(parts(line)[5]) * 100), parts(line)[3], n) for n, line in enumerate(lines)]
    order = sorted(range(len(lines)), key=lambda n: ticks[n])
    coarse = [ENVELOPE.sub(rf"\1-\2\3\4\g<5>{ticks[n][0]}\7", lines[n]) for n in order]
    result = assert_clean(coarse)
    assert any("the clock is too coarse" in note for note in result.notes)


def test_only_the_change_events() -> None:
    lines = [line for line in records(DIRTYLOG) if CHANGE in line]
    result = assert_clean(lines)
    assert result.peak == (3079, 6, 0)
    assert any("no kvm_mmu_get_page line" in s for s in result.unobservable)


# ---------------------------------------------------------------- what must be found


@pytest.fixture(scope="module")
def short() -> list[str]:
    """The end of one VM's life is dropped: first 3,300 lines, with split and logging."""
    return sample(DIRTYLOG)[:3300]


def seeded(lines: list[str], seed: int) -> list[int]:
    changes = [n for n, line in enumerate(lines) if f" {CHANGE}: " in line and n < 3100]
    return random.Random(seed).sample(changes, 12)


def test_changed_lines_are_found(short: list[str]) -> None:
    """One digit of a value or gfn."""
    rng = random.Random(7)
    found = 0
    for number in seeded(short, 1):
        spans = [m.span(1) for m in re.finditer(r"(?:gfn|_spte) ([0-9a-f]+)", short[number])]
        at = rng.randrange(*rng.choice(spans))
        line = short[number]
        digit = rng.choice([d for d in "0123456789abcdef" if d != line[at]])
        bad = [*short[:number], line[:at] + digit + line[at + 1 :], *short[number + 1 :]]
        lines = [f.line for f in run(bad).findings]
        found += any(abs(at_line - number - 1) <= 1 for at_line in lines)
    assert found >= 10


def test_deleted_lines_are_found() -> None:
    lines = sample(DIRTYLOG)
    zaps = [n for n, line in enumerate(lines) if "new_spte 80000000000001a0" in line]
    for number in random.Random(2).sample(zaps, 3):
        result = run(lines[:number] + lines[number + 1 :])
        assert result.findings != []
        assert any("1 are missing" in note or "are missing" in note for note in result.notes)


@pytest.mark.parametrize("level", [2, 3, 4])
def test_deleted_link_lines_are_found(level: int) -> None:
    lines = sample(DIRTYLOG)
    empty = "old_spte 8000000000000000"
    number = next(
        n for n, line in enumerate(lines) if f"level {level} {empty}" in line and "827" in line
    )
    assert run(lines[:number] + lines[number + 1 :]).findings != []


def test_swapped_lines_are_found(short: list[str]) -> None:
    for number in seeded(short, 3):
        other = next(
            n for n in range(number + 1, 3300) if parts(short[n])[5] != parts(short[number])[5]
        )
        bad = list(short)
        bad[number], bad[other] = bad[other], bad[number]
        assert "ORDER" in {f.rule for f in run(bad).findings}


def test_findings_say_where() -> None:
    w = Writer()
    w.line(ROOT)
    w.tree()
    w.change(1, 1, 1 << 63, leaf(0x91))
    w.change(1, 1, leaf(0x92), 1 << 63, cpu=2, task="vmm-254")
    w.change(1, 1, 1 << 63, leaf(0x93))
    w.change(1, 1, leaf(0x94), 1 << 63)
    finding = judged(w.lines).findings[0]
    assert (finding.rule, finding.line, finding.cpu) == ("I20", len(w.lines), 0)
    assert finding.task == "CPU 0/KVM-100"
    assert finding.message == (
        "as_id 0 gfn 1 level 1: old value 94e67 (leaf 4K pfn 94 WDA) does not follow"
        f" 93e67 (leaf 4K pfn 93 WDA), left by line {len(w.lines) - 1}"
    )


# ------------------------------------------------------------------ whole recordings

RECORDINGS = os.environ.get("SEPTUM_RECORDINGS")
"""A folder of whole recordings, searched for *.trace* and *.report.txt*."""
FILES = (
    sorted(
        path
        for pattern in ("*.trace*", "*.report.txt*")
        for path in Path(RECORDINGS).rglob(pattern)
    )
    if RECORDINGS
    else []
)


@pytest.mark.slow
@pytest.mark.skipif(not FILES, reason="SEPTUM_RECORDINGS names no folder of recordings")
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_whole_recordings_have_no_finding(path: Path) -> None:
    result = replay(path)
    assert result.findings == []
    assert result.leafs == (0, 0, 0)
    assert (result.tables.live, result.tables.unseen) == (0, 0)
    assert not result.partial


def test_a_file_that_was_read_while_tracing_was_on() -> None:
    """Recorded: a kretprobe on vfs_read caught the read of the trace file itself.  The header
    counts 4 entries, 8 lines follow, and two step back on one CPU (the iterator begins again)."""
    stamps = (211.521984, 211.526655, 211.808863, 211.821893)
    live = (212.250198, 212.288241, 212.250661, 212.276487)
    head = ["# tracer: nop", "#", "# entries-in-buffer/entries-written: 4/4   #P:3", "#"]
    lines = [f"  <...>-128     [002] ..... {t:.6f}: x_done: (ksys_read)" for t in stamps + live]
    result = run([*head, *lines])
    assert result.findings == []
    assert any("read while tracing was on" in note for note in result.notes)
    stopped = run([*head[:2], *lines])
    assert [f.rule for f in stopped.findings] == ["ORDER", "ORDER"]
