# SPDX-License-Identifier: GPL-2.0-only
"""Lines that are no calls: fixtures, names, lock holders.

=========================================== ============================================
``platform lps=4 packages=2 levels=5``      what the module runs on; also ``gpaw=1``,
                                            ``profile=linux-7.3``; before anything else
``td [NAME] vcpus=2 state=RUNNABLE``        a TD, built by the real calls; also
                                            ``tables=GPA,..``, ``hkid=N``, ``associate``
                                            (vCPU n stays on LP n), ``max_vcpus=N``,
                                            ``hp_timeout=TICKS``, ``pending_ve_disable``
``tables GPA [LEVEL]``                      SEPT.ADD what is missing above the entry
``page NAME... [2M]``, ``page NAME = HPA``  names for pages
``gpa NAME = GPA``                          a name for a GPA
``hold LOCK [MODE]``, ``drop LOCK [MODE]``  another agent takes or drops a lock
=========================================== ============================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from septum.tdx.console.lexer import LEVELS, ScriptError, Word, number, value_of
from septum.tdx.console.names import Names, NamesError, nearest
from septum.tdx.console.statement import (
    Define,
    HoldLock,
    MakeTables,
    MakeTd,
    Platform,
    Statement,
)
from septum.tdx.profiles import PROFILES, find_profile

__all__ = ["DIRECTIVES", "LOCKS", "Reader", "nothing_more"]

_MODES: Final = ("shared", "exclusive")
_AGENTS: Final = ("host", "guest")
_STATES: Final = ("INITIALIZED", "RUNNABLE")
# lock -> what addresses it
LOCKS: Final = {
    "sept-tree": "",
    "td-epoch": "",
    "op-state": "",
    "kot": "",
    "wbcache": "package",
    "pamt": "page",
    "pamt-walk": "page",
    "sept-entry": "entry",
}


class Reader:
    """The words of one line, and what earlier lines defined."""

    def __init__(self, names: Names, platform: Platform, words: list[Word], end: int) -> None:
        self.names = names
        self.platform = platform
        self.words = words
        self.end = end

    def value(self, word: Word) -> int:
        """An expression."""
        if not word.text:
            raise ScriptError("expected a number or a name here", word.column)
        return value_of(word, self.names.value, lambda name: nearest(name, self.names.known()))

    def number(self, word: Word, what: str, low: int, high: int) -> int:
        """A plain number within bounds."""
        found = number(word.text)
        if found is None or not low <= found <= high:
            raise ScriptError(f"expected {what}, {low} to {high}, not {word.shown()}", word.column)
        return found

    def level(self, word: Word) -> int:
        """A level by its name or number."""
        if word.text.upper() in LEVELS:
            return LEVELS.index(word.text.upper())
        found = number(word.text)
        if found is None or found > 7:
            raise ScriptError(
                f"expected a level ({', '.join(LEVELS)} or 0 to 7), not {word.shown()}",
                word.column,
            )
        return found

    def lp(self, word: Word) -> int:
        """``@lp1`` or ``@1``."""
        text = word.text[1:].lower().removeprefix("lp")
        last = self.platform.lps - 1
        if not text.isdecimal() or len(text) > 4 or int(text) > last:
            raise ScriptError(f"expected @lp0 to @lp{last}, not {word.shown()}", word.column)
        return int(text)

    def take_td(self, words: list[Word]) -> int:
        """Removes ``td=NAME`` from ``words``; the TDR, of the first TD without it."""
        for at, word in enumerate(words):
            if word.text.lower().startswith("td="):
                del words[at]
                return self.value(Word(word.text[3:], word.column + 3))
        td = self.names.value("td")
        assert td is not None
        return td


def nothing_more(words: list[Word]) -> None:
    if words:
        raise ScriptError(f"expected the end of the line, not {words[0].shown()}", words[0].column)


def _options(
    reader: Reader, keys: dict[str, Callable[[Word], None]], flags: dict[str, Callable[[], None]]
) -> None:
    """Feed every ``key=value`` and flag of the line to its taker."""
    known = [*(f"{key}=" for key in keys), *flags]
    seen: set[str] = set()
    for word in reader.words:
        key, equals, text = word.text.partition("=")
        key = key.lower()
        if key in seen:
            raise ScriptError(f"{key!r} is given twice", word.column)
        seen.add(key)
        if equals and key in keys:
            keys[key](Word(text, word.column + len(key) + 1))
        elif not equals and key in flags:
            flags[key]()
        else:
            hint = nearest(key + equals, known)
            raise ScriptError(f"expected {', '.join(known)}, not {word.shown()}{hint}", word.column)


# --- fixtures --------------------------------------------------------------------------------


def _platform(reader: Reader) -> Statement:
    found: dict[str, int] = {}
    profile = [reader.platform.profile]

    def counted(key: str, what: str, low: int, high: int) -> Callable[[Word], None]:
        return lambda word: found.__setitem__(key, reader.number(word, what, low, high))

    def named(word: Word) -> None:
        if find_profile(word.text) is None:
            hint = nearest(word.text, list(PROFILES))
            raise ScriptError(f"unknown profile {word.shown()}{hint}", word.column)
        profile[0] = word.text

    _options(
        reader,
        {
            "lps": counted("lps", "a number of LPs", 1, 64),
            "packages": counted("packages", "a number of packages", 1, 8),
            "levels": counted("levels", "a number of levels", 4, 5),
            "gpaw": counted("gpaw", "GPAW", 0, 1),
            "profile": named,
        },
        {},
    )
    if found.get("gpaw") and found.get("levels", reader.platform.levels) != 5:
        raise ScriptError("gpaw=1 needs levels=5", reader.end)
    platform = replace(reader.platform, profile=profile[0], **found)
    if platform.packages > platform.lps:
        raise ScriptError(f"{platform.packages} packages need as many LPs", reader.end)
    reader.platform = platform
    return platform


def _td(reader: Reader) -> Statement:
    name, slot = "td", 0
    if reader.words and "=" not in reader.words[0].text:
        word = reader.words[0]
        if word.text.lower() not in ("associate", "pending_ve_disable"):
            del reader.words[0]
            name = word.text
            if name in reader.names.tds:
                slot = reader.names.tds.index(name)
            else:
                reader.names = _defined(word, reader.names.with_td, name)
                slot = len(reader.names.tds) - 1
    made = MakeTd(name, slot, hkid=18 + slot)

    def put(**values: Any) -> None:
        nonlocal made
        made = replace(made, **values)

    def state(word: Word) -> None:
        if word.text.upper() not in _STATES:
            raise ScriptError(f"expected {' or '.join(_STATES)}, not {word.shown()}", word.column)
        put(state=word.text.upper())

    def tables(word: Word) -> None:
        gpas: list[int] = []
        column = word.column
        for part in word.text.split(","):
            gpas.append(reader.value(Word(part, column)))
            column += len(part) + 1
        put(tables=tuple(gpas))

    _options(
        reader,
        {
            "vcpus": lambda w: put(vcpus=reader.number(w, "a number of vCPUs", 0, 256)),
            "state": state,
            "tables": tables,
            "hkid": lambda w: put(hkid=reader.number(w, "an HKID", 0, 0xFFFF)),
            "max_vcpus": lambda w: put(max_vcpus=reader.number(w, "a number", 0, 0xFFFF)),
            "hp_timeout": lambda w: put(hp_lock_timeout=reader.value(w)),
        },
        {
            "associate": lambda: put(associate=True),
            "pending_ve_disable": lambda: put(pending_ve_disable=True),
        },
    )
    return made


def _tables(reader: Reader) -> Statement:
    words = list(reader.words)
    td = reader.take_td(words)
    if not words:
        raise ScriptError("expected a GPA", reader.end)
    gpa = reader.value(words.pop(0))
    level = reader.level(words.pop(0)) if words else 0
    nothing_more(words)
    return MakeTables(td, gpa, level)


# --- names -----------------------------------------------------------------------------------


def _defined(word: Word, define: Callable[..., Names], *args: object) -> Names:
    try:
        return define(*args)
    except NamesError as error:
        raise ScriptError(str(error), word.column) from None


def _parts(words: list[Word]) -> list[Word]:
    """``a=b`` as three words."""
    out: list[Word] = []
    for word in words:
        head, equals, tail = word.text.partition("=")
        if not equals:
            out.append(word)
            continue
        column = word.column + len(head)
        out += [Word(head, word.column)] if head else []
        out.append(Word("=", column))
        out += [Word(tail, column + 1)] if tail else []
    return out


def _assignment(reader: Reader) -> tuple[Word, int] | None:
    """``NAME = VALUE``; None without an equals sign."""
    parts = _parts(reader.words)
    if not any(word.text == "=" for word in parts):
        return None
    if parts[0].text == "=":
        raise ScriptError("expected a name before '='", parts[0].column)
    if parts[1].text != "=":
        raise ScriptError(f"expected '=', not {parts[1].shown()}", parts[1].column)
    if len(parts) == 2:
        raise ScriptError("expected an address after '='", reader.end)
    nothing_more(parts[3:])
    return parts[0], reader.value(parts[2])


def _page(reader: Reader) -> Statement:
    found = _assignment(reader)
    if found is not None:
        word, value = found
        reader.names = _defined(word, reader.names.with_page, word.text, value)
        return Define(((word.text, value),))
    words = list(reader.words)
    large = bool(words) and words[-1].text.upper() == "2M"
    if words and words[-1].text.upper() in ("4K", "2M"):
        words.pop()
    if not words:
        raise ScriptError("expected a name for the page", reader.end)
    values: list[tuple[str, int]] = []
    for word in words:
        reader.names = _defined(word, reader.names.with_new_page, word.text, large)
        values.append((word.text, reader.names.pages[word.text]))
    return Define(tuple(values))


def _gpa(reader: Reader) -> Statement:
    found = _assignment(reader)
    if found is None:
        raise ScriptError("expected NAME = GPA", reader.end)
    word, value = found
    reader.names = _defined(word, reader.names.with_gpa, word.text, value)
    return Define(((word.text, value),))


# --- locks -----------------------------------------------------------------------------------


def _hold(reader: Reader) -> Statement:
    return _lock(reader, acquire=True)


def _drop(reader: Reader) -> Statement:
    return _lock(reader, acquire=False)


def _lock(reader: Reader, *, acquire: bool) -> HoldLock:
    words = list(reader.words)
    td = reader.take_td(words)
    if not words:
        raise ScriptError(f"expected a lock: {', '.join(LOCKS)}", reader.end)
    lock = words.pop(0)
    name = lock.text.lower()
    if name not in LOCKS:
        hint = nearest(name, list(LOCKS))
        raise ScriptError(f"expected {', '.join(LOCKS)}, not {lock.shown()}{hint}", lock.column)
    choices = _AGENTS if name == "sept-entry" else _MODES
    mode = choices[0] if name == "sept-entry" else "exclusive"
    if words and words[-1].text.lower() in choices:
        mode = words.pop().text.lower()
    where = _address(reader, LOCKS[name], words)
    if words:
        expected = ", ".join(choices)
        raise ScriptError(f"expected {expected}, not {words[0].shown()}", words[0].column)
    return HoldLock(acquire, name, mode, where, td)


def _address(reader: Reader, kind: str, words: list[Word]) -> dict[str, int | str]:
    """The words that say which lock of its kind."""
    if not kind:
        return {}
    if not words:
        what = {"package": "a package", "page": "a page", "entry": "a GPA"}[kind]
        raise ScriptError(f"expected {what}", reader.end)
    word = words.pop(0)
    if kind == "package":
        return {"pkg": reader.number(word, "a package", 0, reader.platform.packages - 1)}
    at = reader.value(word)
    level = reader.level(words.pop(0)) if words else 0
    if kind == "page":
        if level > 2:
            raise ScriptError("expected 4K, 2M or 1G", word.column)
        return {"hpa": at, "size": level}
    if level >= reader.platform.levels:
        raise ScriptError(f"expected a level below {reader.platform.levels}", word.column)
    return {"gpa": at, "level": level}


DIRECTIVES: Final[dict[str, Callable[[Reader], Statement]]] = {
    "platform": _platform,
    "td": _td,
    "tables": _tables,
    "page": _page,
    "gpa": _gpa,
    "hold": _hold,
    "drop": _drop,
}
