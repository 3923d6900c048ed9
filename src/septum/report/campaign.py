# SPDX-License-Identifier: GPL-2.0-only
"""A campaign as text: what is done, what is left, how fast, and how to go on."""

from __future__ import annotations

from septum.report.layout import WIDTH, clean, columns, command, duration, facts, fill
from septum.scenarios.campaign import Glance

__all__ = ["campaign_text", "go_on_lines"]


def campaign_text(glance: Glance, *, width: int = WIDTH) -> str:
    """``septum campaign DIR``."""
    states = [row.state for row in glance.rows]
    parts = [f"{states.count(s)} {s}" for s in ("done", "running", "waiting") if s in states]
    executions = sum(row.executions for row in glance.rows)
    rate = f", {glance.rate:.0f}/s" if glance.rate and glance.running else ""
    work = sum(row.seconds for row in glance.rows)
    now = "a process is working on it" if glance.running else "nobody is working on it"
    lines = facts(
        [
            ("campaign", f"{glance.directory} (septum {glance.septum}); {now}"),
            ("rows", f"{len(states)}: {', '.join(parts)}"),
            ("executions", f"{executions}{rate}; {duration(work)} of work"),
        ],
        width=width,
    )
    table = [("scenario", "design", "state", "executions", "work", "")]
    for row in glance.rows:
        table.append(
            (
                clean(row.scenario),
                clean(row.design),
                row.state,
                str(row.executions) if row.executions else "",
                duration(row.seconds) if row.executions else "",
                clean(row.told),
            )
        )
    lines += ["", *columns(table, indent="  ", right=(3, 4))]
    if not glance.ours:
        another = "Begun by another septum than this one; only that one goes on with it."
        lines += ["", *fill(another, width)]
    elif not glance.running and states.count("done") < len(states):
        lines += ["", "To go on:", *go_on_lines(glance)]
    elif states.count("done") == len(states):
        lines += ["", "Done.  To print the verdicts again:", *go_on_lines(glance)]
    return "\n".join(lines) + "\n"


def go_on_lines(glance: Glance) -> list[str]:
    """The command that goes on."""
    return command(["septum", *glance.command])
