# SPDX-License-Identifier: GPL-2.0-only
"""``septum kernel``: a kernel tree's own C code under the explorer."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import click

from septum.cli.errors import Problem
from septum.cli.names import scenario_option
from septum.cli.options import DURATION, explorer, format_option, search_options
from septum.cli.running import default_directory, save_all
from septum.cli.terminal import painter, width
from septum.designs import lookup
from septum.explore import Options
from septum.kvm.monitors import MONITORS
from septum.native.build import Built, build
from septum.native.check import KernelRow, check_row
from septum.native.diff import compare_scenario, operation_scenarios
from septum.native.errors import BuildError
from septum.report.counterexample import counterexample_text
from septum.report.documents import check_document, dump
from septum.report.fold import BUDGET
from septum.report.layout import WIDTH
from septum.report.verdicts import exit_code, summary_line, verdict_table
from septum.scenarios.model import Scenario
from septum.scenarios.suite import SCENARIOS, find

__all__ = ["command"]

TREE = click.option(
    "--linux",
    "tree",
    required=True,
    type=click.Path(path_type=Path),
    metavar="TREE",
    help="A kernel source tree; nothing is written into it.",
)


@click.group("kernel")
def command() -> None:
    """Compile a kernel tree's own KVM code and explore it (docs/kernel.md).

    The unmodified files of TREE are compiled with their own headers and run as tasks over
    the TDX Module model; scenarios, rules and counterexamples are those of `septum check`.
    """


def _build(tree: Path, clean: bool) -> Built:
    shown = ""

    def progress(what: str) -> None:
        nonlocal shown
        if sys.stderr.isatty():
            click.echo(f"\r{what:<{len(shown)}}", nl=False, err=True)
            shown = what

    try:
        made = build(tree, clean=clean, progress=progress)
    except BuildError as error:
        if shown:
            click.echo(err=True)
        raise Problem(str(error)) from None
    if shown:
        click.echo(f"\r{' ' * len(shown)}\r", nl=False, err=True)
    return made


@command.command("build")
@TREE
@click.option("--clean", is_flag=True, help="Forget what was built before.")
def build_command(tree: Path, clean: bool) -> None:
    """Compile TREE into an image, or say that it is there already.

    Exit status 0: built; 2: not possible, and why.
    """
    made = _build(tree, clean)
    if made.seconds:
        total = sum(made.seconds.values())
        parts = ", ".join(f"{what} {seconds:.1f}s" for what, seconds in made.seconds.items())
        click.echo(f"Linux {made.tree.version}: built in {total:.1f}s ({parts})")
    else:
        click.echo(f"Linux {made.tree.version}: built before, and nothing has changed")
    click.echo(str(made.image))


@command.command("check")
@TREE
@scenario_option
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write counterexamples to DIR (default: the user's cache).",
)
@click.option("--tables/--no-tables", default=True, help="Print each interleaving.")
@click.option("--wide", is_flag=True, help="Every count, not bound to 78 columns.")
@format_option()
@search_options
@click.pass_context
def check_command(
    ctx: click.Context,
    /,
    tree: Path,
    scenarios: tuple[str, ...],
    save: Path | None,
    tables: bool,
    wide: bool,
    form: str,
    **search: Any,
) -> None:
    """Explore TREE's C code in scenarios and judge every step.

    Without -s: every default scenario.  A scenario whose operations the compiled kernel
    does not offer is n/a.

    Exit status 0: everything holds; 1: a rule broke; 3: inconclusive; 2: wrong usage or a
    tree that cannot be built; 130: interrupted.
    """
    chosen = _chosen(scenarios)
    options = _options(search)
    made = _build(tree, False)
    begun = perf_counter()
    rows: list[KernelRow] = []
    interrupted = False
    try:
        for n, scenario in enumerate(chosen):
            _tell(f"{n}/{len(chosen)} {scenario.name}")
            rows.append(check_row(made.image, str(made.tree.path), made.name, scenario, options))
    except KeyboardInterrupt:
        interrupted = True
    _tell("")
    results = [row.result for row in rows]
    files = save_all(results, save or default_directory())
    seconds = perf_counter() - begun
    if form == "json":
        document = check_document(results, seconds=seconds, files=files, interrupted=interrupted)
        click.echo(dump(document), nl=False)
    else:
        if tables:
            _print_tables(rows, files)
        click.echo(
            verdict_table(results, files=files, width=width(wide), wide=wide, paint=painter()),
            nl=False,
        )
        click.echo(summary_line(results, seconds))
    if interrupted:
        left = [s.name for s in chosen[len(rows) :]]
        click.echo(f"Interrupted; to check what is left: -s {' -s '.join(left)}", err=True)
        ctx.exit(130)
    ctx.exit(exit_code(results))


@command.command("diff")
@TREE
@click.argument("design", default="v7.3")
@scenario_option
@click.option("--budget", type=DURATION, default=60.0, help="Stop a search after that time.")
@click.pass_context
def diff_command(
    ctx: click.Context, /, tree: Path, design: str, scenarios: tuple[str, ...], budget: float
) -> None:
    """Compare TREE's C code with a Python DESIGN (default v7.3).

    Every operation alone, from small start trees: SPTE changes and SEAMCALLs in order.  Then
    scenarios (with -s only these): findings, and the set of settled states.

    Exit status 0: equal; 1: a difference; 3: a search was not complete; 2: wrong usage.
    """
    lookup(design)
    made = _build(tree, False)
    chosen = _chosen(scenarios) if scenarios else [*operation_scenarios(), *_chosen(())]
    differ = incomplete = 0
    for scenario in chosen:
        _tell(scenario.name)
        found = compare_scenario(
            made.image, str(made.tree.path), made.name, design, scenario, Options(budget_s=budget)
        )
        differ += bool(found.text)
        incomplete += not found.complete
        said = found.note or f"equal, {found.states} settled states"
        if not found.complete and not found.text:
            said = f"no difference in what was explored, {found.states} settled states"
        click.echo(f"{scenario.name}: {'DIFFERENT' if found.text else said}")
        if found.text:
            click.echo("  " + found.text.replace("\n", "\n  "))
    click.echo(f"{len(chosen)} compared: {differ} differ, {incomplete} not complete")
    ctx.exit(1 if differ else 3 if incomplete else 0)


def _options(search: Mapping[str, Any]) -> Options:
    """The explorer's options; those of `septum check` that mean nothing here are refused."""
    if str(search.get("memory_model", "sc")).lower() != "sc":
        raise click.UsageError("--memory-model tso: compiled code is explored under sc only")
    if search.get("params"):
        raise click.UsageError("-p: the compiled kernel's tables have the hardware's shape")
    known = inspect.signature(explorer).parameters
    return explorer(**{k: v for k, v in search.items() if k in known and k != "memory_model"})


def _chosen(names: Sequence[str]) -> list[Scenario]:
    if names:
        return [find(name) for name in dict.fromkeys(names)]
    return [s for s in SCENARIOS.values() if s.default]


def _tell(what: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{what:<60}\r", nl=False, err=True)


def _print_tables(rows: Sequence[KernelRow], files: dict[tuple[str, str], str]) -> None:
    for row in rows:
        ce = row.result.counterexample
        if ce is None or row.replay is None:
            continue
        text = counterexample_text(
            ce,
            row.replay,
            story=SCENARIOS.get(ce.scenario),
            rule=MONITORS.get(ce.finding.rule),
            doc="the tree's own C code",
            width=WIDTH,
            budget=BUDGET,
            sources=True,
            paint=painter(),
        )
        click.echo(f"{text}\n{'=' * WIDTH}\n")
