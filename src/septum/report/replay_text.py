# SPDX-License-Identifier: GPL-2.0-only
"""A `ReplayResult` as plain text of at most 78 columns, fit for mail.

`replay_lines` is the report of one recording.  Order: what was read, what it shows,
what is wrong, what was not readable, what cannot be seen.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Final

from septum.kvm.versions import FORMATS, NPT
from septum.trace.catalogue import RULES
from septum.trace.result import LEVEL_NAMES, ReplayResult, Sample, Tables
from septum.trace.rules import Finding, Past, describe_spte
from septum.trace.watch import vm_name

__all__ = ["WIDTH", "replay_lines"]

WIDTH: Final = 78
_SHOWN_FINDINGS: Final = 20
_SHOWN_SAMPLES: Final = 12
_SHOWN_ROOTS: Final = 12
_BAR: Final = 24


def replay_lines(result: ReplayResult) -> list[str]:
    """The report, one string per line, without line ends."""
    return [
        *_wrap(result.file, ""),
        *_summary(result),
        *_events(result),
        *_happened(result),
        *_tables(result),
        *_roots(result),
        *_leafs_over_time(result),
        *_unreadable(result),
        *_notes(result),
        *_findings(result),
        *_unobservable(result),
    ]


def _wrap(text: str, indent: str, more: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=more or " " * len(indent),
        break_on_hyphens=False,
    )


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _summary(result: ReplayResult) -> list[str]:
    kernel = f"kernel {result.kernel}" if result.kernel else "kernel not told"
    tables = f", {result.format.upper()}" if result.format else ""
    whole = "a part is missing" if result.partial else "nothing is missing"
    if result.mid_life:
        whole = f"begins mid-life; {whole}"
    return _wrap(
        f"{_plural(result.event_count, 'event')} in {_plural(result.lines, 'line')};"
        f" {kernel}{tables}; {whole}",
        "  ",
    )


def _events(result: ReplayResult) -> Iterator[str]:
    if not result.events:
        return
    yield ""
    yield "Events"
    for name, count in sorted(result.events.items(), key=lambda item: (-item[1], item[0])):
        yield f"  {name[:60]:<60} {count:>12}"


def _happened(result: ReplayResult) -> Iterator[str]:
    if "kvm_tdp_mmu_spte_changed" not in result.events:
        return
    yield ""
    yield "What happened"
    for heading, counts in result.summary.items():
        for what, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            yield f"  {f'{heading}: {what}'[:60]:<60} {count:>12}"


def _tables(result: ReplayResult) -> Iterator[str]:
    if "kvm_tdp_mmu_spte_changed" not in result.events:
        return
    tables = result.tables
    yield ""
    yield "Table pages"
    yield (
        f"  roots {tables.roots}{_kinds(tables)}, allocated {tables.allocated},"
        f" linked {tables.linked}, removed {tables.removed}, live {tables.live},"
        f" met unlinked {tables.unseen}"
    )[:WIDTH]


def _roots(result: ReplayResult) -> Iterator[str]:
    """Roots by VM; a single one needs no list."""
    roots = result.roots
    if len(roots) < 2:
        return
    yield ""
    yield "Roots by VM"
    shown = sorted(roots, key=lambda root: (root.vm, root.number))[:_SHOWN_ROOTS]
    vm = 0
    for root in shown:
        if root.vm != vm:
            vm = root.vm
            process = f", process {root.tgid}" if root.tgid is not None else ""
            yield f"  VM {vm}{process}"
        kind = " of the mirror" * root.mirror + " of SMM" * root.smm
        text = f"root {root.number}{kind}: line {root.line}, made by {root.task}"
        if root.follows is not None:
            text += f"; successor of root {root.follows}"
        if root.invalidated is not None:
            text += f"; invalid from line {root.invalidated} on (kvm_mmu_zap_all_fast)"
        yield from _wrap(text, "    ", "      ")
    if len(roots) > len(shown):
        yield f"  and {len(roots) - len(shown)} more (--format json has all)"


def _leafs_over_time(result: ReplayResult) -> Iterator[str]:
    if not result.samples:
        return
    yield ""
    yield "Present leafs"
    yield f"  {'time':>14} {'4K':>9} {'2M':>7} {'1G':>5} {'tables':>7}"
    top = max(1, *(sample.leafs[0] for sample in result.samples))
    for sample in _spread(result.samples):
        small, large, giant = sample.leafs
        bar = "#" * (sample.leafs[0] * _BAR // top)
        row = f"  {sample.time:>14.6f} {small:>9} {large:>7} {giant:>5} {sample.tables:>7}"
        yield f"{row} {bar}".rstrip()[:WIDTH]
    peaks = zip(LEVEL_NAMES, result.peak, strict=True)
    yield "  peak " + ", ".join(f"{name} {count}" for name, count in peaks)


def _spread(samples: list[Sample]) -> list[Sample]:
    """Evenly spread over the samples, the last one included."""
    if len(samples) <= _SHOWN_SAMPLES:
        return samples
    last = len(samples) - 1
    return [samples[i * last // (_SHOWN_SAMPLES - 1)] for i in range(_SHOWN_SAMPLES)]


def _unreadable(result: ReplayResult) -> Iterator[str]:
    if not result.unreadable and not result.lost_events:
        return
    yield ""
    if result.lost_events:
        yield f"Lost: {_plural(result.lost_events, 'event')}"
    if result.unreadable:
        yield f"Not read: {_plural(result.unreadable, 'line')}"
        for line, reason in result.first_unreadable:
            yield from _wrap(f"line {line}: {reason}", "  ", "    ")
        rest = result.unreadable - len(result.first_unreadable)
        if rest:
            yield f"  and {rest} more"


def _notes(result: ReplayResult) -> Iterator[str]:
    if result.notes:
        yield ""
        yield "About the recording"
        for note in result.notes:
            yield from _wrap(note, "  ", "    ")


def _findings(result: ReplayResult) -> Iterator[str]:
    yield ""
    if not result.findings:
        yield "Findings: none"
        return
    yield f"Findings: {len(result.findings)}"
    findings, vm = result.findings, -1
    if result.vms > 1:
        findings = sorted(findings, key=lambda finding: (not finding.vm, finding.vm, finding.line))
    for finding in findings[:_SHOWN_FINDINGS]:
        if result.vms > 1 and finding.vm != vm:
            vm = finding.vm
            yield f"  by tasks of {vm_name(vm)}"
        head = f"{finding.rule}, line {finding.line}"
        if finding.task:
            head += f", time {finding.time:.6f}, CPU {finding.cpu}, {finding.task}"
        yield from _wrap(head, "  ", "    ")
        yield from _wrap(finding.message, "    ", "    ")
        yield from _history(result, finding)
        yield from (f"    {line}"[:WIDTH] for line in finding.detail)
    if len(result.findings) > _SHOWN_FINDINGS:
        yield f"  and {len(result.findings) - _SHOWN_FINDINGS} more (--format json has all)"
    for rule in sorted({finding.rule for finding in result.findings}):
        yield from _wrap(f"{rule}: {RULES[rule].statement} ({RULES[rule].source})", "  ", "    ")


def _history(result: ReplayResult, finding: Finding) -> Iterator[str]:
    """The change itself, and those of its GFN before it, one row each."""
    if finding.gfn is None or finding.level is None:
        return
    fmt = FORMATS.get(result.format or "", NPT)
    rows = list(finding.history)
    if finding.new is not None and finding.old is not None:
        rows.append(Past(finding.line, finding.cpu, -1, finding.level, finding.old, finding.new))
    for past in rows:
        mark = ">" if past.line == finding.line else " "
        old, new = (describe_spte(value, past.level, fmt) for value in (past.old, past.new))
        yield f"    {mark} {past.line:>9} CPU {past.cpu:<3} L{past.level}  {old} -> {new}"[:WIDTH]


def _unobservable(result: ReplayResult) -> Iterator[str]:
    if result.unobservable:
        yield ""
        yield "Cannot be seen"
        for sentence in result.unobservable:
            yield from _wrap(sentence, "  ", "    ")


def _kinds(tables: Tables) -> str:
    """Kinds of roots, where the recording tells them."""
    kinds = [f"{tables.mirror_roots} mirror"] * (tables.mirror_roots > 0)
    kinds += [f"{tables.smm_roots} SMM"] * (tables.smm_roots > 0)
    return f" ({', '.join(kinds)})" if kinds else ""
