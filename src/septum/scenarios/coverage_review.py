# SPDX-License-Identifier: GPL-2.0-only
"""Reviewed reasons for what the default suite never reaches: docs/coverage.toml.

``[[branch]]`` with ``function`` and ``branch``, ``[[status]]`` with ``call`` and ``status``,
and a ``reason`` each.  The first two may hold shell wildcards (``*``): one reason for a family.
Keyed by text, so that a moved line makes nothing stale.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from septum.scenarios.coverage import Item

__all__ = ["BadReview", "Reason", "Reviewed", "load", "review"]

_KEYS = {"branch": ("function", "branch"), "status": ("call", "status")}


class BadReview(ValueError):
    """A file of reasons that cannot be used: what, where, how to mend it."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why nothing reaches the items that it covers."""

    kind: str
    where: str
    what: str
    reason: str

    def covers(self, item: Item) -> bool:
        return (
            item.kind == self.kind
            and _matches(item.where, self.where)
            and _matches(item.what, self.what)
        )

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def _matches(text: str, pattern: str) -> bool:
    """Only ``*`` is special: the text of a branch is full of brackets."""
    return fnmatchcase(text, pattern.replace("[", "[[]").replace("?", "[?]"))


@dataclass(frozen=True, slots=True)
class Reviewed:
    """Unreached items with and without a reason, and reasons that cover none of them."""

    explained: list[tuple[Item, Reason]]
    unexplained: list[Item]
    stale: list[Reason]

    @property
    def status(self) -> int:
        """The command's exit status."""
        return 3 if self.unexplained or self.stale else 0


def load(path: Path) -> list[Reason]:
    """Read the file.

    :raises BadReview: what is wrong and where.
    """
    try:
        data = tomllib.loads(path.read_text())
    except OSError as error:
        raise BadReview(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadReview(f"{path}: not TOML: {error}") from None
    strange = sorted(set(data) - set(_KEYS))
    if strange:
        raise BadReview(
            f"{path}: unknown table {strange[0]!r}; there are [[branch]] and [[status]]"
        )
    reasons: list[Reason] = []
    for kind, keys in _KEYS.items():
        for n, entry in enumerate(data.get(kind, []), 1):
            reasons.append(_reason(f"{path}: {kind} {n}", kind, keys, entry))
    return reasons


def _reason(where: str, kind: str, keys: Sequence[str], entry: Mapping[str, Any]) -> Reason:
    wanted = (*keys, "reason")
    if not isinstance(entry, dict) or sorted(entry) != sorted(wanted):
        raise BadReview(f"{where}: must have exactly {', '.join(wanted)}")
    for key in wanted:
        if not isinstance(entry[key], str) or not entry[key].strip():
            raise BadReview(f"{where}: {key} must be a text that is not empty")
    return Reason(kind, entry[keys[0]], entry[keys[1]], entry["reason"])


def review(items: Mapping[Item, bool], reasons: Iterable[Reason]) -> Reviewed:
    """Match what was not reached with the reasons.  A reason is stale if what it names was
    reached, or is no longer there."""
    unreached = [item for item, reached in items.items() if not reached]
    left = list(reasons)
    used: set[Reason] = set()
    explained: list[tuple[Item, Reason]] = []
    unexplained: list[Item] = []
    for item in sorted(unreached):
        found = [reason for reason in left if reason.covers(item)]
        used.update(found)
        if found:
            explained.append((item, found[0]))
        else:
            unexplained.append(item)
    return Reviewed(explained, unexplained, [reason for reason in left if reason not in used])
