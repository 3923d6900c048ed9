# SPDX-License-Identifier: GPL-2.0-only
"""Calls between kernel functions, read from the text of a user's design.

A misspelt ``kvm.fn.NAME``, or a function that does not take what its callers pass, would
show only in the middle of an execution.  `check_calls` finds both before anything runs.  It
sees calls that are written out, ``kvm.fn.NAME(...)`` or ``fn.NAME(...)``; what else goes
wrong is an EXCEPTION when it happens.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

__all__ = ["check_calls", "nearest"]

Function = Callable[..., Any]


class _Use(NamedTuple):
    """``kvm.fn.name``; ``call`` is None where it is not called on the spot."""

    name: str
    line: int
    call: ast.Call | None


def nearest(name: str, known: list[str]) -> str:
    """`` (nearest: ...)``, or nothing."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f" (nearest: {', '.join(near)})" if near else ""


def check_calls(
    own: Mapping[str, Function], base: Mapping[str, Function], base_name: str
) -> tuple[int, str] | None:
    """The first thing that is wrong with the functions ``own`` on top of those of ``base``:
    its line in their file, and what to do about it."""
    whole = {**base, **own}
    called = set()
    for function in own.values():
        for use in _uses(function):
            called.add(use.name)
            if use.name not in whole:
                near = nearest(use.name, list(whole))
                return use.line, f"there is no kernel function {use.name!r}{near}"
            wrong = _misfit(whole[use.name], use.call)
            if wrong:
                takes = f"{use.name}{_parameters(whole[use.name])}"
                return use.line, f"{takes} is called wrongly: {wrong}"
    for name, function in own.items():
        if name in base and _parameters(function) != _parameters(base[name]):
            wrong = _callers_misfit(name, function, base, own, name in called)
            if wrong:
                return _source(function)[1], (
                    f"{name}{_parameters(function)} does not fit {wrong}; take "
                    f"{_parameters(base[name])} as in {base_name}, or replace the callers too"
                )
    return None


def _callers_misfit(
    name: str,
    function: Function,
    base: Mapping[str, Function],
    own: Mapping[str, Function],
    called: bool,
) -> str:
    """Which caller that ``own`` leaves as it is passes something else.  A function that
    only operations call must take what the one took that it replaces."""
    for caller, text in base.items():
        if caller in own or f"fn.{name}(" not in "".join(_source(text)[0]):
            continue
        for use in _uses(text):
            if use.name == name:
                called = True
                wrong = _misfit(function, use.call)
                if wrong:
                    return f"the call in {caller}(): {wrong}"
    if called:
        return ""
    wanted = [
        p
        for p in inspect.signature(base[name]).parameters.values()
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    wrong = _bind(function, len(wanted), [])
    return f"its callers: {wrong}" if wrong else ""


def _uses(function: Function) -> Iterator[_Use]:
    """Every kernel function that the text of ``function`` names."""
    lines, first = _source(function)
    tree = ast.parse(textwrap.dedent("".join(lines)))
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_fn(node.value):
            yield _Use(node.attr, first + node.lineno - 1, calls.get(id(node)))


def _is_fn(node: ast.expr) -> bool:
    """``kvm.fn``, ``vcpu.kvm.fn``, or a local name for it."""
    if isinstance(node, ast.Attribute):
        return node.attr == "fn"
    return isinstance(node, ast.Name) and node.id == "fn"


def _source(function: Function) -> tuple[list[str], int]:
    """Lines, and the number of the first one.  A builtin has none."""
    try:
        return inspect.getsourcelines(function)
    except (OSError, TypeError):
        return [], 1


def _misfit(function: Function, call: ast.Call | None) -> str:
    """Why ``call`` does not fit ``function``; empty if it does or cannot be told."""
    if call is None or any(isinstance(arg, ast.Starred) for arg in call.args):
        return ""
    keywords = [keyword.arg for keyword in call.keywords]
    if None in keywords:
        return ""
    return _bind(function, len(call.args), [word for word in keywords if word is not None])


def _bind(function: Function, positional: int, keywords: list[str]) -> str:
    try:
        inspect.signature(function).bind(*[None] * positional, **dict.fromkeys(keywords))
    except TypeError as error:
        return str(error)
    return ""


def _parameters(function: Function) -> str:
    """The parameters without their types."""
    parameters = inspect.signature(function).parameters.values()
    bare = [p.replace(annotation=p.empty) for p in parameters]
    return str(inspect.Signature(bare))
