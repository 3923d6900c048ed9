# SPDX-License-Identifier: GPL-2.0-only
"""How to record: the commands for tracefs, trace-cmd and bpftrace, and a recorder.

`SETUPS` prints; `run_tracefs` records through tracefs, into a file, until the time is over
or Ctrl-C, and puts everything back as it was.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from septum.trace.probes import PROBES

__all__ = ["EVENTS", "SETUPS", "RecordError", "run_tracefs"]

TRACEFS: Final = Path("/sys/kernel/tracing")
EVENTS: Final = (
    "kvmmmu",
    *("kvm/kvm_page_fault", "kvm/kvm_unmap_hva_range", "kvm/kvm_age_hva"),
    *("kvm/kvm_test_age_hva", "kvm/kvm_vm_set_mem_attributes"),
)
"""What replay reads; the last one exists since 6.8."""
_INSTANCE: Final = "septum"
_CHUNK: Final = 1 << 16


class RecordError(RuntimeError):
    """Recording is not possible here; the text says why and what to do."""


_NEEDS: Final = """\
# Needs: root, CONFIG_KPROBE_EVENTS.  __seamcall and __seamcall_ret must not be on the
# kprobe blacklist: sort /sys/kernel/tracing/kprobe_events | grep septum shows that they
# were taken.  VP.ENTER (__seamcall_saved_ret) is noinstr and cannot be recorded so.
"""


def tracefs(tdx: bool, buffer_kb: int) -> str:
    """Shell commands with nothing but tracefs."""
    probes = "".join(f"echo '{line}' >> kprobe_events\n" for line in PROBES) if tdx else ""
    enable = " septum" if tdx else ""
    return (
        (_NEEDS if tdx else "# Needs: root.\n")
        + "# Start this before the VM; stop it when the VM has ended.\n"
        + "cd /sys/kernel/tracing\n"
        + "echo 0 > tracing_on; echo nop > current_tracer; echo > trace\n"
        + f"echo {buffer_kb} > buffer_size_kb\n"
        + "echo 1 > options/record-tgid  # each line with its process: one VM\n"
        + probes
        + f"for e in {' '.join(EVENTS)}{enable}; do\n"
        + "    [ -e events/$e/enable ] && echo 1 > events/$e/enable\n"
        + "done\n"
        + "echo 1 > tracing_on\n"
        + "# ... the VM runs ...\n"
        + "echo 0 > tracing_on; cat trace > vm.trace\n"
        + "septum replay vm.trace\n"
        + (
            "for e in kvmmmu kvm septum; do echo 0 > events/$e/enable; done\n"
            "sed -n 's/^.:septum/-:septum/p' kprobe_events >> kprobe_events\n"
            if tdx
            else ""
        )
    )


def trace_cmd(tdx: bool, buffer_kb: int) -> str:
    """trace-cmd; the kprobes are made through tracefs first."""
    text = _NEEDS if tdx else "# Needs: root, trace-cmd.\n"
    for line in PROBES if tdx else ():
        text += f"echo '{line}' >> /sys/kernel/tracing/kprobe_events\n"
    events = " ".join(f"-e {event.replace('/', ':')}" for event in EVENTS)
    more = " -e septum" if tdx else ""
    return (
        text
        + f"trace-cmd record -b {buffer_kb} {events}{more} -o vm.dat\n"
        + "# Ctrl-C when the VM has ended\n"
        + "septum replay vm.dat\n"
    )


def bpftrace(tdx: bool, buffer_kb: int) -> str:
    """One bpftrace program that prints lines in ftrace's form."""
    head = r'"%16s-%-7d [%03d] ..... %5llu.%06llu: '
    now = "comm, tid, cpu, nsecs / 1000000000, nsecs % 1000000000 / 1000"
    program = (
        "tracepoint:kvmmmu:kvm_tdp_mmu_spte_changed {\n"
        f"  printf({head}kvm_tdp_mmu_spte_changed: as id %d gfn %llx level %d"
        r' old_spte %llx new_spte %llx\n",'
        f"\n    {now}, args->as_id, args->gfn, args->level, args->old_spte, args->new_spte);\n}}\n"
        "tracepoint:kvm:kvm_page_fault {\n"
        f"  printf({head}kvm_page_fault: vcpu %u rip 0x%lx address 0x%016llx error_code"
        r' 0x%llx\n",'
        f"\n    {now}, args->vcpu_id, args->guest_rip, args->fault_address,"
        " args->error_code);\n}\n"
    )
    if tdx:
        program += (
            "kprobe:__seamcall, kprobe:__seamcall_ret {\n"
            "  @args[tid] = arg1;\n"
            f"  printf({head}seamcall_ret: () fn=0x%llx rcx=0x%llx rdx=0x%llx r8=0x%llx"
            r' r9=0x%llx\n",'
            f"\n    {now}, arg0, *(uint64*)arg1, *(uint64*)(arg1 + 8), *(uint64*)(arg1 + 16),\n"
            "    *(uint64*)(arg1 + 24));\n}\n"
            "kretprobe:__seamcall, kretprobe:__seamcall_ret /@args[tid]/ {\n"
            f"  printf({head}seamcall_ret_done: () status=0x%llx rcx=0x%llx rdx=0x%llx"
            r' r8=0x%llx\n",'
            f"\n    {now}, retval, *(uint64*)@args[tid], *(uint64*)(@args[tid] + 8),\n"
            "    *(uint64*)(@args[tid] + 16));\n"
            "  delete(@args[tid]);\n}\n"
        )
    return (
        "# Needs: root, bpftrace 0.17 or newer; kprobes cost less through tracefs.\n"
        f"cat > septum.bt <<'EOF'\n{program}EOF\n"
        f"BPFTRACE_PERF_RB_PAGES={max(buffer_kb // 4, 64)} bpftrace septum.bt > vm.trace\n"
        "septum replay vm.trace\n"
    )


SETUPS: Final[dict[str, Callable[[bool, int], str]]] = {
    "tracefs": tracefs,
    "trace-cmd": trace_cmd,
    "bpftrace": bpftrace,
}


# ---------------------------------------------------------------------------- recorder


def _write(path: Path, text: str, *, append: bool = False) -> None:
    try:
        with path.open("a" if append else "w") as stream:
            stream.write(text)
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror}; septum record --run needs root") from None


@contextlib.contextmanager
def _instance(tracefs_root: Path) -> Iterator[Path]:
    """A tracing instance of its own: other users of ftrace are not disturbed."""
    instance = tracefs_root / "instances" / _INSTANCE
    if not tracefs_root.is_dir():
        raise RecordError(f"{tracefs_root}: no tracefs here; mount -t tracefs nodev {tracefs_root}")
    try:
        instance.mkdir()
    except FileExistsError:
        raise RecordError(
            f"{instance} exists: another septum record runs, or one was killed; remove it with"
            f" rmdir {instance}"
        ) from None
    except OSError as error:
        raise RecordError(f"{instance}: {error.strerror}; --run needs root") from None
    try:
        yield instance
    finally:
        with contextlib.suppress(OSError):
            instance.rmdir()


@contextlib.contextmanager
def _probes(tracefs_root: Path, tdx: bool) -> Iterator[None]:
    control = tracefs_root / "kprobe_events"
    made: list[str] = []
    try:
        for line in PROBES if tdx else ():
            _write(control, line + "\n", append=True)
            made.append(re.sub(r"^.:(\S+).*", r"-:\1", line))
        yield
    finally:
        for line in made:
            with contextlib.suppress(RecordError):
                _write(control, line + "\n", append=True)


def run_tracefs(
    output: Path,
    *,
    tdx: bool = False,
    buffer_kb: int = 49152,
    seconds: float | None = None,
    tracefs_root: Path = TRACEFS,
) -> tuple[int, int]:
    """Record until ``seconds`` are over or Ctrl-C; (lines written, events lost)."""
    with _probes(tracefs_root, tdx), _instance(tracefs_root) as instance:
        _write(instance / "buffer_size_kb", str(buffer_kb))
        processes = instance / "options" / "record-tgid"
        if processes.exists():  # before the events: they count who wants it
            _write(processes, "1")
        enabled = [*EVENTS, *(("septum",) if tdx else ())]
        for event in enabled:
            switch = instance / "events" / event / "enable"
            if switch.exists():
                _write(switch, "1")
            elif event in ("kvmmmu", "septum"):
                raise RecordError(f"{switch} does not exist: is the module kvm loaded?")
        _write(instance / "tracing_on", "1")
        with contextlib.suppress(KeyboardInterrupt):
            if seconds is None:
                while True:
                    time.sleep(3600)
            time.sleep(seconds)
        _write(instance / "tracing_on", "0")
        lines = _copy(instance / "trace", output)
        lost = _lost(instance)
        for event in enabled:
            switch = instance / "events" / event / "enable"
            if switch.exists():
                _write(switch, "0")
        return lines, lost


def _copy(source: Path, output: Path) -> int:
    lines = 0
    try:
        with source.open("rb") as stream, output.open("wb") as target:
            while block := stream.read(_CHUNK):
                target.write(block)
                lines += block.count(b"\n")
    except OSError as error:
        raise RecordError(f"{output}: {error.strerror}") from None
    return lines


def _lost(instance: Path) -> int:
    lost = 0
    for stats in instance.glob("per_cpu/cpu*/stats"):
        for name, count in re.findall(
            r"^(overrun|dropped events): (\d+)$", stats.read_text(), re.M
        ):
            lost += int(count) if name else 0
    return lost
