# SPDX-License-Identifier: GPL-2.0-only
"""Binary trace.dat: both versions, compressions, damage; raw fields as text."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from dat_rig import Raw, changed, get_page, marker, version_6, version_7
from hypothesis import given
from hypothesis import strategies as st
from trace_rig import EMPTY, Writer, leaf, run, table

from septum.trace import ReplayResult, TraceInputError, replay
from septum.trace.events import GetPage, SetSpte, SpteChanged
from septum.trace.fields import parse_raw

ROOT_7_3 = 4 | 1 << 7 | 0xF << 8 | 1 << 13 | 1 << 14


def events() -> list[Raw]:
    """A root, its tables, 600 leafs by two vCPUs."""
    out = [Raw(1000, 1, marker(99, "begin")), Raw(1010, 0, get_page(100, 0, ROOT_7_3))]
    for number, (level, page) in enumerate(((4, 0x11), (3, 0x12), (2, 0x13), (2, 0x14))):
        gfn = 0x200 if page == 0x14 else 0
        out.append(Raw(1100 + number, 0, changed(100, gfn, level, EMPTY, table(page))))
    for gfn in range(600):
        cpu = gfn % 2
        time = 2000 + gfn * 1000 + (1 << 30) * (gfn > 300)
        out.append(Raw(time, cpu, changed(100 + cpu, gfn, 1, EMPTY, leaf(0x1000 + gfn))))
    return out


def read(data: bytes) -> ReplayResult:
    return replay(io.BytesIO(data), name="x")


def many() -> list[Raw]:
    """Enough events for progress to be told."""
    return [
        Raw(1000 + n * 1000, n % 2, changed(100 + n % 2, n % 512, 1, EMPTY, leaf(n)))
        for n in range(20_000)
    ]


@pytest.mark.parametrize("pack", [version_6, lambda raw: gzip.compress(version_6(raw))])
def test_progress_never_passes_the_size(pack: Callable[[list[Raw]], bytes]) -> None:
    data, told = pack(many()), list[int]()
    replay(io.BytesIO(data), name="x", progress=told.append)
    assert told and told == sorted(told)
    assert 0 < told[-1] <= len(data)


FORMS: dict[str, Callable[[list[Raw]], bytes]] = {
    "6": version_6,
    "7 zlib": version_7,
    "7 none": lambda raw: version_7(raw, "none"),
    "6 in gzip": lambda raw: gzip.compress(version_6(raw)),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form: str) -> None:
    result = read(FORMS[form](events()))
    assert result.events == {
        "print": 1,
        "kvm_mmu_get_page": 1,
        "kvm_tdp_mmu_spte_changed": 604,
    }
    assert (result.leafs, result.tables.live, result.tables.unseen) == ((600, 0, 0), 5, 0)
    assert (result.findings, result.kernel, result.partial) == ([], "7.3", False)
    assert result.lines == 1 + 606


def test_the_clock_and_names_of_the_file_are_used() -> None:
    raw = [*events(), Raw(3 << 30, 0, changed(100, 5, 1, leaf(0x77), EMPTY))]
    raw += [Raw((3 << 30) + n, 0, changed(100, 0x400 + n, 1, EMPTY, leaf(n))) for n in range(99)]
    found = read(version_7(raw)).findings[0]
    assert (found.rule, found.task, found.time) == ("I20", "CPU 0/KVM-100", (3 << 30) / 1e9)
    assert found.line == 1 + 606 + 1
    ticks = read(version_7(raw, clock="counter")).findings[0]
    assert ticks.time == float(3 << 30)


def test_missed_events_are_a_loss() -> None:
    raw = events()
    raw[400].missed = 17
    result = read(version_7(raw))
    assert (result.lost_events, result.partial, result.findings) == (17, True, [])


@pytest.mark.parametrize("part", [0.05, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("form", ["6", "7 none"])
def test_a_cut_file_is_refused_or_read_as_far_as_it_goes(form: str, part: float) -> None:
    data = FORMS[form](events())
    try:
        result = read(data[: int(len(data) * part)])
    except TraceInputError as error:
        assert "it ends before its event data" in str(error)
    else:
        assert result.cut is not None
        assert result.partial
        assert result.findings == []


@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=40))
def test_no_damage_raises_anything_else(at: int, noise: bytes) -> None:
    data = bytearray(version_7(events()[:60]))
    at %= len(data)
    data[at : at + len(noise)] = noise
    try:
        read(bytes(data))
    except TraceInputError as error:
        assert "\n" not in str(error)


def test_raw_text() -> None:
    """`trace-cmd report -R`: the fields by name, with the numbers of the formats."""
    text = "gfn=40000 old_spte=8000000000000000 new_spte=159400ee7 level=2 as_id=1"
    change = SpteChanged(1, 0x40000, 2, EMPTY, 0x159400EE7)
    assert parse_raw("kvm_tdp_mmu_spte_changed", text) == change
    text = "mmu_valid_gen=0 gfn=262144 role=14212 root_count=0 unsync=0 created=1"
    page = GetPage(0x40000, 4, True, "wux", True, False, False, 0)
    assert parse_raw("kvm_mmu_get_page", text) == page
    mirror = f"mmu_valid_gen=0 gfn=0 role={ROOT_7_3 | 1 << 19} root_count=0 unsync=0 created=1"
    assert parse_raw("kvm_mmu_get_page", mirror) == GetPage(
        0, 4, True, "rwux", True, False, True, 0
    )
    text = "gfn=1 spte=144664e67 sptep=144d87008 level=1 r=1 x=1 u=1"
    assert parse_raw("kvm_mmu_set_spte", text) == SetSpte(1, 0x144664E67, "rwxu", 1, 0x144D87008)
    assert parse_raw("kvm_tdp_mmu_spte_changed", "gfn=9223372036854775808 level=1") is None


def test_raw_text_replays_like_formatted_text() -> None:
    w = Writer()
    w.tree()
    w.change(1, 5, EMPTY, leaf(0x91))
    plain = run(w.lines)
    raw = []
    for line in w.lines:
        head, mark, rest = line.partition("kvm_tdp_mmu_spte_changed: as id ")
        if mark:
            as_id, _, gfn, _, level, _, old, _, new = rest.split()
            rest = f"gfn={gfn} old_spte={old} new_spte={new} level={level} as_id={as_id}"
            line = f"{head}kvm_tdp_mmu_spte_changed:  {rest}"
        raw.append(line)
    assert run(raw).to_json() == plain.to_json()


def test_a_real_trace_dat_equals_its_report(recordings: Path) -> None:
    """The shared recording and the text that trace-cmd made of it."""
    for dat in recordings.rglob("*.dat.xz"):
        report = dat.with_name(dat.name.replace(".dat.xz", ".report.txt.xz"))
        one, two = replay(dat, name="x").to_json(), replay(report, name="x").to_json()
        assert one == two
