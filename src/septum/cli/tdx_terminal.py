# SPDX-License-Identifier: GPL-2.0-only
"""``septum tdx shell`` on a terminal or a pipe.

On a terminal: line editing, history (kept in ``$XDG_STATE_HOME/septum/tdx-history``) and
completion by readline.  Elsewhere each line is echoed after the prompt, so that the output
reads like a session.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from septum.tdx.console.shell import Shell

__all__ = ["converse"]

_HISTORY = 1000


def converse(shell: Shell, first: Iterable[str]) -> None:
    """Handle the ``first`` lines, then those that are typed, until ``quit`` or the end."""
    for line in first:
        click.echo(f"{shell.prompt}{line}")
        shell.handle(line)
    if sys.stdin.isatty():
        with _readline(shell):
            _ask(shell)
    else:
        _read(shell)


def _ask(shell: Shell) -> None:
    while not shell.finished:
        try:
            shell.handle(input(shell.prompt))
        except EOFError:
            click.echo()
            return
        except KeyboardInterrupt:
            click.echo("^C")
        except UnicodeDecodeError:
            click.echo("that was no UTF-8 text")


def _read(shell: Shell) -> None:
    for raw in iter(sys.stdin.buffer.readline, b""):
        line = raw.decode(errors="replace").rstrip("\r\n")
        text = "".join(c if c.isprintable() else " " for c in line)
        click.echo(f"{shell.prompt}{text}".rstrip())
        shell.handle(text)
        if shell.finished:
            return


@contextmanager
def _readline(shell: Shell) -> Iterator[None]:
    """History and completion; without the readline module, plain lines."""
    try:
        import readline
    except ImportError:
        yield
        return
    found: list[str] = []

    def complete(text: str, state: int) -> str | None:
        if state == 0:
            found[:] = shell.complete(readline.get_line_buffer()[: readline.get_endidx()])
            if len(found) == 1 and not found[0].endswith("="):
                found[0] += " "  # complete: the next word may begin
        return found[state] if state < len(found) else None

    readline.set_completer(complete)
    readline.set_completer_delims(" \t")
    libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
    readline.set_history_length(_HISTORY)
    history = _history()
    with suppress(OSError):
        readline.read_history_file(history)
    try:
        yield
    finally:
        with suppress(OSError):
            history.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(history)


def _history() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "septum" / "tdx-history"
