# SPDX-License-Identifier: GPL-2.0-only
"""``septum completion SHELL``: the script that completes commands, options and names."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

__all__ = ["command"]

_SHELLS = ("bash", "fish", "zsh")


@click.command("completion")
@click.argument("shell", type=click.Choice(_SHELLS))
def command(shell: str) -> None:
    """Print the completion script for SHELL.

    bash: eval "$(septum completion bash)" in ~/.bashrc; zsh: the same in ~/.zshrc;
    fish: septum completion fish > ~/.config/fish/completions/septum.fish
    """
    from septum.cli import main

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(main, {}, "septum", "_SEPTUM_COMPLETE").source())
