# SPDX-License-Identifier: GPL-2.0-only
"""``septum show FILE``: run a counterexample again and print it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from septum.cli.again import kernel_option, replay
from septum.cli.options import INPUT, html_option, write_html
from septum.cli.printing import mail_text, told
from septum.cli.terminal import width
from septum.report.chrome_trace import chrome_trace
from septum.report.counterexample import reproduced, title
from septum.report.dot import order_dot, trees_dot
from septum.report.html import Code, page
from septum.report.selftest import selftest
from septum.scenarios.counterexample import Diverged, load, operation_starts
from septum.scenarios.result import Counterexample, Replay
from septum.scenarios.suite import SCENARIOS

__all__ = ["command"]


def _selftest(ce: Counterexample, again: Replay) -> str:
    starts = None if ce.kernel else operation_starts(ce)
    return selftest(ce, again, SCENARIOS.get(ce.scenario), starts)


_FORMATS: Final[dict[str, tuple[str, Callable[[Counterexample, Replay], str]]]] = {
    "chrome-trace": ("a trace for Perfetto and chrome://tracing", chrome_trace),
    "dot": ("both trees where the rule broke, for Graphviz", trees_dot),
    "dot-order": ("which step happens before which, for Graphviz", order_dot),
    "selftest": ("the skeleton of a KVM selftest, in C", _selftest),
}


@click.command("show")
@click.argument("file", type=INPUT)
@click.option("--all", "everything", is_flag=True, help="Show every step, and tracepoints.")
@click.option("--states", is_flag=True, help="Show what each step changed in the tables.")
@click.option("--wide", is_flag=True, help="Use the terminal's width; name source lines.")
@html_option
@kernel_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", *_FORMATS]),
    default="text",
    show_default=True,
    help="Text for people; "
    + "; ".join(f"{name}: {what}" for name, (what, _) in _FORMATS.items())
    + ".",
)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    file: Path,
    everything: bool,
    states: bool,
    wide: bool,
    html: Path | None,
    tree: Path | None,
    form: str,
) -> None:
    """Run the counterexample in FILE again and print it.

    Exit status 0 if it still breaks its rule, 3 if the program no longer follows it.
    """
    ce = load(file)
    try:
        again = replay(ce, tree=tree, file=str(file))
    except Diverged as error:
        click.echo(f"septum: {file}: stale: {error}", err=True)
        ctx.exit(3)
    if html is not None:
        code = Code()
        stories = [told(ce, again, path=str(file), code=code)]
        write_html(html, page(title(ce), told=stories, code=code))
    if form in _FORMATS:
        click.echo(_FORMATS[form][1](ce, again), nl=False)
        ctx.exit(0 if reproduced(ce, again) else 3)
    text = mail_text(
        ce,
        again,
        path=str(file),
        width=width(wide),
        everything=everything,
        states=states,
        sources=wide,
    )
    click.echo(text, nl=False)
    ctx.exit(0 if reproduced(ce, again) else 3)
