# SPDX-License-Identifier: GPL-2.0-only
"""Options that several commands share, and their values."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from septum.cli.errors import Problem
from septum.explore import STRATEGIES, Options
from septum.machine import MEMORY_MODELS

__all__ = [
    "DURATION",
    "INPUT",
    "PARAM",
    "campaign_option",
    "explorer",
    "format_option",
    "html_option",
    "search_options",
    "words_of",
    "write_html",
]

F = TypeVar("F", bound=Callable[..., Any])

INPUT = click.Path(exists=True, dir_okay=False, path_type=Path)


class _Duration(click.ParamType[float]):
    """``90``, ``90s``, ``10m``, ``2h``."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h|)", str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a time; write for example 90s, 10m or 2h", param, ctx)
        seconds = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]
        if not seconds:
            self.fail(f"{value!r} leaves no time at all; leave it out, or give more", param, ctx)
        return seconds


class _Param(click.ParamType[tuple[str, int | str]]):
    """``key=value``; a value that is a whole number becomes one."""

    name = "key=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int | str]:
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        if not key or not equals:
            self.fail(f"{value!r} is not key=value; write for example -p bits=2", param, ctx)
        return key, int(text) if re.fullmatch(r"-?\d+", text) else text


DURATION = _Duration()
PARAM = _Param()


def format_option(*others: str) -> Callable[[F], F]:
    """``--format text|json`` and what else the command can write."""
    return click.option(
        "--format",
        "form",
        type=click.Choice(["text", "json", *others]),
        default="text",
        show_default=True,
        help="Text for people, one JSON object (docs/schemas)"
        + "".join(f", {_FORMATS[name]}" for name in others)
        + ".",
    )


_FORMATS = {
    "ktap": "KTAP for kernel test robots",
    "junit": "JUnit XML",
}


def html_option(function: F) -> F:
    """``--html FILE``."""
    return click.option(
        "--html",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        callback=_writable,
        help="Also write a self-contained HTML report.",
    )(function)


def _writable(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """Refuse a place that nothing can be written to before there is something to write."""
    if path is not None and not os.access(path if path.exists() else path.parent, os.W_OK):
        raise click.BadParameter(f"{str(path)!r} cannot be written; name another place")
    return path


def campaign_option(function: F) -> F:
    """``--campaign DIR``."""
    return click.option(
        "--campaign",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Keep all work in DIR: after an interruption, the same command goes on.",
    )(function)


def write_html(path: Path, text: str) -> None:
    """Write the report.

    :raises Problem: with what the system said.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Problem(f"{path}: {error.strerror}; name another place with --html") from None


def search_options(function: F) -> F:
    """How to search, for commands that explore."""
    for option in reversed(_SEARCH):
        function = option(function)
    return function


_SEARCH = (
    click.option(
        "--strategy",
        type=click.Choice(list(STRATEGIES)),
        default="optimal",
        show_default=True,
        help="; ".join(f"{name}: {what}" for name, what in STRATEGIES.items()) + ".",
    ),
    click.option(
        "--retries",
        type=click.IntRange(min=-1),
        default=0,
        show_default=True,
        metavar="N",
        help="Repeats of a failed attempt that nobody influenced to explore before folding "
        "(-1: never fold; what then goes round for ever is finding LIVELOCK).",
    ),
    click.option(
        "--max-executions",
        type=click.IntRange(min=-1),
        default=0,
        metavar="N",
        help="Stop a row after that many (0: the scenario's own bound, if any; -1: never).",
    ),
    click.option("--budget", type=DURATION, default=0.0, help="Stop a row after that time."),
    click.option("--first", is_flag=True, help="Stop a row at its first finding."),
    click.option(
        "--all-findings",
        is_flag=True,
        help="A counterexample for each distinct finding of a row (rule, function and kind of "
        "object), not for one only.",
    ),
    click.option(
        "--seed", type=int, default=0, show_default=True, help="Of the sampling strategies."
    ),
    click.option(
        "--bound",
        type=click.IntRange(min=0),
        default=2,
        show_default=True,
        metavar="N",
        help="Preemptions, of the strategy bounded.",
    ),
    click.option(
        "--deep",
        is_flag=True,
        help="Strategy bounded with 0, 1, 2, ... preemptions, until nothing is left out or the "
        "--budget is used up.",
    ),
    click.option(
        "--depth",
        type=click.IntRange(min=1),
        default=3,
        show_default=True,
        metavar="N",
        help="Of the bugs that the strategy pct looks for.",
    ),
    click.option(
        "--memory-model",
        type=click.Choice([model.lower() for model in MEMORY_MODELS], case_sensitive=False),
        default="sc",
        show_default=True,
        help="Sequential consistency, or x86's store buffers.",
    ),
    click.option("--force", is_flag=True, help="Run rows whose design lacks a capability."),
    click.option(
        "--jobs",
        "-j",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        metavar="N",
        help="Worker processes.",
    ),
    click.option(
        "--cluster", metavar="ADDRESS", help="Explore on a Dask cluster (extra septum[cluster])."
    ),
    click.option(
        "--param",
        "-p",
        "params",
        type=PARAM,
        multiple=True,
        help="Change a parameter of the scenarios, e.g. bits=2.  May be repeated.",
    ),
)


def words_of(ctx: click.Context, without: Sequence[str] = ()) -> list[str]:
    """The command line as it was understood: words that give the same again.

    :param without: parameters to leave out.
    """
    words = [str(ctx.command.name)]
    for param in ctx.command.params:
        name = str(param.name)
        if name in without:
            continue
        if ctx.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        value = ctx.params[name]
        if isinstance(param, click.Argument):
            words += [str(v) for v in value]
        elif isinstance(param, click.Option) and param.is_flag:
            words.append(param.opts[0] if value else param.secondary_opts[0])
        else:
            for one in value if param.multiple else (value,):
                words += [param.opts[0], _word(one)]
    return words


def _word(value: Any) -> str:
    if isinstance(value, tuple):
        return "=".join(map(str, value))
    return f"{value:g}s" if isinstance(value, float) else str(value)


def explorer(
    strategy: str,
    retries: int,
    max_executions: int,
    budget: float,
    first: bool,
    seed: int,
    memory_model: str = "sc",
    bound: int = 2,
    deep: bool = False,
    depth: int = 3,
    all_findings: bool = False,
    states: bool = False,
) -> Options:
    """The explorer's options; ``states``: what is explored can be kept midway."""
    if strategy == "stateful" and not states:
        raise click.UsageError(
            "--strategy stateful: only compiled code can be kept midway (septum kernel check); "
            "for designs: optimal, or states"
        )
    if strategy == "stateful" and retries:
        raise click.UsageError("--retries: strategy stateful folds repeats by their states")
    if deep and strategy in ("states", "naive", "random", "pct"):
        raise click.UsageError(f"--deep is the strategy bounded, not {strategy}")
    if first and all_findings:
        raise click.UsageError("--first stops at one finding, --all-findings wants every one")
    return Options(
        strategy="bounded" if deep else strategy,
        retries=retries,
        max_executions=max_executions,
        budget_s=budget,
        first=first,
        seed=seed,
        memory_model=memory_model.upper(),
        bound=bound,
        deep=deep,
        depth=depth,
        all_findings=all_findings,
    )
