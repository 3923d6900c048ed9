# SPDX-License-Identifier: GPL-2.0-only
"""Whole scripts: parsed to the end before the first call runs.

So a misspelt name in the last line costs nothing.  Running prints every line as written,
under it what it did, and at the end the S-EPT.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from septum.tdx.console.explain import explain, view
from septum.tdx.console.lexer import ScriptError
from septum.tdx.console.names import Names
from septum.tdx.console.parser import Parser
from septum.tdx.console.session import Session
from septum.tdx.console.statement import Call, GuestEvent, Show, Statement

__all__ = ["Line", "Script", "Verdict", "parse_script", "run_script"]

_MOST_ERRORS = 20


@dataclass(frozen=True, slots=True)
class Line:
    """One line; ``names`` are those that hold after it."""

    number: int
    text: str
    statement: Statement | None
    names: Names


@dataclass(frozen=True, slots=True)
class Script:
    """A parsed file; with ``errors``, each with line and column, it is not run."""

    lines: tuple[Line, ...]
    errors: tuple[ScriptError, ...]


@dataclass
class Verdict:
    """How a run went.

    :ivar unmet: numbers of the lines whose expectation failed.
    :ivar findings: what the machine reported.
    """

    calls: int = 0
    expected: int = 0
    unmet: tuple[int, ...] = ()
    findings: int = 0
    hypothetical: str = ""

    def __str__(self) -> str:
        calls = f"{self.calls} call{'s' if self.calls != 1 else ''}"
        if not self.expected:
            text = f"{calls}, nothing expected"
        elif not self.unmet:
            text = f"{calls}, all {self.expected} expectations met"
        else:
            lines = ", ".join(map(str, self.unmet))
            text = (
                f"{calls}, {len(self.unmet)} of {self.expected} expectations failed: line {lines}"
            )
        return text + (f"; module profile {self.hypothetical}" if self.hypothetical else "")

    @property
    def ok(self) -> bool:
        return not self.unmet and not self.findings


def parse_script(data: bytes, session: Session) -> Script:
    """Every line, for a run on ``session`` in its present state."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = error.start - (before.rfind(b"\n") + 1) + 1
        return Script((), (ScriptError("not UTF-8 text here", column, line),))
    parser = Parser(session.names, session.platform)
    lines: list[Line] = []
    errors: list[ScriptError] = []
    for number, raw in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        plain = raw.removesuffix("\r")
        try:
            statement = parser.parse(plain)
        except ScriptError as error:
            errors.append(error.at(number))
            if len(errors) == _MOST_ERRORS:
                errors.append(ScriptError("too many errors: the rest was not read", 0, number))
                break
            continue
        lines.append(Line(number, plain, statement, parser.names))
    while lines and not lines[-1].text.strip():
        lines.pop()
    return Script(tuple(lines), tuple(errors))


def run_script(
    session: Session, script: Script, verdict: Verdict, *, registers: bool = False
) -> Iterator[str]:
    """Run a script without errors; yields the lines to print and fills ``verdict``.

    :raises ScriptError: something that cannot be done; the lines before it stay done.
    """
    assert not script.errors
    last: Statement | None = None
    for line in script.lines:
        yield f"{line.number:>4}  {_printable(line.text)}".rstrip()
        if line.statement is None:
            continue
        try:
            outcome = session.execute(line.text, line.statement, line.names)
        except ScriptError as error:
            raise error.at(line.number) from None
        last = line.statement
        if isinstance(last, Call | GuestEvent):
            verdict.calls += outcome.ran
            verdict.expected += last.expect is not None
            verdict.findings += len(outcome.findings)
            if not outcome.met:
                verdict.unmet = (*verdict.unmet, line.number)
        for told in explain(session, outcome, registers=registers):
            yield f"      {told}".rstrip()
    if session.module.profile.hypothetical:
        verdict.hypothetical = str(session.module.profile)
    if not isinstance(last, Show):
        yield ""
        for td in session.tds():
            yield from view(session, "tree", td).split("\n")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\t" else "?" for c in text).expandtabs(2)
