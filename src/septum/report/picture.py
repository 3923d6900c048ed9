# SPDX-License-Identifier: GPL-2.0-only
"""An execution as a sequence diagram (SVG): the tasks, the mirror entry, the S-EPT entry.

For explanations: only what happens to one entry is drawn, and what the tasks call on the
way.  The picture follows the page's light or dark scheme.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Final

from septum.kvm.spte import FROZEN_SPTE
from septum.report.html.stories import state_map
from septum.report.interleaving import function_of
from septum.scenarios.result import Replay

__all__ = ["Focus", "sequence_svg"]

_LANE: Final = 190
_ROW: Final = 34
_TOP: Final = 64
_LEFT: Final = 100

_STYLE: Final = """
svg{--i:#1c1f23;--s:#5c6470;--l:#c4c8ce;--a:#1f5fbf;--f:#0b5c7a;--g:#dff1f8;--p:#fff;
font:12px system-ui,"Liberation Sans",sans-serif;background:var(--p)}
@media(prefers-color-scheme:dark){svg{--i:#e6e8ea;--s:#a2aab3;--l:#4a525a;--a:#7fb0ff;
--f:#8fd6f0;--g:#153440;--p:#14171a}}
text{fill:var(--i)}.s{fill:var(--s)}.h{font-weight:600}.m{font-family:ui-monospace,monospace;
font-size:11px}.life{stroke:var(--l);stroke-dasharray:3 3}.arrow{stroke:var(--a);fill:none}
.tip{fill:var(--a)}.box{fill:var(--p);stroke:var(--l)}.frozen .box{fill:var(--g);stroke:var(--f)}
.frozen text{fill:var(--f)}
"""


@dataclass(frozen=True, slots=True)
class Focus:
    """The entry to draw: GFN and KVM level of the entry."""

    gfn: int
    level: int


def sequence_svg(replay: Replay, focus: Focus, *, title: str) -> str:
    """The diagram.

    :param replay: with its states.
    """
    lanes = [*replay.task_names, "mirror SPTE", "S-EPT entry"]
    where = f"level {focus.level} gfn {focus.gfn:x}"
    rows = _rows(replay, focus)
    width = _LEFT + _LANE * len(lanes)
    height = _TOP + _ROW * (len(rows) + 1) + 10
    x = [_LEFT + _LANE * n for n in range(len(lanes))]
    mirror, sept = len(lanes) - 2, len(lanes) - 1
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}"><style>{_STYLE}</style>'
    ]
    for n, name in enumerate(lanes):
        out.append(f'<text class="h" x="{x[n]}" y="22" text-anchor="middle">{escape(name)}</text>')
        if n >= mirror:
            out.append(f'<text class="s" x="{x[n]}" y="38" text-anchor="middle">{where}</text>')
        out.append(f'<line class="life" x1="{x[n]}" x2="{x[n]}" y1="44" y2="{height - 8}"/>')
    first = state_map(replay.states[min(replay.states)])
    for lane, tree in ((mirror, "mirror"), (sept, "sept")):
        out.append(_box(x[lane], _TOP, _entry(first, tree, focus)))
    for n, row in enumerate(rows, 1):
        y = _TOP + _ROW * n
        if row.target is None:
            out.append(_note(x[row.task], y, row.text))
            continue
        to = x[mirror if row.target == "mirror" else sept]
        out.append(_arrow(x[row.task], to, y, row.text))
        if row.state:
            out.append(_box(to, y, row.state))
    out.append("</svg>\n")
    return "\n".join(out)


@dataclass(frozen=True, slots=True)
class _Row:
    task: int
    text: str
    target: str | None  # "mirror", "sept", or a note of the task
    state: str = ""


def _entry(state: Mapping[str, str], tree: str, focus: Focus) -> str:
    text = state.get(f"{tree}|{focus.level}|{focus.gfn:x}", "")
    if tree == "sept":
        return text.split()[0] if text else "FREE"
    return text or "no table yet"


def _rows(replay: Replay, focus: Focus) -> list[_Row]:
    """Steps that change or meet the entry, SEAMCALLs with their status, and kicks."""
    rows: list[_Row] = []
    now = state_map(replay.states[min(replay.states)])
    drawn = {tree: _entry(now, tree, focus) for tree in ("mirror", "sept")}

    def news(tree: str) -> str:
        """The entry's state if the picture does not show it yet."""
        text = _entry(now, tree, focus)
        if text == drawn[tree]:
            return ""
        drawn[tree] = text
        return text

    for at, event in enumerate(replay.events):
        if at in replay.states:
            now = state_map(replay.states[at])
        for text in replay.traces.get(at, ()):
            if text.startswith(("TDH.", "TDG.")):
                rows.append(_Row(event.task, text, "sept", news("sept")))
        state = news("mirror")
        if state:
            rows.append(_Row(event.task, f"{function_of(event)}()", "mirror", state))
        elif event.op == "read" and event.seen == FROZEN_SPTE:
            rows.append(_Row(event.task, "reads FROZEN: RET_PF_RETRY", "mirror"))
        elif event.op == "kick":
            rows.append(_Row(event.task, f"kicks {event.obj.split('.')[0]}", None))
    return rows


def _note(x: int, y: int, text: str) -> str:
    return f'<text class="m" x="{x + 6}" y="{y + 4}">{escape(text)}</text>'


def _arrow(x1: int, x2: int, y: int, text: str) -> str:
    tip = x2 - 74
    return (
        f'<line class="arrow" x1="{x1}" x2="{tip}" y1="{y}" y2="{y}"/>'
        f'<path class="tip" d="M{tip} {y - 4}l8 4-8 4z"/>'
        f'<text class="m" x="{x1 + 8}" y="{y - 5}">{escape(text)}</text>'
    )


def _box(x: int, y: int, text: str) -> str:
    kind = ' class="frozen"' if "FROZEN" in text else ""
    return (
        f'<g{kind}><rect class="box" x="{x - 66}" y="{y - 12}" width="132" height="24" rx="5"/>'
        f'<text class="m" x="{x}" y="{y + 4}" text-anchor="middle">{escape(text[:22])}</text></g>'
    )
