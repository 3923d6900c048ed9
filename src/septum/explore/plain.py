# SPDX-License-Identifier: GPL-2.0-only
"""Objects of known classes to JSON text and back, so that a search can be put aside.

Only the classes named at the call are made again: text from a file can build nothing else
and run nothing.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

__all__ = ["Damaged", "pack", "unpack"]


class Damaged(ValueError):
    """The text is not what `pack` wrote."""


def pack(value: Any, classes: Iterable[type]) -> str:
    """``value`` as one line of JSON."""
    names = {cls: cls.__name__ for cls in classes}
    return json.dumps(_out(value, names), separators=(",", ":"))


def unpack(text: str | bytes, classes: Iterable[type]) -> Any:
    """What `pack` was given.

    :raises Damaged: for anything else.
    """
    known = {cls.__name__: cls for cls in classes}
    try:
        return _in(json.loads(text), known)
    except Damaged:
        raise
    except Exception as error:
        raise Damaged(f"{type(error).__name__}: {error}") from None


def _slots(cls: type) -> list[str]:
    """Names of a class's attributes, in a fixed order."""
    if is_dataclass(cls):
        return [f.name for f in fields(cls)]
    # A compiled class keeps the names elsewhere.
    names: Any = getattr(cls, "__slots__", ()) or getattr(cls, "__mypyc_attrs__", ())
    return sorted(names)


def _out(value: Any, names: Mapping[type, str]) -> Any:
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind in (list, deque):
        return [_out(v, names) for v in value]
    if kind in names:
        if issubclass(kind, tuple):
            return {names[kind]: [_out(v, names) for v in value]}
        if issubclass(kind, dict):
            own = [_out(getattr(value, s), names) for s in _slots(kind)]
            return {names[kind]: [_out(dict(value), names), *own]}
        return {names[kind]: [_out(getattr(value, s), names) for s in _slots(kind)]}
    if kind is tuple:
        return {"()": [_out(v, names) for v in value]}
    if kind in (set, frozenset):
        mark = "{}" if kind is set else "<>"
        return {mark: [_out(v, names) for v in sorted(value)]}
    if kind is dict:
        return {"": [[_out(k, names), _out(v, names)] for k, v in value.items()]}
    raise TypeError(f"no plain form for {kind.__name__}")


def _in(value: Any, known: Mapping[str, type]) -> Any:
    if isinstance(value, list):
        return [_in(v, known) for v in value]
    if not isinstance(value, dict):
        return value
    ((mark, inner),) = value.items()
    if mark == "":
        return {_in(k, known): _in(v, known) for k, v in inner}
    parts = [_in(v, known) for v in inner]
    if mark == "()":
        return tuple(parts)
    if mark == "{}":
        return set(parts)
    if mark == "<>":
        return frozenset(parts)
    cls = known[mark]
    if issubclass(cls, tuple | dict) or is_dataclass(cls):
        return cls(*parts)
    made = cls.__new__(cls)
    for name, part in zip(_slots(cls), parts, strict=True):
        setattr(made, name, part)
    return made
