# SPDX-License-Identifier: GPL-2.0-only
"""A Sphinx extension that writes docs/reference: every command, rule, scenario, design and
SEAMCALL, from the package itself, so that no page can be out of date."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import click

from septum.cli import main
from septum.designs import design_names, lookup, toggle_names
from septum.kvm.monitors import MONITORS
from septum.report.counterexample import inject_text, start_text, task_table
from septum.scenarios import SCENARIOS
from septum.tdx.console.calls import CALLS
from septum.tdx.console.manual import call_manual

REFERENCE = Path(__file__).parent / "reference"


def commands() -> str:
    """Every command as sphinx-click shows it, which speaks reStructuredText only."""
    assert isinstance(main, click.Group)
    lines = ["Commands", "========", ""]
    for name in main.list_commands(click.Context(main)):
        lines += [
            f".. click:: septum.cli.{name}:command",
            f"   :prog: septum {name}",
            "   :nested: full",
            "",
        ]
    return "\n".join(lines)


def monitors() -> str:
    lines = ["# Rules", "", "Each is a monitor that judges every execution.", ""]
    for rule in sorted(MONITORS.values(), key=lambda r: int(r.id[1:])):
        lines += [
            f"## {rule.id}",
            "",
            rule.statement,
            "",
            f"Judged\n: {rule.judged}",
            "",
            f"Source\n: {rule.source}",
            "",
            f"Example of a violation\n: {rule.example}",
            "",
        ]
    return "\n".join(lines)


def scenarios() -> str:
    lines = ["# Scenarios", ""]
    for s in SCENARIOS.values():
        lines += [f"## {s.name}", "", f"{s.summary[0].upper()}{s.summary[1:]}.", "", s.question]
        lines += ["", "```text", *(line[2:] for line in task_table(s)), "```", ""]
        lines += [f"Start\n: {start_text(s.start)}", ""]
        if inject_text(s):
            lines += [f"Injected\n: {inject_text(s)}", ""]
        if s.must_occur:
            lines += ["Must occur\n: " + "; ".join(s.must_occur), ""]
        if s.needs:
            lines += [f"Needs\n: {', '.join(sorted(s.needs))}", ""]
    return "\n".join(lines)


def designs() -> str:
    lines = ["# Designs and toggles", ""]
    for name in design_names():
        design = lookup(name)
        lines += [f"## {name}", "", "```text", inspect.cleandoc(design.doc), "```", ""]
    lines += ["## Toggles", "", "Add one to a design with `+`, as in `v7.3+shared-param`.", ""]
    lines += [f"* `+{name}`" for name in toggle_names()]
    return "\n".join(lines) + "\n"


def seamcalls() -> str:
    lines = ["# SEAMCALLs and TDCALLs", "", "As `septum tdx help CALL` prints them.", ""]
    for name in CALLS:
        lines += [f"## {name}", "", "```text", call_manual(name), "```", ""]
    return "\n".join(lines)


PAGES = {
    "commands.rst": commands,
    "designs.md": designs,
    "monitors.md": monitors,
    "scenarios.md": scenarios,
    "seamcalls.md": seamcalls,
}


def write(app: Any) -> None:
    REFERENCE.mkdir(exist_ok=True)
    for old in REFERENCE.iterdir():
        old.unlink()
    for name, text in PAGES.items():
        (REFERENCE / name).write_text(text())


def setup(app: Any) -> dict[str, Any]:
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}
