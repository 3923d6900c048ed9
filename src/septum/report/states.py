# SPDX-License-Identifier: GPL-2.0-only
"""Both trees after a step: `Replay.states` as text, and which table is which.

A state has ``mirror``, a list of (table, level, first GFN, SPTE), and ``sept``, a list of
(level, first GFN, raw entry) without FREE entries.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from septum.report.values import spte_text
from septum.scenarios.result import Replay
from septum.tdx import sept

__all__ = ["changes", "entries", "table_names"]

_EMPTY = ("NONPRESENT", "FREE")


def entries(state: Mapping[str, Any]) -> dict[str, str]:
    """Every entry of both trees by a name that says where it is."""
    out = {}
    for table, level, gfn, spte in state.get("mirror", ()):
        out[f"mirror level {level} gfn {gfn:x} ({table})"] = spte_text(spte, level)
    for level, gfn, raw in state.get("sept", ()):
        out[f"S-EPT level {level} gfn {gfn:x}"] = sept.show(raw)
    return out


def changes(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> list[str]:
    """What separates two states, one line per entry; without ``before``, what there is."""
    new = entries(after)
    if before is None:
        return [f"{name} is {text}" for name, text in new.items() if text not in _EMPTY]
    old = entries(before)
    lines = []
    for name in dict.fromkeys([*old, *new]):
        was = old.get(name, "FREE" if name.startswith("S-EPT") else "")
        now = new.get(name, "FREE" if name.startswith("S-EPT") else "no longer reachable")
        if not was and now != "NONPRESENT":
            lines.append(f"{name} is {now}")
        elif was and was != now:
            lines.append(f"{name}: {was} -> {now}")
    return lines


def table_names(replay: Replay) -> dict[str, str]:
    """Mirror tables by name: their level and first GFN."""
    seen: dict[str, tuple[int, int]] = {}
    for state in replay.states.values():
        for table, level, gfn, _ in state.get("mirror", ()):
            first = seen.get(table, (level, gfn))[1]
            seen[table] = (level, min(gfn, first))
    return {
        table: f"level {level} from gfn {gfn:x}"
        for table, (level, gfn) in sorted(seen.items(), key=lambda t: (-t[1][0], t[1][1]))
    }
