# SPDX-License-Identifier: GPL-2.0-only
"""Follows docs/tutorial.md literally: a fresh copy of the tree, a fresh virtual environment.

Every command of the page is run in its order, in one shell, exactly as it stands there; what
the page shows is compared with what was printed, durations apart.

    python scripts/follow_tutorial.py           exit 1 if anything differs
    python scripts/follow_tutorial.py --log     also rewrite docs/tutorial-log.txt
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from regen_docs import ROOT, Block, blocks, plain

PAGE = ROOT / "docs" / "tutorial.md"
LOG = ROOT / "docs" / "tutorial-log.txt"
TREE = ("LICENSE", "README.md", "docs", "hatch_build.py", "pyproject.toml", "src", "tests")

_SHELL = re.compile(r"^```sh\n(?P<body>.*?)^```$", re.M | re.S)
_MARK = "@@ septum tutorial @@"


@dataclass(frozen=True, slots=True)
class Step:
    """One command of the page; ``block`` is what the page shows of its output, if anything."""

    command: str
    block: Block | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """What a step printed on stdout, and its exit status."""

    step: Step
    out: str
    status: int

    def difference(self) -> str:
        """How the output differs from the page; empty if it does not, or nothing is shown."""
        block = self.step.block
        if block is None:
            return ""
        shown = plain(block.body).splitlines()
        got = plain(f"$ {self.step.command}\n{block.cut(self.out)}").splitlines()
        return "\n".join(difflib.unified_diff(shown, got, "shown", "printed", lineterm=""))


def steps() -> list[Step]:
    """The commands of the page, from top to bottom."""
    text = PAGE.read_text()
    found: list[tuple[int, Step]] = []
    for m in _SHELL.finditer(text):
        line = text.count("\n", 0, m.start()) + 1
        found += [(line + n, Step(s)) for n, s in enumerate(m["body"].splitlines())]
    found += [(b.line, Step(b.what, b)) for b in blocks(PAGE) if b.session]
    return [step for _, step in sorted(found, key=lambda pair: pair[0])]


def follow(todo: list[Step], tree: Path, home: Path) -> list[Done]:
    """Run them in one shell, in ``tree``.

    :raises SystemExit: the shell ended early.
    """
    script = "".join(f"{step.command}\necho; echo '{_MARK}' $?\n" for step in todo)
    keep = {k: v for k, v in os.environ.items() if k.startswith("PIP_")}
    environment = {
        **keep,
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "NO_COLOR": "1",
        "PATH": os.environ["PATH"],
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "XDG_CACHE_HOME": ".cache",
    }
    shell = subprocess.run(
        ["bash"], input=script, cwd=tree, env=environment, capture_output=True, text=True
    )
    parts = re.split(rf"^{_MARK} (\d+)\n", shell.stdout, flags=re.M)
    if len(parts) != 2 * len(todo) + 1:
        raise SystemExit(f"the shell ended early:\n{shell.stdout}\n{shell.stderr}")
    outs = [part.removesuffix("\n") for part in parts[:-1:2]]
    return [Done(s, o, int(n)) for s, o, n in zip(todo, outs, parts[1::2], strict=True)]


def log(done: list[Done]) -> str:
    """What happened, without anything that differs from run to run."""
    version = ".".join(str(n) for n in sys.version_info[:2])
    lines = [
        "docs/tutorial.md followed literally by scripts/follow_tutorial.py:",
        f"a fresh copy of the tree, a fresh virtual environment, Python {version}",
        "",
    ]
    for d in done:
        lines += [f"$ {d.step.command}", *plain(d.out).splitlines()]
        lines += [f"[exit status {d.status}]"] if d.status else []
    compared = sum(d.step.block is not None for d in done)
    different = sum(bool(d.difference()) for d in done)
    lines += ["", f"{len(done)} commands, {compared} outputs compared, {different} different"]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def main() -> int:
    """Follow the page; the exit status."""
    parser = argparse.ArgumentParser(description="Follow docs/tutorial.md literally.")
    parser.add_argument("--log", action="store_true", help=f"rewrite {LOG.relative_to(ROOT)}")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name) / "septum"
        tree.mkdir()
        skip = shutil.ignore_patterns("__pycache__", "reference")
        for part in TREE:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, tree / part, ignore=skip)
            else:
                shutil.copy(ROOT / part, tree)
        done = follow(steps(), tree, Path(name))
    text = log(done)
    if args.log:
        LOG.write_text(text)
    print(text, end="")
    wrong = [d.difference() for d in done if d.difference()]
    print("\n".join(wrong), end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
