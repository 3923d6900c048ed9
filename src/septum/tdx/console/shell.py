# SPDX-License-Identifier: GPL-2.0-only
"""The interactive form: a line in, text out.  It knows nothing of terminals.

A line is a statement of the script language or one of the commands below.  Whatever is
typed, the session survives: what cannot be parsed or done changes nothing, an interrupted
or failing call is taken back.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from septum.tdx.console.calls import CALLS, CallForm, resolve_call
from septum.tdx.console.directives import LOCKS
from septum.tdx.console.expect import EVENTS
from septum.tdx.console.explain import WIDTH, explain
from septum.tdx.console.lexer import ARROW, LEVELS, ScriptError
from septum.tdx.console.manual import TOPICS, overview, topic
from septum.tdx.console.parser import GUEST_EVENTS, STATEMENTS
from septum.tdx.console.script import parse_script
from septum.tdx.console.session import Session
from septum.tdx.console.statement import Views
from septum.tdx.status import VALUES

__all__ = ["COMMANDS", "START", "Shell"]

START: Final = ("td vcpus=2 tables=G",)
"""What a new shell begins with."""

COMMANDS: Final = {
    "help": "help [CALL|STATUS|TOPIC]  what there is; a call's checks and errors",
    "undo": "undo [N]                  take the last N statements back",
    "list": "list                      what was done, as a script",
    "save": "save [-f] FILE            write that script; -f replaces a file",
    "load": "load FILE                 start anew and run a script",
    "reset": "reset                     start anew, with no TD",
    "registers": "registers on|off          show every register of a call",
    "quit": "quit                      leave (or Ctrl-D)",
}
_PAGES: Final = ("p0", "p1", "m0", "s0")
_TD_OPTIONS: Final = ("vcpus=", "state=", "tables=", "hkid=", "associate")


class Shell:
    """The state of a session and the commands on it.

    :ivar finished: ``quit`` was typed.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.session = Session()
        self.earlier: list[tuple[str, Session]] = []  # what load and reset put aside
        self.registers = False
        self.finished = False
        self._commands: dict[str, Callable[[list[str]], None]] = {
            "help": self._help,
            "?": self._help,
            "undo": self._undo,
            "list": self._list,
            "save": self._save,
            "load": self._load,
            "reset": self._reset,
            "registers": self._registers,
            "quit": self._quit,
            "exit": self._quit,
        }

    def handle(self, line: str) -> None:
        """Execute one line."""
        try:
            words = line.split()
            command = self._commands.get(words[0].lower()) if words else None
            if command is not None:
                command(words[1:])
            else:
                self._statement(line)
        except ScriptError as error:
            self._wrong(error, line)
        except KeyboardInterrupt:
            self.say("interrupted: nothing was changed")
        except Exception as error:  # the session must survive a fault of ours
            self._tell(f"internal error: {type(error).__name__}: {error}; nothing was changed")

    def _statement(self, line: str) -> None:
        try:
            outcome = self.session.run(line)
        except ScriptError as error:
            if error.message.startswith("unknown call") and "nearest" not in error.message:
                near = get_close_matches(line.split()[0].lower(), list(COMMANDS), 2, 0.6)
                hint = f" (nearest: {', '.join(near)})" if near else "; help lists what there is"
                raise ScriptError(error.message + hint, error.column) from None
            raise
        if outcome is not None:
            for told in explain(self.session, outcome, registers=self.registers):
                self.say(f"  {told}".rstrip())

    def _wrong(self, error: ScriptError, line: str) -> None:
        """The error, and an arrow under its column."""
        if error.column and "\t" not in line and len(self.prompt) + len(line) <= WIDTH:
            self.say(" " * (len(self.prompt) + error.column - 1) + "^")
        self._tell(error.message)

    def _tell(self, text: str) -> None:
        """Prose, in lines of at most 78 columns."""
        lines = textwrap.wrap(
            text, WIDTH, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False
        )
        self.say("\n".join(lines))

    # --- commands ----------------------------------------------------------------------

    def _help(self, words: list[str]) -> None:
        if words:
            try:
                self.say(topic(words[0]))
            except KeyError as error:
                raise ScriptError(str(error.args[0])) from None
            return
        self.say("A line is a call, a fixture, or one of these commands:\n")
        for text in COMMANDS.values():
            self.say(f"  {text}")
        self.say(f"  {', '.join(Views)}: show a part of the state\n")
        self.say(overview())

    def _undo(self, words: list[str]) -> None:
        count = 1
        if words:
            if not words[0].isdecimal() or not int(words[0][:9]) >= 1:
                raise ScriptError(f"expected a number, not {words[0]!a}")
            count = int(words[0][:9])
        for _ in range(count):
            text = self.session.undo()
            if text is None and self.earlier:
                text, self.session = self.earlier.pop()
            if text is None:
                self.say("nothing is left to undo")
                return
            self.say(f"  undone: {text}")

    @property
    def prompt(self) -> str:
        """What asks for a line; it says when the module is one that nobody has."""
        return "tdx (hypothetical)> " if self.session.module.profile.hypothetical else "tdx> "

    def _list(self, words: list[str]) -> None:
        self.say(self.session.script().rstrip("\n") or "nothing was done")

    def _save(self, words: list[str]) -> None:
        force = words[:1] == ["-f"]
        names = words[1:] if force else words
        if len(names) != 1:
            raise ScriptError("expected save [-f] FILE")
        path = Path(names[0]).expanduser()
        if path.exists() and not force:
            raise ScriptError(f"{names[0]} exists; save -f {names[0]} replaces it")
        text = f"# septum tdx run {path.name}\n{self.session.script()}"
        try:
            path.write_text(text)
        except OSError as error:
            raise ScriptError(f"{names[0]}: {error.strerror or error}") from None
        self.say(f"  {len(self.session.done)} lines in {names[0]}")

    def _load(self, words: list[str]) -> None:
        if len(words) != 1:
            raise ScriptError("expected load FILE")
        try:
            data = Path(words[0]).expanduser().read_bytes()
        except OSError as error:
            raise ScriptError(f"{words[0]}: {error.strerror or error}") from None
        self.load(words[0], data)

    def load(self, name: str, data: bytes) -> None:
        """Put the present session aside and run a script; with an error nothing is done."""
        session = Session()
        script = parse_script(data, session)
        if script.errors:
            for error in script.errors:
                self._tell(f"{name}:{error}")
            self.say("nothing was loaded")
            return
        self._put_aside(f"load {name}", session)
        for line in script.lines:
            if line.statement is None:
                continue
            self.say(f"  {line.text.strip()}")
            try:
                outcome = session.execute(line.text, line.statement, line.names)
            except ScriptError as error:
                self._tell(f"{name}:{error.at(line.number)}")
                self.say("stopped here; what was run so far stays")
                return
            for told in explain(session, outcome, registers=self.registers):
                self.say(f"    {told}".rstrip())

    def _put_aside(self, text: str, new: Session) -> None:
        if self.session.done:
            self.earlier.append((text, self.session))
        self.session = new

    def _reset(self, words: list[str]) -> None:
        self._put_aside("reset", Session())
        self.say("  no TD; td vcpus=2 tables=G makes one")

    def _registers(self, words: list[str]) -> None:
        if words not in (["on"], ["off"]):
            raise ScriptError("expected registers on or registers off")
        self.registers = words == ["on"]

    def _quit(self, words: list[str]) -> None:
        self.finished = True

    # --- completion ----------------------------------------------------------------------

    def complete(self, line: str) -> list[str]:
        """What the last word of ``line`` (up to the cursor) may become."""
        words = line.split()
        last = "" if not words or line[-1:].isspace() else words.pop()
        found = [text for text in self._options(words) if text.lower().startswith(last.lower())]
        if not words and not found:
            calls = resolve_call(last) if last else []
            return calls if len(calls) == 1 else []
        return found

    def _options(self, words: list[str]) -> list[str]:
        if not words:
            return [*COMMANDS, *STATEMENTS, *Views, *CALLS]
        first = words[0].lower()
        if first == "help":
            return [*CALLS, *TOPICS, *(name for name in VALUES)]
        if first == "show":
            return list(Views)
        if first == "registers":
            return ["on", "off"]
        if first in ("save", "load"):
            return [str(path) for path in sorted(Path().glob("*.tdx"))]
        if words[-1] == ARROW:
            return [*EVENTS, *(name.removeprefix("TDX_") for name in VALUES)]
        lps = [f"@lp{lp}" for lp in range(self.session.platform.lps)]
        if first == "guest":
            return list(GUEST_EVENTS) if len(words) == 1 else [*self.session.names.gpas, *lps]
        if first in ("hold", "drop"):
            return list(LOCKS) if len(words) == 1 else ["shared", "exclusive"]
        if first == "td":
            return list(_TD_OPTIONS)
        calls = resolve_call(first)
        if len(calls) != 1:
            return []
        return self._operands(CALLS[calls[0]], words) or [*lps, ARROW]

    def _operands(self, form: CallForm, words: list[str]) -> list[str]:
        """What the next operand may be."""
        given = [w for w in words[1:] if "=" not in w and not w.startswith("@")]
        names = self.session.names
        if len(given) >= len(form.positional):
            return []
        return {
            "gpa": list(names.gpas),
            "level": list(LEVELS),
            "page": [*names.pages, *_PAGES],
            "vcpu": ["vcpu0", "vcpu1"],
        }.get(form.positional[len(given)].kind, [])
