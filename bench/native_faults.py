# SPDX-License-Identifier: GPL-2.0-only
"""Seeded faults in a kernel tree's C code: is each of them found?

Edits a scratch copy of one file (never the tree), compiles it with the build's own command,
links it in the place of the original, and runs ``septum kernel check``'s search in the
scenarios named (`native_fault_table.py`), until the first finding, with each strategy.

Usage: native_faults.py TREE [--seconds S] [--strategy S]... [--markdown FILE] [NAME...]
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from native_fault_table import FAULTS, Fault

from septum.explore import Options
from septum.native.build import build
from septum.native.code import Code
from septum.native.errors import BuildError
from septum.native.kbuild import Kbuild, before
from septum.native.link import GLOBAL
from septum.native.subject import KernelSubject
from septum.native.tree import read_tree
from septum.scenarios.result import CheckResult
from septum.scenarios.rows import make
from septum.scenarios.scheduling import run_rows
from septum.scenarios.suite import find

STRATEGIES = ("optimal", "stateful")


class Outcome(NamedTuple):
    """What one strategy said: the rule that told and where, or why nothing did."""

    rule: str
    scenario: str
    size: str

    def __str__(self) -> str:
        if self.rule:
            return f"{self.rule} in {self.scenario}, {self.size}"
        return f"**missed** ({self.scenario}: {self.size})"


def seed(fault: Fault, work: Kbuild, image: Path, scratch: Path) -> Path:
    """The image with the fault.

    :raises BuildError: the text to edit is not there, or the edit does not compile.
    """
    source = work.tree.path / fault.file
    text, count = re.subn(fault.old, fault.new, source.read_text(), flags=re.S)
    if not count:
        raise BuildError("the text that it edits is not in this tree")
    edited = scratch / source.name
    edited.write_text(text)
    target = scratch / f"{source.stem}.o"
    flags = [*before(fault.file), f"-iquote {source.parent}", "-Wno-error"]
    problem = work.compile(edited, target, *flags)
    if problem:
        raise BuildError(next(s for s in problem.splitlines() if "error" in s))
    original = "-".join(Path(fault.file).with_suffix(".o").parts)
    command: list[str] = json.loads((image.parent / "link.json").read_text())
    exported = [f"--globalize-symbol={s}" for s in GLOBAL.get(target.name, ())]
    subprocess.run(["objcopy", *exported, str(target)], check=True)
    out = scratch / "image.elf"
    swapped = [str(target) if Path(word).name == original else word for word in command]
    swapped[swapped.index("-o") + 1] = str(out)
    subprocess.run(swapped, check=True, capture_output=True)
    return out


def check(code: Code, scenario: str, options: Options) -> CheckResult:
    """One row, until its first finding."""
    row = make(code.name, find(scenario), options, subject=KernelSubject(code))
    ((_, result),) = run_rows([row])
    return result


def hunt(fault: Fault, code: Code, strategy: str, seconds: float) -> Outcome:
    """The first scenario in which the fault is found."""
    said = Outcome("", "", "")
    for name in fault.scenarios:
        options = Options(strategy, budget_s=seconds, first=not fault.rule)
        result = check(code, name, options)
        rule = result.finding.rule if result.finding else ""
        size = f"{result.states:,} states" if result.states else f"{result.executions:,} executions"
        wanted = fault.rule or rule
        if wanted and wanted in (rule, *result.other_findings):
            return Outcome(wanted, name, size)
        why = "; ".join(filter(None, [f"{result.verdict} after {size}", rule or result.note[:60]]))
        said = Outcome("", name, why)
    return said


def markdown(found: dict[str, dict[str, Outcome]], strategies: Sequence[str]) -> str:
    """One row per fault, with what each strategy took; a star: the whole search, since another
    rule breaks first."""
    rows = [["fault", "found by", *strategies], ["---"] * (2 + len(strategies))]
    starred = {fault.name for fault in FAULTS if fault.rule}
    for name, outcomes in found.items():
        told = [outcomes[strategy] for strategy in strategies]
        same = len({(o.rule, o.scenario) for o in told}) == 1 and bool(told[0].rule)
        by = f"{told[0].rule}, {told[0].scenario}" if same else ""
        star = " \\*" if name in starred and by else ""
        rows.append([name, by, *((o.size if same else str(o)) + star for o in told)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tree", type=Path)
    parser.add_argument("names", nargs="*", help="these faults only")
    parser.add_argument("--seconds", type=float, default=20.0, help="per scenario and strategy")
    parser.add_argument("--strategy", action="append", choices=STRATEGIES)
    parser.add_argument("--markdown", type=Path, help="write the table here")
    given = parser.parse_intermixed_args()
    strategies = given.strategy or STRATEGIES
    made = build(given.tree).code
    work = Kbuild(read_tree(given.tree), made.image.parent.parent / "o", lambda _: None)
    table: dict[str, dict[str, Outcome]] = {}
    for fault in FAULTS:
        if given.names and fault.name not in given.names:
            continue
        outcomes = table[fault.name] = {}
        with tempfile.TemporaryDirectory() as scratch:
            try:
                image = seed(fault, work, made.image, Path(scratch))
            except BuildError as error:
                unseeded = Outcome("", "not seeded", str(error))
                outcomes.update(dict.fromkeys(strategies, unseeded))
            else:
                for strategy in strategies:
                    code = replace(made, name=fault.name, image=image)
                    outcomes[strategy] = hunt(fault, code, strategy, given.seconds)
        for strategy, o in outcomes.items():
            print(f"{fault.name:32} {strategy:9} {o}", flush=True)
        if given.markdown:
            given.markdown.write_text(markdown(table, strategies))
    counts = {s: sum(bool(outcomes[s].rule) for outcomes in table.values()) for s in strategies}
    for strategy, count in counts.items():
        print(f"{strategy}: {count} of {len(table)} faults found, Linux {made.version}")
    return 0 if set(counts.values()) == {len(table)} else 1


if __name__ == "__main__":
    sys.exit(main())
