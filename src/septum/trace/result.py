# SPDX-License-Identifier: GPL-2.0-only
"""What replay found in one recording, as data.

`ReplayResult.to_json` is the `replay` result of the output contract: `file`, `events`,
`findings`, `leafs`, `lost_events`, `unreadable_lines`, `unobservable`, `partial`; and
`kernel`, `format`, `tables`, `notes`, `mid_life` beside them (schema: docs/schemas).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final, NamedTuple

from septum.kvm.versions import FORMATS, NPT
from septum.trace.roots import Root
from septum.trace.rules import Finding, describe_spte

__all__ = ["LEVEL_NAMES", "ReplayResult", "Sample", "Tables", "Unreadable"]

LEVEL_NAMES: Final = ("4K", "2M", "1G")


class Sample(NamedTuple):
    """Known present leafs per level, and table pages with roots, after a line; faults and
    zaps so far."""

    line: int
    time: float
    leafs: tuple[int, int, int]
    tables: int
    faults: int = 0
    zaps: int = 0


class Unreadable(NamedTuple):
    line: int
    reason: str


@dataclass(slots=True)
class Tables:
    """Page table pages.  ``mirror_roots`` and ``smm_roots`` are known only where the role is
    a number (trace.dat, trace-cmd report -R).  ``allocated`` counts kvm_mmu_get_page lines,
    also of pages that lost the race to be linked; ``unseen`` are in use though no line linked
    them; ``live`` are known at the end, roots included."""

    roots: int = 0
    mirror_roots: int = 0
    smm_roots: int = 0
    allocated: int = 0
    linked: int = 0
    removed: int = 0
    unseen: int = 0
    live: int = 0


@dataclass(slots=True)
class ReplayResult:
    file: str
    kernel: str | None = None
    format: str | None = None
    events: dict[str, int] = field(default_factory=dict)
    lines: int = 0
    first_time: float = 0.0
    last_time: float = 0.0
    tables: Tables = field(default_factory=Tables)
    leafs: tuple[int, int, int] = (0, 0, 0)
    peak: tuple[int, int, int] = (0, 0, 0)
    roots: list[Root] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    heat: list[dict[int, int]] = field(default_factory=list)
    """Per sample, the changes since the sample before, by GFN >> 9."""
    summary: dict[str, dict[str, int]] = field(default_factory=dict)
    """What happened, counted: `septum.trace.stats`."""
    lost_events: int = 0
    unreadable: int = 0
    first_unreadable: list[Unreadable] = field(default_factory=list)
    unobservable: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is odd about the recording itself."""
    headed: bool = False
    """It has a tracefs header, so that it may well hold no event."""
    vms: int = 0
    """How many VMs could be told apart."""
    mid_life: bool = False
    """The first lines are of a VM that ran already."""
    partial: bool = False
    """Something could not be read, or was lost before it was recorded."""
    cut: str | None = None
    """Why the file could not be read to its end, if so."""
    findings: list[Finding] = field(default_factory=list)

    @property
    def event_count(self) -> int:
        return sum(self.events.values())

    def to_json(self) -> dict[str, Any]:
        """One entry of ``results`` of ``septum replay --format json``."""
        return {
            "file": self.file,
            "kernel": self.kernel,
            "format": self.format,
            "events": dict(sorted(self.events.items())),
            "findings": [self._finding(finding) for finding in self.findings],
            "leafs": {
                "final": dict(zip(LEVEL_NAMES, self.leafs, strict=True)),
                "peak": dict(zip(LEVEL_NAMES, self.peak, strict=True)),
                "samples": [
                    {
                        "line": s.line,
                        "time": s.time,
                        "tables": s.tables,
                        "faults": s.faults,
                        "zaps": s.zaps,
                    }
                    | dict(zip(LEVEL_NAMES, s.leafs, strict=True))
                    for s in self.samples
                ],
            },
            "tables": asdict(self.tables),
            "roots": [asdict(root) for root in self.roots],
            "vms": self.vms,
            "summary": self.summary,
            "lost_events": self.lost_events,
            "unreadable_lines": {
                "count": self.unreadable,
                "first": [entry._asdict() for entry in self.first_unreadable],
            },
            "unobservable": self.unobservable,
            "notes": self.notes,
            "mid_life": self.mid_life,
            "partial": self.partial,
        }

    def _finding(self, finding: Finding) -> dict[str, Any]:
        """Values as hexadecimal text: they do not fit into every reader's numbers."""
        fields = asdict(finding)
        del fields["judged"], fields["pid"]
        fmt = FORMATS.get(self.format or "", NPT)
        level = finding.level or 1
        for name in ("old", "new"):
            value = getattr(finding, name)
            fields[name] = None if value is None else f"{value:x}"
            fields[f"{name}_text"] = None if value is None else describe_spte(value, level, fmt)
        fields["history"] = [
            past._asdict() | {"old": f"{past.old:x}", "new": f"{past.new:x}"}
            for past in finding.history
        ]
        return fields
