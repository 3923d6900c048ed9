# SPDX-License-Identifier: GPL-2.0-only
"""Regenerates the output shown in the documentation.

A Markdown file shows real output in blocks of the form

    <!-- output: septum check v7.3 -s fault-fault -->
    ```console
    ...
    ```

The comment holds a shell command; `septum` in it is this tree.  Its stdout replaces the
fenced text (stderr too after ``2>&1``).  ``<!-- output from=/A/ to=/B/: ... -->`` shows
only the lines from the first that matches the regular expression A up to, not including,
the next that matches B; ``[...]`` marks what is left out.  ``<!-- output slow: ... -->`` is
skipped by ``--cheap``.  The ``<!-- output session: ... -->`` blocks of a page run one after the
other in one directory; all others in a directory of their own.  ``<!-- file: PATH -->`` shows
a file of the tree.

Two outputs that differ only in durations are equal: a block is rewritten only if anything
else changed, so running this twice changes nothing.

    python scripts/regen_docs.py            rewrite every stale block and example file
    python scripts/regen_docs.py --check    exit 1 and name what is stale
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

EXAMPLES = {
    "docs/examples/reread-sptep.json": (
        "septum check feb06+reread-sptep -s fault-neighbours --save saved",
        "saved/feb06+reread-sptep-fault-neighbours-I1.json",
    ),
}
"""Generated files: the command that makes each, and where it leaves it."""

_BLOCK = re.compile(
    r"^<!-- (?P<kind>output|file)(?P<options>(?: \w+(?:=/[^/\n]*/)?)*): (?P<what>[^\n]+) -->\n"
    r"(?P<fence>```\w*\n)(?P<body>.*?)^```$",
    re.M | re.S,
)
_DURATION = re.compile(r' *\b(?:\d+\.\d+s|\d+m\d\ds|\d+h\d\dm)(?!\w)|(?<="seconds": )[\d.]+')


@dataclass(frozen=True, slots=True)
class Block:
    """One generated block; ``path`` and ``line`` say where it stands."""

    path: Path
    line: int
    kind: str
    options: str
    what: str
    body: str
    session: tuple[str, ...] = ()
    """The commands of the page's session, if this one is of them."""
    turn: int = 0
    """Its place in the session."""

    @property
    def slow(self) -> bool:
        return "slow" in self.options.split()

    @property
    def where(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"

    def fresh(self) -> str:
        """What the block should hold now."""
        if self.kind == "file":
            return (ROOT / self.what).read_text()
        out = session(self.session)[self.turn] if self.session else shell(self.what)
        return f"$ {self.what}\n{self.cut(out)}"

    def cut(self, text: str) -> str:
        """The part of an output that the block shows."""
        return _cut(text, self._option("from"), self._option("to"))

    def stale(self) -> bool:
        """It differs from what it should hold in more than durations."""
        return plain(self.body) != plain(self.fresh())

    def _option(self, name: str) -> str:
        found = re.search(rf" {name}=/([^/]*)/", self.options)
        return found[1] if found else ""


def plain(text: str) -> str:
    """``text`` with every duration, and the blanks that align it, in one form."""
    return _DURATION.sub(" N.Ns", text)


def _cut(text: str, start: str, end: str) -> str:
    lines = text.splitlines()
    first = next((n for n, s in enumerate(lines) if re.search(start, s)), 0) if start else 0
    last = next((n for n in range(first + 1, len(lines)) if end and re.search(end, lines[n])), -1)
    shown = lines[first : last if last >= 0 else len(lines)]
    while shown and not shown[-1]:
        shown.pop()
    before = ["[...]"] if first else []
    after = ["[...]"] if last >= 0 else []
    return "".join(f"{line}\n" for line in [*before, *shown, *after])


def pages() -> list[Path]:
    """Every Markdown page of the documentation."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/gallery/*.md")])


def blocks(path: Path) -> Iterator[Block]:
    """The generated blocks of a page."""
    text = path.read_text()
    found = list(_BLOCK.finditer(text))
    together = [m for m in found if "session" in m["options"].split()]
    told = tuple(m["what"] for m in together)
    for m in found:
        line = text.count("\n", 0, m.start()) + 1
        mine = (told, together.index(m)) if m in together else ()
        yield Block(path, line, m["kind"], m["options"], m["what"], m["body"], *mine)


@cache
def shell(command: str, keep: str = "") -> str:
    """The output of ``command``, or with ``keep`` the file of that name that it leaves."""
    with workplace() as run:
        out = run(command)
        return (run.here / keep).read_text() if keep else out


@cache
def session(commands: tuple[str, ...]) -> tuple[str, ...]:
    """The outputs of ``commands``, run one after the other in one directory."""
    with workplace() as run:
        return tuple(run(command) for command in commands)


@dataclass(frozen=True, slots=True)
class Workplace:
    """Runs commands in ``here``."""

    here: Path
    environment: dict[str, str]

    def __call__(self, command: str) -> str:
        """What ``command`` prints on stdout."""
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.here,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        if "Traceback" in done.stderr:
            raise SystemExit(f"{command}: {done.stderr}")
        return done.stdout


@contextmanager
def workplace() -> Iterator[Workplace]:
    """An empty directory that shows the tree's bench, docs and tests.

    The user's cache is there too, so that no path of this machine gets into the output.
    """
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        for shown in ("bench", "docs", "tests"):
            (here / shown).symlink_to(ROOT / shown)
        program = here / "bin" / "septum"
        program.parent.mkdir()
        program.write_text(
            f"#!/bin/sh\nexec '{sys.executable}' -c "
            '\'from septum.cli import main; main(prog_name="septum")\' "$@"\n'
        )
        program.chmod(0o755)
        python = program.parent / "python"
        python.write_text(f"#!/bin/sh\nexec '{sys.executable}' \"$@\"\n")
        python.chmod(0o755)
        environment = {
            "HOME": name,
            "LC_ALL": "C.UTF-8",
            "NO_COLOR": "1",
            "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "src"),
            "XDG_CACHE_HOME": ".cache",
        }
        yield Workplace(here, environment)


def stale_examples() -> list[str]:
    """Example files that the present tree would generate differently."""
    return [
        name
        for name, (command, left) in EXAMPLES.items()
        if not (ROOT / name).is_file() or (ROOT / name).read_text() != shell(command, left)
    ]


def _rewrite(path: Path) -> int:
    """Rewrite the stale blocks of a page; how many."""
    found = {block.line: block for block in blocks(path)}
    text = path.read_text()
    stale = 0

    def new(m: re.Match[str]) -> str:
        nonlocal stale
        block = found[text.count("\n", 0, m.start()) + 1]
        if not block.stale():
            return m[0]
        stale += 1
        print(f"{block.where}: rewritten")
        return m[0][: m.start("body") - m.start()] + block.fresh() + "```"

    rewritten = _BLOCK.sub(new, text)
    if stale:
        path.write_text(rewritten)
    return stale


def main() -> int:
    """Rewrite or check; the exit status."""
    parser = argparse.ArgumentParser(description="Regenerate the output shown in the docs.")
    parser.add_argument("--check", action="store_true", help="only say what is stale")
    parser.add_argument("--cheap", action="store_true", help="with --check: skip slow blocks")
    args = parser.parse_args()
    examples = stale_examples()
    if args.check:
        stale = [
            f"{b.where}: {b.what}"
            for path in pages()
            for b in blocks(path)
            if not (args.cheap and b.slow) and b.stale()
        ]
        print("\n".join([*examples, *stale] or ["every block is up to date"]))
        return 1 if examples or stale else 0
    for name in examples:
        command, left = EXAMPLES[name]
        (ROOT / name).write_text(shell(command, left))
        print(f"{name}: rewritten")
    for path in pages():
        _rewrite(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
