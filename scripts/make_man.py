#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Write docs/man: a man page per command, from the commands' own help.

    python scripts/make_man.py [--check]

``--check`` writes nothing and exits 1 if a page is stale.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from septum import __version__
from septum.cli import main as septum

MAN = Path(__file__).parents[1] / "docs" / "man"


def roff(text: str) -> str:
    """Text for troff: hyphens as typed, no line that is taken for a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", escaped, flags=re.MULTILINE)


def page(path: str, command: click.Command, subcommands: list[tuple[str, str]]) -> str:
    """One page: ``path`` is ``septum`` or ``septum check``."""
    ctx = click.Context(command, info_name=path)
    name = path.replace(" ", "-")
    paragraphs = [re.sub(r"\s+", " ", p).strip() for p in (command.help or "").split("\n\n")]
    first = re.split(r"(?<=[.:]) ", paragraphs[0], maxsplit=1)[0].rstrip(".:")
    lines = [
        f'.TH {name.upper()} 1 "" "septum {__version__}" "septum manual"',
        ".SH NAME",
        f"{roff(name)} \\- {roff(first)}",
        ".SH SYNOPSIS",
        f".B {roff(path)}",
        roff(" ".join(command.collect_usage_pieces(ctx))),
        ".SH DESCRIPTION",
        "\n.PP\n".join(roff(p) for p in paragraphs),
    ]
    options = [p for p in command.get_params(ctx) if isinstance(p, click.Option)]
    records = [r for p in options if (r := p.get_help_record(ctx))]
    if records:
        lines.append(".SH OPTIONS")
        for option, text in records:
            lines += [".TP", f".B {roff(option)}", roff(text)]
    if subcommands:
        lines.append(".SH COMMANDS")
        for sub, text in subcommands:
            lines += [".TP", f".BR {roff(sub)} (1)", roff(text)]
    lines += [
        ".SH EXIT STATUS",
        "2 for wrong usage or input, else 1 if a rule broke, else 3 if something is",
        "inconclusive or stale, else 0; 130 after Ctrl\\-C.",
        ".SH SEE ALSO",
        ".BR septum (1)" if path != "septum" else "The documentation in docs/ of the source.",
    ]
    return "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    """File name -> text, for every command and its subcommands."""
    assert isinstance(septum, click.Group)
    ctx = click.Context(septum, info_name="septum")
    out: dict[str, str] = {}
    listed = []
    for name in septum.list_commands(ctx):
        command = septum.get_command(ctx, name)
        assert command is not None
        listed.append((f"septum-{name}", command.get_short_help_str(200)))
        subs: list[tuple[str, click.Command]] = []
        if isinstance(command, click.Group):
            subs = sorted(command.commands.items())
        text = page(f"septum {name}", command, [])
        for sub, part in subs:
            short = part.get_short_help_str(200)
            inner = page(f"septum {name} {sub}", part, [])
            body = inner[inner.index(".SH SYNOPSIS") : inner.index(".SH EXIT")]
            text = text.replace(
                ".SH EXIT STATUS",
                f".SH {roff(f'septum {name} {sub}').upper()}\n{roff(short)}\n.PP\n"
                + body.replace(".SH", ".SS")
                + ".SH EXIT STATUS",
            )
        out[f"septum-{name}.1"] = text
    out["septum.1"] = page("septum", septum, listed)
    return out


def main(check: bool) -> int:
    stale = []
    wanted = pages()
    MAN.mkdir(parents=True, exist_ok=True)
    for name, text in wanted.items():
        path = MAN / name
        if not path.exists() or path.read_text() != text:
            stale.append(name)
            if not check:
                path.write_text(text)
    for path in MAN.glob("*.1"):
        if path.name not in wanted:
            stale.append(path.name)
            if not check:
                path.unlink()
    if stale:
        print(("stale: " if check else "written: ") + ", ".join(sorted(stale)))
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
