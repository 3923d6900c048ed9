# SPDX-License-Identifier: GPL-2.0-only
"""Floor 9: the command line.  One module per command: it parses, calls, prints.

Exit status of every command: 2 for wrong usage or input, else 1 if a rule broke, else 3
if something is inconclusive or stale, else 0; 130 after Ctrl-C.  An error is one line on
stderr: what, where, and how to mend it.  ``SEPTUM_DEBUG=1`` shows the Python traceback.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import click

from septum import __version__, compiled

__all__ = ["WORDS", "main"]

WORDS = "septum.words"
"""Key of `click.Context.meta`: the arguments of `septum`, as given."""

_COMMANDS = (
    "campaign",
    "check",
    "compare",
    "completion",
    "coverage",
    "designs",
    "doctor",
    "kernel",
    "monitors",
    "record",
    "replay",
    "scenarios",
    "show",
    "step",
    "tdx",
)


class _Septum(click.Group):
    """Loads a command's module when it is used, and turns errors into messages."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            from septum.cli.errors import unknown

            raise unknown("command", cmd_name, _COMMANDS, "septum --help lists them")
        command = importlib.import_module(f"septum.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        words = list(args)
        try:
            ctx = super().make_context(info_name, args, parent, **extra)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:  # an option before the command
            from septum.cli.errors import wrong_usage

            raise wrong_usage(error) from None
        ctx.meta[WORDS] = words
        return ctx

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.exceptions.NoArgsIsHelpError:  # its text is the help
            raise
        except click.UsageError as error:
            from septum.cli.errors import wrong_usage

            raise wrong_usage(error) from None
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            click.echo("septum: interrupted", err=True)
            ctx.exit(130)
        except Exception as error:
            if os.environ.get("SEPTUM_DEBUG"):
                raise
            from septum.cli.errors import problem

            raise problem(error) from error


@click.group(
    cls=_Septum,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Model, checker and trace debugger for KVM's TDP MMU with TDX Secure EPT.",
)
@click.version_option(
    __version__,
    prog_name="septum",
    message=f"%(prog)s %(version)s ({'compiled' if compiled() else 'pure Python'})",
)
def main() -> None:
    return None
