# SPDX-License-Identifier: GPL-2.0-only
"""Names that a shell completes: designs (with toggles), scenarios, rules."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

__all__ = ["complete_design", "complete_rule", "complete_scenario"]


def complete_design(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Designs; behind a ``+``, toggles; and files."""
    from septum.designs import design_names, toggle_names

    base, plus, _ = incomplete.rpartition("+")
    names = [f"{base}+{t}" for t in toggle_names()] if plus else list(design_names())
    known = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return known or [CompletionItem(incomplete, type="file")]


def complete_scenario(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from septum.scenarios import SCENARIOS

    return [name for name in SCENARIOS if name.startswith(incomplete)]


def complete_rule(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from septum.kvm.monitors import MONITORS

    return [name for name in MONITORS if name.startswith(incomplete)]
