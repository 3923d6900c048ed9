# SPDX-License-Identifier: GPL-2.0-only
"""Frames of a task as values that can be compared, for `septum.machine.frames`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import FrameType, FunctionType, GeneratorType, MethodType
from typing import Any, Final

from mypy_extensions import mypyc_attr

from septum.machine.state import Cell

__all__ = ["Moment", "Reader", "timeless"]

_DEPTH: Final = 3  # of objects in local variables: what they hold, and what that holds
_ATOMS: Final = (int, str, bytes, float, type(None), Enum, type)


@mypyc_attr(native_class=False)
class Moment(int):
    """A log position or the like that code keeps: no part of a state, for it always grows."""


def timeless(value: Any) -> Any:
    """A value of shared state without the moments in it."""
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple([timeless(v) for v in value])
    return Moment.__name__ if type(value) is Moment else value


class Reader:
    """Reads one task; an object that was read already is not read again."""

    def __init__(self, opaque: tuple[str, ...]) -> None:
        self.opaque = opaque
        self.seen: set[int] = set()

    def frames(self, frame: FrameType | None) -> tuple[object, ...]:
        out: list[object] = []
        while frame is not None:
            if not frame.f_globals.get("__name__", "").startswith(self.opaque):
                out.append((frame.f_code, frame.f_lasti, self._names(frame.f_locals, _DEPTH)))
            frame = frame.f_back
        return tuple(out)

    def _names(self, values: Mapping[Any, Any], depth: int) -> tuple[object, ...]:
        return tuple([(name, self._value(value, depth)) for name, value in values.items()])

    def _value(self, value: Any, depth: int) -> object:
        """What it holds now; shared state (cells) by name, the journal knows its values."""
        kind = type(value)
        how = _HOW.get(kind, -1)
        if how < 0:
            how = _HOW[kind] = _how(kind)
        if how == _ITSELF:
            return value
        if how == _NAMED:
            return value.name
        if how == _MOMENT:
            return kind.__name__
        if how == _FUNCTION:
            return value.__qualname__
        if depth == 0 or id(value) in self.seen or kind.__module__.startswith(self.opaque):
            return kind.__name__
        self.seen.add(id(value))
        if how == _METHOD:
            return (value.__qualname__, self._value(value.__self__, depth - 1))
        if how == _GENERATOR:
            return (self.frames(value.gi_frame), self._value(value.gi_yieldfrom, depth))
        if how == _SEQUENCE:
            return (kind.__name__, *[self._value(v, depth) for v in value])
        if how == _SET:
            return (kind.__name__, *sorted(repr(self._value(v, depth)) for v in value))
        if how == _DICT:
            keys = [(self._value(k, depth), self._value(v, depth)) for k, v in value.items()]
            return (kind.__name__, *keys)
        return (kind.__name__, *self._attributes(value, depth - 1))

    def _attributes(self, value: Any, depth: int) -> list[object]:
        out: list[object] = list(self._names(getattr(value, "__dict__", {}), depth))
        kind = type(value)
        slots = _SLOTS.get(kind)
        if slots is None:
            slots = _SLOTS[kind] = _slots(kind)
        for name in slots:
            held = getattr(value, name, _NOTHING)
            if held is not _NOTHING:
                out.append((name, self._value(held, depth)))
        return out


# Asked for every value, so what depends on its class only is remembered.
_ITSELF: Final = 0
_NAMED: Final = 1
_MOMENT: Final = 2
_FUNCTION: Final = 3
_METHOD: Final = 4
_GENERATOR: Final = 5
_SEQUENCE: Final = 6
_SET: Final = 7
_DICT: Final = 8
_OBJECT: Final = 9
_NOTHING: Final = object()
_HOW: Final[dict[type, int]] = {}
_SLOTS: Final[dict[type, tuple[str, ...]]] = {}


def _how(kind: type) -> int:
    """How a value of that class is read."""
    if kind is Moment:
        return _MOMENT
    for kinds, how in (
        (_ATOMS, _ITSELF),
        (Cell, _NAMED),
        (FunctionType, _FUNCTION),
        (MethodType, _METHOD),
        (GeneratorType, _GENERATOR),
        ((tuple, list), _SEQUENCE),
        ((set, frozenset), _SET),
        (dict, _DICT),
    ):
        if issubclass(kind, kinds):
            return how
    return _OBJECT


def _slots(kind: type) -> tuple[str, ...]:
    """Its slots and those of its bases."""
    out: list[str] = []
    for cls in kind.__mro__:
        slots = cls.__dict__.get("__slots__", ())
        out.extend((slots,) if isinstance(slots, str) else slots)
    return tuple(out)
