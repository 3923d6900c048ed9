# SPDX-License-Identifier: GPL-2.0-only
"""``septum kernel``: a kernel tree's own C code under the explorer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from septum.cli.again import progress
from septum.cli.errors import Problem
from septum.cli.names import scenario_option
from septum.cli.options import (
    DURATION,
    INPUT,
    campaign_option,
    explorer,
    search_options,
    words_of,
)
from septum.cli.output import Output, output_options
from septum.cli.running import Outcome, Places, default_scenarios, run
from septum.designs import lookup
from septum.explore import Options
from septum.native.build import Built, build
from septum.native.code import Code
from septum.native.diff import compare_scenario
from septum.native.diff_operations import compare_operations, start_trees
from septum.native.errors import BuildError
from septum.native.replay import search_near
from septum.native.subject import KernelSubject
from septum.report.layout import command as command_lines
from septum.report.layout import number
from septum.scenarios.counterexample import load
from septum.scenarios.suite import find

__all__ = ["command"]

TREE = click.option(
    "--linux",
    "tree",
    required=True,
    type=click.Path(path_type=Path),
    metavar="TREE",
    help="A kernel source tree; nothing is written into it.",
)


@click.group("kernel", short_help="Compile a kernel tree's own KVM code and explore it.")
def command() -> None:
    """Compile a kernel tree's own KVM code and explore it (docs/kernel.md).

    The unmodified files of TREE are compiled with their own headers and run as tasks over
    the TDX Module model; scenarios, rules and counterexamples are those of `septum check`.
    """


def _build(tree: Path, clean: bool = False) -> Built:
    try:
        with progress() as tell:
            return build(tree, clean=clean, progress=tell)
    except BuildError as error:
        raise Problem(str(error)) from None


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
        click.echo(f"Linux {made.code.version}: built in {total:.1f}s ({parts})")
    else:
        click.echo(f"Linux {made.code.version}: built before, and nothing has changed")
    click.echo(str(made.code.image))


@command.command("check")
@TREE
@scenario_option
@click.option("--from", "near", type=INPUT, help="Search near the counterexample in this file.")
@output_options
@campaign_option
@search_options
@click.pass_context
def check_command(
    ctx: click.Context,
    /,
    tree: Path,
    scenarios: tuple[str, ...],
    near: Path | None,
    campaign: Path | None,
    jobs: int,
    **search: Any,
) -> None:
    """Explore TREE's C code in scenarios and judge every step.

    Without -s: every default scenario.  A scenario whose operations the compiled kernel
    does not offer is n/a.

    Exit status 0: everything holds (or, with --expect, is as reviewed); 1: a rule broke;
    3: inconclusive; 2: wrong usage or a tree that cannot be built; 130: interrupted.
    """
    output = Output.taken_from(search)
    params = _params(search)
    options = explorer(**search, states=True)
    names = [find(name).name for name in dict.fromkeys(scenarios)] or default_scenarios()
    places = Places(jobs, None, campaign, ["kernel", *words_of(ctx)])
    if near is not None:
        if scenarios or output.expected or campaign:
            raise click.UsageError("--from names the scenario itself: give nothing else")
        if options.strategy == "stateful":
            raise click.UsageError("--from explores executions: give another strategy")
        outcome = _near(near, _build(tree).code, options)
    else:
        code = _build(tree).code
        outcome = run(
            [(code.name, name) for name in names],
            places=places,
            options=options,
            params=params,
            force=False,
            subject=KernelSubject(code),
        )
    ctx.exit(
        output.tell(outcome, named=bool(scenarios), after=lambda: _go_on(ctx, outcome, places))
    )


def _params(search: dict[str, Any]) -> dict[str, int | str]:
    """The scenarios' parameters; what means nothing for compiled code is refused."""
    params = dict(search.pop("params"))
    if str(search["memory_model"]).lower() != "sc":
        raise click.UsageError("--memory-model tso: compiled code is explored under sc only")
    if search.pop("cluster") is not None:
        raise click.UsageError("--cluster: the image is on this machine only: give -j N")
    if search.pop("force"):
        raise click.UsageError("--force: what is n/a here has no code that could be run")
    for name in params:
        if name in ("bits", "levels"):
            raise click.UsageError(
                f"-p {name}: the compiled kernel's tables have the hardware's shape"
            )
        if name == "yields":
            raise click.UsageError("-p yields: the compiled kernel does not reschedule here")
    return params


def _near(file: Path, code: Code, options: Options) -> Outcome:
    ce = load(file)
    if not ce.kernel:
        raise click.UsageError(f"{file}: found in a Python design: septum check --from {file}")
    if options.strategy == "bounded":
        raise click.UsageError("--from knows no bound on preemptions: give another strategy")
    row = search_near(ce, code, options)
    return Outcome([row], row.seconds, [])


def _go_on(ctx: click.Context, outcome: Outcome, places: Places) -> list[str]:
    """After Ctrl-C: how to check what is left."""
    rows = number(len(outcome.left), "row")
    if places.campaign is not None:
        said = f"Interrupted: {rows} left.  To go on where it stopped:"
        return [said, *command_lines(["septum", *places.words])]
    ctx.params["scenarios"] = ()
    words = [*words_of(ctx)]
    for _, scenario in outcome.left:
        words += ["-s", scenario]
    said = f"Interrupted: {rows} left (--campaign DIR keeps what was done).  To check them:"
    return [said, *command_lines(["septum", "kernel", *words])]


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

    Every operation alone, from every small start tree: SPTE changes, SEAMCALLs, the return
    value, WARN and BUG.  Then scenarios (with -s only these): findings, and the set of
    settled states.

    Exit status 0: equal; 1: a difference; 3: a search was not complete; 2: wrong usage.
    """
    lookup(design)
    code = _build(tree).code
    names = scenarios or default_scenarios()
    differ = 0 if scenarios else _diff_operations(code, design)
    compared = incomplete = 0
    chosen = [find(name) for name in dict.fromkeys(names)]
    for scenario in chosen:
        _tell(scenario.name)
        found = compare_scenario(code, design, scenario, Options(budget_s=budget))
        compared += not found.note
        differ += bool(found.text)
        incomplete += not found.complete
        said = found.note or f"equal, {found.states} settled states"
        if not found.complete and not found.text:
            said = f"no difference in what was explored, {found.states} settled states"
        click.echo(f"{scenario.name}: {'DIFFERENT' if found.text else said}")
        if found.text:
            click.echo("  " + found.text.replace("\n", "\n  "))
    click.echo(f"{compared} scenarios compared; {differ} differ, {incomplete} not complete")
    ctx.exit(1 if differ else 3 if incomplete else 0)


def _diff_operations(code: Code, design: str) -> int:
    """Compare single operations; how many differ."""
    trees = start_trees()
    compared = differ = 0
    for nth, start in enumerate(trees, 1):
        _tell(f"operations from start tree {nth} of {len(trees)}")
        for name, difference in compare_operations(code, design, start):
            compared += 1
            differ += bool(difference)
            if difference:
                click.echo(f"{name}: DIFFERENT\n  " + difference.replace("\n", "\n  "))
    _tell("")
    click.echo(
        f"single operations: {compared} compared, from {len(trees)} start trees: {differ} differ"
    )
    return differ


def _tell(what: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{what:<60}\r", nl=False, err=True)
