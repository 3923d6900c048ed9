# SPDX-License-Identifier: GPL-2.0-only
"""``septum tdx``: the TDX Module model on its own."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from septum.cli.errors import Problem, unknown
from septum.cli.options import INPUT, format_option
from septum.cli.tdx_terminal import converse
from septum.report.documents import dump
from septum.report.layout import clean
from septum.report.tdx_conform import (
    conform_document,
    conform_lines,
    conform_status,
    profile_lines,
)
from septum.tdx.conform import check_file
from septum.tdx.console.lexer import ScriptError
from septum.tdx.console.manual import overview, topic
from septum.tdx.console.script import Verdict, parse_script, run_script
from septum.tdx.console.session import Session
from septum.tdx.console.shell import START, Shell
from septum.tdx.profiles import PROFILES, find_profile

__all__ = ["command"]

SCRIPT = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)


def _profile(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if find_profile(value) is None:
        raise unknown("profile", value, PROFILES, "septum tdx profiles lists them")
    return value


profile_option = click.option(
    "--profile",
    default="1.5.01",
    show_default=True,
    callback=_profile,
    metavar="NAME",
    help="The module version (septum tdx profiles).",
)


@click.group("tdx", short_help="The TDX Module model: scripts, a shell, vectors.")
def command() -> None:
    """The TDX Module model: scripts of calls, a shell, recorded vectors."""


def _read(path: Path) -> bytes:
    if str(path) == "-":
        return sys.stdin.buffer.read()
    return path.read_bytes()


@command.command("run")
@click.argument("script", type=SCRIPT)
@click.option("--registers", is_flag=True, help="Print every register of a call.")
@profile_option
@click.pass_context
def run(ctx: click.Context, /, script: Path, registers: bool, profile: str) -> None:
    """Run a SCRIPT of calls (- is stdin) and print what each returns, then the S-EPT.

    One call a line: TDH.MEM.PAGE.AUG G 4K p0 @lp1 -> SUCCESS.  "septum tdx help script" is
    the whole form.

    Exit status 0: every expectation was met; 1: one was not; 2: a line cannot be parsed
    (nothing was run) or done.
    """
    session = _session(profile)
    parsed = parse_script(_read(script), session)
    for error in parsed.errors:
        click.echo(f"septum: {clean(script)}:{clean(error)}", err=True)
    if parsed.errors:
        ctx.exit(2)
    verdict = Verdict()
    try:
        for line in run_script(session, parsed, verdict, registers=registers):
            click.echo(line)
    except ScriptError as error:
        raise Problem(f"{clean(script)}:{clean(error)}") from None
    click.echo(f"\n{verdict}")
    ctx.exit(0 if verdict.ok else 1)


def _session(profile: str) -> Session:
    session = Session()
    if profile != session.platform.profile:
        session.run(f"platform profile={profile}")
    return session


@command.command("shell")
@click.argument("script", type=INPUT, required=False)
@click.option("--empty", is_flag=True, help="Start without a TD.")
@profile_option
def shell(script: Path | None, empty: bool, profile: str) -> None:
    """Make calls one by one, interactively or from a pipe.

    Starts with a RUNNABLE TD of two vCPUs, or with what a SCRIPT does.  Same language as
    scripts; "help" lists the commands, "help TDH.MEM.PAGE.AUG" explains a call.
    """
    session = Shell(click.echo)
    session.session = _session(profile)
    banner = f"TDX Module model, {session.session.module.profile}."
    click.echo(f"{banner}  help explains, Tab completes, Ctrl-D leaves.")
    if script is not None:
        session.load(clean(script), script.read_bytes())
        first: tuple[str, ...] = ()
    else:
        first = () if empty else START
    converse(session, first)


@command.command("conform")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=INPUT)
@click.option("--brief", is_flag=True, help="Agreement per call only, not per result.")
@click.option(
    "--show",
    type=click.IntRange(0, 1000),
    default=5,
    show_default=True,
    help="How many disagreements of a file to print in full.",
)
@format_option()
@click.pass_context
def conform(
    ctx: click.Context, /, files: tuple[Path, ...], brief: bool, show: int, form: str
) -> None:
    """Run recorded vectors against the model.

    FILE is JSON Lines, plain or gzipped.  Exit status 0: every step and final state agrees;
    1: a disagreement; 3: a line could not be read (the others were checked); 2: nothing
    could be.
    """
    reports = [check_file(file, keep=max(show, 20)) for file in files]
    if form == "json":
        click.echo(dump(conform_document(reports)), nl=False)
    else:
        texts = ("\n".join(conform_lines(r, brief=brief, shown=show)) for r in reports)
        click.echo("\n\n".join(texts))
    ctx.exit(conform_status(reports))


@command.command("profiles")
def profiles() -> None:
    """List the module versions, how they differ and what is not known of them."""
    click.echo("\n".join(profile_lines()))


@command.command("help")
@click.argument("what", metavar="[CALL|STATUS|TOPIC]", required=False)
def help_(what: str | None) -> None:
    """Explain a call (inputs, checks in order, effects, errors), a status or a topic."""
    try:
        click.echo(topic(what) if what else overview())
    except KeyError as error:
        raise Problem(f"{error.args[0]}; septum tdx help lists what there is") from None
