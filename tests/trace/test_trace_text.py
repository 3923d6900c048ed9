# SPDX-License-Identifier: GPL-2.0-only
"""The envelope of a line, in every form that tools print."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from septum.trace.text import BufferStarted, Header, Lost, parse_line, task_name

PAYLOAD = "vcpu 3 rip 0x0 address 0x000000007d276000 error_code 0x2"


@pytest.mark.parametrize(
    ("line", "comm", "pid", "cpu", "stamp"),
    [
        (
            f"       CPU 3/KVM-2417    [003] ...1.  5123.884201: kvm_page_fault: {PAYLOAD}",
            *("CPU 3/KVM", "2417", "003", "5123.884201"),
        ),
        (
            f"       CPU 3/KVM-2417  [003]  5123.884201: kvm_page_fault:       {PAYLOAD}",
            *("CPU 3/KVM", "2417", "003", "5123.884201"),
        ),
        (
            f"       CPU 3/KVM-2417  [003]  5123.884201123: kvm_page_fault:   {PAYLOAD}",
            *("CPU 3/KVM", "2417", "003", "5123.884201123"),
        ),
        (
            f"           <...>-2417    [003] d..2.  5123.884201: kvm_page_fault: {PAYLOAD}",
            *("<...>", "2417", "003", "5123.884201"),
        ),
        (
            f"kworker/u8:1-ev-77      [000] .....     5.000001: kvm_page_fault: {PAYLOAD}",
            *("kworker/u8:1-ev", "77", "000", "5.000001"),
        ),
        (
            f"   a-1 [000] b-22      [001] .N.1.     5.000001: kvm_page_fault: {PAYLOAD}",
            *("a-1 [000] b", "22", "001", "5.000001"),
        ),
        (
            f"       CPU 3/KVM-2417  (   2400) [003] ...1.  5123.884201: kvm_page_fault: {PAYLOAD}",
            *("CPU 3/KVM", "2417", "003", "5123.884201"),
        ),
        (
            f"       CPU 3/KVM-2417  (-------) [003] ...1.  5123.884201: kvm_page_fault: {PAYLOAD}",
            *("CPU 3/KVM", "2417", "003", "5123.884201"),
        ),
        (  # 4 flag characters: older kernels
            f"       CPU 3/KVM-2417    [003] ...1  5123.884201: kvm_page_fault: {PAYLOAD}",
            *("CPU 3/KVM", "2417", "003", "5123.884201"),
        ),
        (  # trace_clock counter: right-aligned to 13
            f"       CPU 3/KVM-2417    [003] ...1.            4: kvm_page_fault: {PAYLOAD}",
            *("CPU 3/KVM", "2417", "003", "4"),
        ),
        (  # trace_clock x86-tsc
            f"       CPU 3/KVM-2417    [003] ...1. 981273981273: kvm_page_fault: {PAYLOAD}",
            *("CPU 3/KVM", "2417", "003", "981273981273"),
        ),
        (  # perf script
            f"       CPU 3/KVM    2417 [003]  5123.884201: kvm:kvm_page_fault: {PAYLOAD}",
            *("CPU 3/KVM", "2417", "003", "5123.884201"),
        ),
    ],
)
def test_envelopes(line: str, comm: str, pid: str, cpu: str, stamp: str) -> None:
    assert parse_line(line) == (comm, pid, cpu, stamp, "kvm_page_fault", PAYLOAD)


def test_a_marker_that_looks_like_a_line_stays_a_marker() -> None:
    inner = "x-12 [003] .... 1.000000: kvm_page_fault: vcpu 0"
    line = f"             vmm-254     [002] ...1.    13.573594: tracing_mark_write: {inner}"
    parsed = parse_line(line)
    assert isinstance(parsed, tuple)
    assert parsed[4:] == ("tracing_mark_write", inner)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("CPU:3 [LOST 17 EVENTS]", Lost(3, 17)),
        ("CPU:3 [EVENTS DROPPED]", Lost(3, 0)),
        ("CPU:11 [42 EVENTS DROPPED]", Lost(11, 42)),
        ("##### CPU 2 buffer started ####", BufferStarted(2)),
        ("# tracer: nop", Header(True, 0, 0)),
        ("# entries-in-buffer/entries-written: 47214/47214   #P:4", Header(False, 47214, 0)),
        ("# entries-in-buffer/entries-written: 100/150   #P:4", Header(False, 100, 50)),
        ("#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION", None),
        ("", None),
        ("   ", None),
        ("cpus=4", Header(False, 0, 0)),
        ("CPU 1 is empty", None),
    ],
)
def test_other_lines(line: str, expected: object) -> None:
    assert parse_line(line) == expected


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("hello", "no task-pid [cpu] before the event"),
        ("\x01\x02\x03\x04\x05", "binary data"),
        ("  vmm-1  [000] ...1. garbage", "no time stamp"),
        ("  vmm-1  [000] ...1. 13.5: ", "no event name after the time stamp"),
        ("             vmm-257     [002] ...1.    10.2580", "no time stamp"),
    ],
)
def test_reasons(line: str, reason: str) -> None:
    assert parse_line(line) == reason


@given(st.text(alphabet=st.characters(max_codepoint=255, exclude_characters="\n")))
def test_never_raises(line: str) -> None:
    parsed = parse_line(line)
    assert parsed is None or isinstance(parsed, str | tuple | Header | Lost | BufferStarted)


@pytest.mark.parametrize("unit", [" ", "-", "1", "- ", "a-1 ", "-1 [0] ", "1 [1] 1 ", "w:"])
def test_no_line_makes_the_match_slow(unit: str) -> None:
    line = unit * (65536 // len(unit))
    begin = time.process_time()
    parse_line(line)
    assert time.process_time() - begin < 1.0


def test_task_names_are_text() -> None:
    assert task_name("   CPU 0/KVM") == "CPU 0/KVM"
    assert task_name("vm\xc3\xbc") == "vmü"
    assert task_name("a\x1b[31m") == "a?[31m"
    assert task_name("\xff") == "\ufffd"


PERF_SCRIPT = """\
              sh  4070 [000] 18750.176794: raw_syscalls:sys_enter: NR 12 (0, 7ffd255b4c2c, 0, 37f)
       CPU 0/KVM  5526 [001] 18777.134186: raw_syscalls:sys_enter: NR 110 (7ffb7f075990, 0)
              sh  4070/4070  [000] 18750.176794: raw_syscalls:sys_enter: NR 12 (0, 7ffd255b4c2c, 0)
sh  5431 [000] 18773.800453:    sched:sched_switch: prev_comm=sh prev_pid=5431 prev_prio=120
\tffffffff82265488 __schedule+0x628 ([kernel.kallsyms])
\t           1ab70 _start+0x0 (/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2)
\t               0 [unknown] ([unknown])

sh  5431 [000] 18773.799902: raw_syscalls:sys_exit: NR 9 = 140065157439488
"""
"""Recorded by perf 6.1: default, a task with a space in its name, -F pid,tid, and -g."""


def test_what_perf_script_prints() -> None:
    parsed = [parse_line(line) for line in PERF_SCRIPT.splitlines()]
    records = [record for record in parsed if isinstance(record, tuple)]
    assert [(r[0].strip(), r[1], r[2], r[4]) for r in records] == [
        ("sh", "4070", "000", "sys_enter"),
        ("CPU 0/KVM", "5526", "001", "sys_enter"),
        ("sh", "4070", "000", "sys_enter"),
        ("sh", "5431", "000", "sched_switch"),
        ("sh", "5431", "000", "sys_exit"),
    ]
    assert parsed.count(None) == 4  # the call chain and the empty line
