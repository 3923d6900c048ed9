# SPDX-License-Identifier: GPL-2.0-only
"""Prints docs/mutants.md: ``python tests/mutants/mutant_doc.py > docs/mutants.md``."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from mutant_rig import is_default, outcome

from septum.designs.mutant_table import BASE, MUTANTS, Mutant
from septum.kvm.monitors import MONITORS

__all__ = ["document"]

HEAD = f"""\
<!-- Generated: python tests/mutants/mutant_doc.py > docs/mutants.md -->

# Mutants

Each mutant makes one step of `{BASE}` wrong. They show that the monitors and the scenarios see
what they are for: a checker that is silent about a mutant is blind, or the step does not matter.
`septum designs diff {BASE} {BASE}+NAME` prints what a mutant changes, and
`septum check --design {BASE}+NAME --scenario SCENARIO` shows what it breaks.

"Step" is the [section of the facts](sources.md) on KVM's TDP MMU that has the step. "Caught by"
is the rule that the row of the verdict table reports; "executions" says how many were run until
it was found. *Alone*: with that monitor switched off nothing at all is found. *Under TSO*: only
store buffers show it (`--memory-model tso`); under sequential consistency nothing is found.
"""


def document() -> str:
    caught = [m for m in MUTANTS if not m.survives]
    survivors = [m for m in MUTANTS if m.survives]
    lines = [
        HEAD,
        f"Caught: {len(caught)} of {len(MUTANTS)}; why the others are not is said below.",
        "",
        "## Monitors",
        "",
        "| monitor | caught alone | caught first |",
        "|---|---|---|",
        *(_monitor(id_) for id_ in MONITORS),
        "",
        "## Caught",
        "",
        "| mutant | step | what it does wrong | scenario | caught by | executions |",
        "|---|---|---|---|---|---:|",
        *_caught(caught),
    ]
    if not all(is_default(m) for m in caught):
        lines += ["", "(\\*) Not in the suite: a scenario of tests/mutants/mutant_rig.py."]
    lines += [
        "",
        "## Not caught",
        "",
        "Searched completely, nothing found. *Harmless* and *unreachable* ones break nothing that",
        "can be seen; the others name what is missing.",
        "",
        "| mutant | step | what it does wrong | searched | why nothing sees it |",
        "|---|---|---|---|---|",
        *(f"| `{m.name}` | {m.step} | {m.doc} | {m.scenario} | {m.survives} |" for m in survivors),
    ]
    return "\n".join(lines) + "\n"


def _monitor(id_: str) -> str:
    alone = [f"`{m.name}`" for m in MUTANTS if m.rule == id_ and m.alone]
    first = [f"`{m.name}`" for m in MUTANTS if m.rule == id_ and not m.alone]
    joint = [f"`{m.name}` (with STUCK)" for m in MUTANTS if m.rule == "STUCK" and id_ == "I23"]
    return f"| {id_} | {', '.join(alone)} | {', '.join(first + joint)} |"


def _caught(mutants: list[Mutant]) -> Iterator[str]:
    for m in mutants:
        where = m.scenario if is_default(m) else f"{m.scenario} (\\*)"
        rule = f"{m.rule} *alone*" if m.alone else m.rule
        if m.memory_model != "SC":
            rule += f" under {m.memory_model}"
        yield (
            f"| `{m.name}` | {m.step} | {m.doc} | {where} | {rule} | {outcome(m.name).executions} |"
        )


if __name__ == "__main__":
    sys.stdout.write(document())
