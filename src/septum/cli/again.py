# SPDX-License-Identifier: GPL-2.0-only
"""Counterexamples run again, of designs here, of compiled code in an image's process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from septum.cli.errors import Problem
from septum.scenarios import counterexample
from septum.scenarios.counterexample import Diverged
from septum.scenarios.result import Counterexample, Replay

if TYPE_CHECKING:
    from septum.native.code import Code

__all__ = ["kernel_option", "progress", "replay"]

kernel_option = click.option(
    "--linux",
    "tree",
    type=click.Path(path_type=Path),
    metavar="TREE",
    help="Of a kernel's own code: run it on TREE (default: the build it was found in).",
)


def replay(ce: Counterexample, *, tree: Path | None = None, file: str = "") -> Replay:
    """Run it again, with both trees after every step.

    :param tree: the kernel tree to run compiled code from.
    :param file: where the counterexample is, for messages.
    :raises Diverged: the program no longer follows it.
    :raises Problem: there is no build of the kernel's code.
    """
    if not ce.kernel:
        if tree is not None:
            raise click.UsageError("--linux: the counterexample was found in a Python design")
        return counterexample.replay(ce, states=True)
    from septum.native.errors import BuildError
    from septum.native.replay import NoBuild, code_for
    from septum.native.replay import replay as replay_native

    try:
        with progress() as tell:
            code = code_for(ce, tree, tell)
    except (NoBuild, BuildError) as error:
        raise Problem(f"{file}: {error}" if file and tree is None else str(error)) from None
    other = _other(ce, code)
    try:
        again = replay_native(ce, code, states=True)
    except Diverged as error:
        raise Diverged(f"{error} ({other})" if other else str(error)) from None
    if other:
        click.echo(f"septum: {other}", err=True)
    return again


def _other(ce: Counterexample, code: Code) -> str:
    """That the tree is not the one that the counterexample was found in."""
    if code.content == ce.kernel["content"]:
        return ""
    return (
        f"recorded on Linux {ce.kernel['version']}, content {ce.kernel['content'][:12]}; run on "
        f"{code.tree}, Linux {code.version}, content {code.content[:12]}"
    )


class _Progress:
    """What a build does, on one line of a terminal."""

    shown = ""

    def __call__(self, what: str) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r{what:<{len(self.shown)}}", nl=False, err=True)
            self.shown = what


@contextmanager
def progress() -> Iterator[_Progress]:
    """Tell the yielded object what is being done; the line is gone at the end."""
    told = _Progress()
    try:
        yield told
    finally:
        if told.shown:
            click.echo(f"\r{' ' * len(told.shown)}\r", nl=False, err=True)
