# SPDX-License-Identifier: GPL-2.0-only
"""The events of one recording, folded in the order they come: `Replay` takes lines or a
trace.dat and ends with a `ReplayResult`.  Memory is bounded by the live tables and the
pairing window, not by the length of the recording.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from struct import Struct, error
from typing import Final

from septum.kvm.shadow import ShadowTables
from septum.kvm.versions import EPT, KERNELS, NPT, KernelVersion
from septum.trace.dat import TraceDat
from septum.trace.events import (
    PARSERS,
    Event,
    GetPage,
    Parser,
    PrepareZapPage,
    SpteChanged,
    ZapAllFast,
    spte_changed,
)
from septum.trace.fields import RAW, decoder, parse_raw
from septum.trace.judge import Judge
from septum.trace.mirror import Mirrors
from septum.trace.probes import SEAMCALL_DONE, SEAMCALL_ENTER, parse_probe
from septum.trace.result import ReplayResult, Sample, Unreadable
from septum.trace.roots import Roots
from septum.trace.rules import ORDER_FREE, Where, finding_at
from septum.trace.source import MAX_LINE, Lines
from septum.trace.stats import Stats
from septum.trace.text import (
    BufferStarted,
    Header,
    Lost,
    match_envelope,
    match_rest,
    parse_line,
    task_name,
)
from septum.trace.unobservable import tdx_unobservable, unobservable
from septum.trace.watch import Watch

__all__ = ["RELEASES", "Replay"]

RELEASES: Final = {name: name for name in KERNELS} | {"7.2": "7.3"}
"""Releases whose source was checked, and their family.  7.2.13 differs from 7.3.4 in no
line that a recording shows (tdp_mmu.c, mmutrace.h, union kvm_mmu_page_role)."""
_tuple = tuple.__new__
MAX_WRITERS: Final = 4096
KEPT_UNREADABLE: Final = 8
_pid = Struct("<i").unpack_from
MAX_SAMPLES: Final = 256
_TELL: Final = (1 << 14) - 1
COARSE: Final = 32
"""Lines per time stamp.  A clock of microseconds has a few at most, a clock of jiffies
(uptime) hundreds, and a trace file sorts lines of one stamp by CPU."""
PROBE_EVENTS: Final = SEAMCALL_ENTER | SEAMCALL_DONE
_VCPU_ACTIVITY: Final = frozenset(
    ("kvm_page_fault", "fast_page_fault", "kvm_mmu_spte_requested", "kvm_mmu_set_spte")
)


class Replay:
    """One recording.  Feed lines, then `finish`."""

    def __init__(self, name: str, kernel: str | None = None, watch: Watch | None = None) -> None:
        self.result = ReplayResult(name)
        self.stats = Stats()
        self.watch = watch
        self.stopped = False
        """The moment that ``watch`` asked for is over: the rest is not read."""
        self.tables = ShadowTables()
        self.judge = Judge(self.tables)
        self.mirrors = Mirrors()
        self.roots = Roots()
        self.judge.owner = self.roots.owner
        if watch is not None:
            watch.vm_at = self.roots.vm_at
        self.version: KernelVersion | None = None
        self.result.kernel = kernel
        if kernel is not None:
            self._settle_version(KERNELS[RELEASES[kernel]])
            self.result.kernel = kernel
        self._last_line: dict[int, int] = {}
        """Per CPU, the last line it wrote."""
        self._lossy: set[int] = set()
        self._torn = 0
        self._ticks = 1
        self._started = False
        self._sorted = False
        self._latest = 0.0
        self._steps_back = 0
        self._entries = 0
        self._records = 0
        self._stride = 1
        self._peak = [0, 0, 0, 0]
        self._until_sample = 0
        self._old_access = False
        self._raw_roles = False
        self._changes = 0
        """Lines of kvm_tdp_mmu_spte_changed that took the short way."""
        self._writers: dict[str, tuple[str, int, int]] = {}
        """The beginning of a line, up to its CPU -> comm, pid, CPU."""

    # --------------------------------------------------------------------- lines

    def feed(self, lines: list[str]) -> None:
        """The next lines, without their line ends."""
        result, writers, watch = self.result, self._writers, self.watch
        for line in lines:
            if watch is not None and watch.reached(result.lines, self._latest):
                self.stopped = True
                return
            result.lines += 1
            end = line.find("]") + 1
            who = writers.get(line[:end])
            if who is None:
                self._first_of(line, end)
                continue
            match = match_rest(line, end)
            if match is None:
                self._generic(line)
                continue
            time, as_id, gfn, level, old, new, name, payload = match.groups("")
            comm, pid, cpu = who
            at = _tuple(Where, (result.lines, float(time), cpu, pid, comm))
            if name:
                self._named(at, name, payload)
                continue
            event = _tuple(
                SpteChanged,
                (int(as_id), int(gfn, 16), int(level), int(old, 16), int(new, 16)),
            )
            self._spte_changed(at, event, self._arrive(at))
            self._changes += 1
            self._last_line[cpu] = at.line

    def _first_of(self, line: str, end: int) -> None:
        """A line whose beginning, up to the CPU, has not been seen before."""
        match = match_envelope(line)
        if match is None:
            if line:
                self._mark(parse_line(line))
            return
        if match.end(3) + 1 == end:  # no other ] before
            if len(self._writers) >= MAX_WRITERS:
                self._writers.clear()
            self._writers[line[:end]] = (match[1], int(match[2]), int(match[3]))
            self.roots.envelope(int(match[2]), line[:end])
        self._record(match.groups(""))

    def _generic(self, line: str) -> None:
        match = match_envelope(line)
        if match is not None:
            self._record(match.groups(""))
        elif line:
            self._mark(parse_line(line))

    def _mark(self, parsed: tuple[str, ...] | Header | Lost | BufferStarted | str | None) -> None:
        if parsed is None:
            return
        if isinstance(parsed, str):
            self.unreadable(self.result.lines, parsed)
        elif isinstance(parsed, tuple):
            self._record(parsed)
        elif isinstance(parsed, Header):
            self._header(parsed)
        elif isinstance(parsed, Lost):
            self.result.lost_events += parsed.count
            self._lose(parsed.cpu)
        else:
            self._lose(parsed.cpu)

    def _header(self, header: Header) -> None:
        self.result.headed = True
        if header.begins:
            if self._started:  # recordings joined into one file
                self.result.notes.append(f"line {self.result.lines}: another recording begins here")
                self.judge.lost(self.result.lines)
                self._last_line.clear()
            self._sorted = True
            self._latest = 0.0
        self._entries += header.entries
        if header.overwritten:
            self.result.lost_events += header.overwritten
            self.judge.closed = False

    def _lose(self, cpu: int) -> None:
        """Events of a CPU (-1: of any) are missing, anywhere after the last line it wrote."""
        self.mirrors.lost()
        self.roots.lost(self.result.lines)
        if cpu >= 0:
            self._lossy.add(cpu)
            self.judge.lost(self._last_line.get(cpu, 0))
        else:
            self.judge.lost(min(self._last_line.values(), default=0))

    def unreadable(self, line: int, reason: str) -> None:
        """A line that is cut or garbled: others may be missing beside it.

        Copying trace_pipe by sendfile(), as busybox cat does, tears it: whole stretches
        are gone, with nothing but half a line to show for it, or not even that.
        """
        self._unread(line, reason)
        self._torn += 1
        self._lose(-1)

    def _unread(self, line: int, reason: str) -> None:
        self.result.unreadable += 1
        if len(self.result.first_unreadable) < KEPT_UNREADABLE:
            self.result.first_unreadable.append(Unreadable(line, reason))

    def _record(self, record: tuple[str, ...]) -> None:
        comm, pid, cpu_text, time_text, name, payload = record
        at = Where(self.result.lines, float(time_text), int(cpu_text), int(pid), comm)
        self._named(at, name, payload)

    def _named(self, at: Where, name: str, payload: str) -> None:
        late = self._arrive(at)
        parsers = PARSERS.get(name)
        if name in PROBE_EVENTS:
            self._probe(at, name, parse_probe(name, payload))
        if parsers is None or self._payload(at, name, payload, parsers, late):
            events = self.result.events
            events[name] = events.get(name, 0) + 1
        self._last_line[at.cpu] = at.line

    def _arrive(self, at: Where) -> bool:
        """Whether the line is older than one before it."""
        self._records += 1
        if at.time > self._latest:
            self._ticks += 1
            self._latest = at.time
        elif at.time < self._latest:
            self._step_back(at)
            return True
        return False

    def feed_dat(self, dat: TraceDat, told: Callable[[], None] = lambda: None) -> None:
        """All events of a trace.dat.  Line numbers are those of `trace-cmd report`; ``told``
        is called now and then."""
        result, seconds = self.result, dat.seconds()
        result.lines = 1  # the report begins with the line cpus=N
        if self.version is None:
            self._version_of_release(dat.uname)
        kinds = {number: (e.name, decoder(e)) for number, e in dat.formats.items()}
        counts: dict[str, int] = {}
        tasks, watch, last_line = dat.tasks, self.watch, self._last_line
        self.roots.processes(dat.tgids)
        for time, cpu, missed, number, page, offset in dat.events():
            if watch is not None and watch.reached(result.lines, self._latest):
                self.stopped = True
                break
            if missed:
                result.lines += 1
                result.lost_events += max(missed, 0)
                self._lose(cpu)
            result.lines += 1
            line = result.lines
            if not line & _TELL:
                told()
            try:
                (pid,) = _pid(page, offset + 4)
                name, read = kinds[number]
                event = None if read is None else read(page, offset)
            except error:
                self.unreadable(line, "an event is cut")
                continue
            except KeyError:
                self.unreadable(line, f"event type {number} has no format in the file")
                continue
            at = _tuple(Where, (line, seconds(time), cpu, pid, tasks.get(pid, "<...>")))
            late = self._arrive(at)
            counts[name] = counts.get(name, 0) + 1
            if type(event) is SpteChanged:
                self._spte_changed(at, event, late)
            elif event is not None:
                self._other(at, name, event)
            elif name in PROBE_EVENTS:
                self._probe(at, name, dat.formats[number].integers(page, offset))
            last_line[cpu] = line
        for name, count in counts.items():
            result.events[name] = result.events.get(name, 0) + count
        if dat.cut is not None:
            result.cut = dat.cut
            result.notes.append(dat.cut)

    def _probe(self, at: Where, name: str, fields: dict[str, int] | None) -> None:
        if fields is None:
            self.unreadable(at.line, f"{name} has other fields")
        else:
            self.mirrors.probe(at, name, fields)

    def _version_of_release(self, uname: str) -> None:
        """The kernel family of ``Linux HOST RELEASE MACHINE``, where it was checked."""
        found = re.search(r" (\d+\.\d+)\.\d", uname)
        if found is not None and found[1] in RELEASES:
            self._settle_version(KERNELS[RELEASES[found[1]]])
            self.result.kernel = found[1]

    def _payload(
        self, at: Where, name: str, payload: str, parsers: tuple[Parser, ...], late: bool
    ) -> bool:
        """Use the event; False if its text cannot be read."""
        for fullmatch, build in parsers:
            match = fullmatch(payload)
            if match is not None:
                if build is spte_changed:
                    self._spte_changed(at, spte_changed(match.groups("")), late)
                else:
                    self._other(at, name, build(match.groups("")))
                return True
        clean = payload.replace("\0", "").rstrip()
        if clean != payload:
            return self._payload(at, name, clean, parsers, late)
        if "=" in payload:
            return self._raw_payload(at, name, payload, late)
        text = task_name(payload[:40]) + ("..." if len(payload) > 40 else "")
        self.unreadable(at.line, f"{name} has other fields: {text!r}")
        return False

    def _raw_payload(self, at: Where, name: str, payload: str, late: bool) -> bool:
        """``name=value`` text of trace-cmd report -R."""
        event = parse_raw(name, payload)
        if isinstance(event, SpteChanged):
            self._spte_changed(at, event, late)
        elif event is not None:
            self._other(at, name, event)
        elif name in RAW:
            text = task_name(payload[:40])
            self.unreadable(at.line, f"{name} has other fields: {text!r}")
            return False
        return True

    def _step_back(self, at: Where) -> None:
        """In a trace file: lines were exchanged.  From a pipe: the line is late."""
        self._steps_back += 1
        if self._sorted:
            message = f"time stamp {at.time:.6f} steps back from {self._latest:.6f}"
            self.judge.findings.append(finding_at("ORDER", at, message))

    # -------------------------------------------------------------------- events

    def _spte_changed(self, at: Where, event: SpteChanged, late: bool) -> None:
        if not self._started:
            self._begin(mid_life=True)
        if self.version is None:
            self._guess_version(event)
        if late and not self._sorted:
            self.judge.late(at, event, self._last_line.get(at.cpu, 0))
        else:
            self.judge.spte_changed(at, event)
            mirrors = self.mirrors
            if mirrors.watching and (mirrors.seen or self.tables.format is not NPT):
                mirrors.changed(at, event)
        self.stats.changed(at, event)
        if self.watch is not None:
            self.watch.changed(at, event)
        leafs, peak, level = self.tables.leafs, self._peak, event.level
        if 1 <= level <= 3:
            if leafs[level] > peak[level]:
                peak[level] = leafs[level]
            if level > 1 and leafs[level - 1] > peak[level - 1]:
                peak[level - 1] = leafs[level - 1]  # a split
        self._until_sample -= 1
        if self._until_sample < 0:
            self._sample(at.time)

    def _begin(self, *, mid_life: bool) -> None:
        self._started = True
        if mid_life:
            self.result.mid_life = True
            self.judge.closed = False

    def _other(self, at: Where, name: str, event: Event) -> None:
        if name in _VCPU_ACTIVITY:
            self.judge.vcpu(at.pid)
            if not self._started:
                self._begin(mid_life=True)
            if at.pid not in self.roots.now:
                self.roots.vcpu(at.pid, at.line, self.judge.closed)
        elif isinstance(event, GetPage):
            self._get_page(at, event)
        elif isinstance(event, PrepareZapPage):
            self.judge.removals.prepare_zap(at, event)
        elif isinstance(event, ZapAllFast):
            self.roots.zap_all_fast(at)
        self.judge.other(at, event)
        self.stats.other(at, event)
        if self.mirrors.seen and not isinstance(event, PrepareZapPage):
            self.mirrors.other(at.pid)

    def _get_page(self, at: Where, event: GetPage) -> None:
        tables = self.result.tables
        if not event.by_plugin and event.direct:
            if len(event.access) == 4:
                self._settle_version(KERNELS["7.3"])
            else:
                self._old_access = True
        if not event.created or not event.direct:
            return
        tables.allocated += 1
        if event.level >= 4 and event.gfn == 0 and self._is_root(event.level):
            tables.roots += 1
            self.roots.new(
                *(at, event.level),
                mirror=event.mirror,
                smm=event.as_id == 1,
                known=self.judge.is_vcpu(at.pid),
                alone=not self.tables.live and not any(self.tables.announced),
            )
            tables.mirror_roots += event.mirror
            tables.smm_roots += event.as_id == 1
            self._raw_roles = event.as_id is not None
            self.tables.announce_root(event.level, self.roots.owner(at.pid))
            if not self._started:
                self._begin(mid_life=False)

    def _is_root(self, level: int) -> bool:
        """With 5 levels, a level 4 page is a child (a level 5 page came before it)."""
        return level == 5 or not any(key >> 8 & 0xFF == 5 for key in self.tables.groups)

    def _guess_version(self, event: SpteChanged) -> None:
        """Frozen values tell all three families apart, empty ones 6.1 from the others."""
        for version in KERNELS.values():
            if event.new_spte == version.frozen:
                self._settle_version(version)
                return
        if self.tables.empty == 0:
            self._settle_version(KERNELS["6.1"])
        elif self._old_access and self.tables.empty > 0:
            self._settle_version(KERNELS["6.12"])

    def _settle_version(self, version: KernelVersion) -> None:
        if self.version is None:
            self.version = version
            self.judge.kernel(version)
            self.result.kernel = version.name
            self.tables.empty = version.empty

    def _sample(self, time: float) -> None:
        """Keep at most MAX_SAMPLES: when full, drop every second and halve the rate."""
        result, heat = self.result, self.result.heat
        result.samples.append(self._state(time))
        heat.append(self.stats.take_heat())
        if len(result.samples) >= MAX_SAMPLES:
            for index in range(1, len(heat), 2):  # its changes belong to the next one kept
                into = heat[index + 1] if index + 1 < len(heat) else self.stats.heat
                for region, count in heat[index].items():
                    into[region] = into.get(region, 0) + count
            del result.samples[1::2], heat[1::2]
            self._stride *= 2
        self._until_sample = self._stride - 1

    def _state(self, time: float) -> Sample:
        leafs, stats = self.tables.leafs, self.stats
        now = (leafs[1], leafs[2], leafs[3])
        return Sample(self.result.lines, time, now, self.tables.live, stats.faults, stats.zaps)

    # ----------------------------------------------------------------------- end

    def finish(self, lines: Lines | None = None) -> ReplayResult:
        result = self.result
        if self._changes:
            name = "kvm_tdp_mmu_spte_changed"
            result.events[name] = result.events.get(name, 0) + self._changes
        if lines is not None:
            self._input_problems(lines)
        cut = result.cut is not None or (lines is not None and lines.unterminated is not None)
        self.judge.finish(cut=cut)
        if self._torn and not result.headed:
            self.judge.withdraw(-1)
            result.notes.append(
                "a pipe without header, with cut lines: lines may be missing without a mark, so"
                " nothing is judged. Read trace_pipe with a program that uses read(), not"
                " sendfile(), into a file"
            )
        if self._lossy:
            self.judge.withdraw(min(self._last_line.get(cpu, 0) for cpu in self._lossy))
        if self._steps_back and 0 < self._entries < self._records:
            self.judge.withdraw(-1, keep=ORDER_FREE - {"ORDER"})
            result.notes.append(
                f"{self._records - self._entries} lines more than the header counts: the file was"
                " read while tracing was on, so its order is not certain and values are not"
                " judged. Stop tracing (echo 0 > tracing_on) before reading it"
            )
        if self._records > COARSE * self._ticks:
            self.judge.withdraw(-1, keep=ORDER_FREE)
            result.notes.append(
                f"{self._records // self._ticks} lines per time stamp: the clock is too coarse"
                " to order lines of different CPUs, so values are not judged. Use trace_clock"
                " local, global, mono or counter"
            )
        self.mirrors.finish(cut=cut)
        found = [*self.judge.findings, *self.mirrors.findings]
        found = [replace(f, vm=self.roots.vm_at(f.pid, f.line)) for f in found]
        result.findings = sorted(found, key=lambda finding: finding.line)
        result.notes += [*self.mirrors.notes, *self.stats.notices.notes]
        self._totals()
        self._notes()
        result.unobservable = unobservable(
            result.events,
            mid_life=result.mid_life,
            lost=bool(self._lossy or result.lost_events),
            unseen=self.tables.unseen,
            guests_paging="kvm_mmu_paging_element" in result.events,
        )
        result.unobservable += tdx_unobservable(
            ept=self.tables.format is EPT,
            calls=self.mirrors.calls,
            mirror_roots=result.tables.mirror_roots,
            raw_roles=self._raw_roles,
            get_page="kvm_mmu_get_page" in result.events,
        )
        result.partial = bool(
            cut
            or result.lost_events
            or self._lossy
            or result.unreadable
            or self._entries > self._records
        )
        return result

    def _input_problems(self, lines: Lines) -> None:
        result = self.result
        for number in lines.too_long:
            self._unread(number, f"longer than {MAX_LINE} characters: not text")
        if lines.unterminated is not None:
            result.lines += 1
            self._unread(result.lines, "no line end after the last line: it may be cut")
        if lines.cut is not None:
            result.cut = lines.cut
            result.notes.append(f"after line {result.lines}: {lines.cut}")

    def _totals(self) -> None:
        result, shadow = self.result, self.tables
        result.summary = self.stats.summary(result.events)
        result.leafs = (shadow.leafs[1], shadow.leafs[2], shadow.leafs[3])
        result.peak = (self._peak[1], self._peak[2], self._peak[3])
        if result.samples:
            result.first_time, result.last_time = result.samples[0].time, self._latest
            result.samples.append(self._state(self._latest))
            result.heat.append(self.stats.take_heat())
        result.roots = self.roots.made
        result.vms = self.roots.vms
        result.format = shadow.format.name if shadow.format is not None else None
        tables = result.tables
        tables.linked, tables.removed, tables.unseen = shadow.linked, shadow.removed, shadow.unseen
        tables.live = shadow.live

    def _notes(self) -> None:
        notes, judge = self.result.notes, self.judge
        if self._entries > self._records:
            notes.append(
                f"the header counts {self._entries} entries, the file has {self._records}:"
                f" {self._entries - self._records} are missing"
            )
        if self._steps_back and not self._sorted:
            notes.append(
                f"time stamps step back {self._steps_back} times: such lines came late, the"
                " entries they name are unknown until seen again"
            )
        if judge.swapped:
            lines = "line was" if judge.swapped == 1 else "lines were"
            notes.append(
                f"{judge.swapped} {lines} printed later than a line of another CPU that follows it"
            )
        if judge.not_judged:
            notes.append(
                f"{judge.not_judged} old values do not follow, but may belong to a tree whose"
                " start was not recorded"
            )
        if judge.withdrawn:
            notes.append(
                f"findings withdrawn, lost or late lines may explain them: {judge.withdrawn}"
            )
