# SPDX-License-Identifier: GPL-2.0-only
"""`septum tdx shell` on a real pseudo-terminal: editing, history, completion, signals."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src"
PROMPT = "tdx> "
DEADLINE = 30.0


class Terminal:
    """A shell that believes that a person types."""

    def __init__(self, home: Path) -> None:
        main, side = pty.openpty()
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "TERM": "dumb",
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": str(SRC),
            "COLUMNS": "80",
            "INPUTRC": "/dev/null",
        }
        command = "from septum.cli import main; main(prog_name='septum')"
        self.process = subprocess.Popen(
            [sys.executable, "-c", command, "tdx", "shell"],
            stdin=side,
            stdout=side,
            stderr=side,
            cwd=home,
            env=environment,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(side)
        self.main = main
        self.seen = ""
        self.expect(PROMPT + "td vcpus=2 tables=G")
        self.expect(PROMPT)

    def _read(self, seconds: float) -> bool:
        if not select.select([self.main], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.main, 4096)
        except OSError:  # the other side is closed
            return False
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data.decode(errors="replace"))
        self.seen += text.replace("\x07", "").replace("\r", "")
        return bool(data)

    def expect(self, text: str) -> str:
        """Everything up to ``text``, which must appear."""
        end = time.monotonic() + DEADLINE
        while text not in self.seen:
            left = end - time.monotonic()
            assert left > 0, f"{text!r} not in {self.seen!r}"
            if not self._read(left):
                assert text in self.seen, f"ended before {text!r}: {self.seen!r}"
        before, _, self.seen = self.seen.partition(text)
        return before

    def type(self, keys: str) -> None:
        os.write(self.main, keys.encode())

    def line(self, text: str) -> str:
        """Type a line; what was printed before the next prompt."""
        self.type(text + "\n")
        return self.expect(PROMPT)

    def interrupt(self, answer: str) -> None:
        """Ctrl-C until it is answered (readline may notice it with the next key only),
        then everything up to the last prompt."""
        for _ in range(20):
            time.sleep(0.2)
            self.type("\x03")
            end = time.monotonic() + 2
            while answer not in self.seen and time.monotonic() < end:
                self._read(0.1)
            if answer in self.seen:
                break
        self.expect(answer)
        self.expect(PROMPT)
        while self._read(0.3):
            pass
        self.seen = ""

    def end(self) -> int:
        """Wait for the end."""
        return self.process.wait(DEADLINE)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.main)


def _take_terminal() -> None:
    """Make stdin the controlling terminal, so that Ctrl-C sends a signal."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    shell = Terminal(tmp_path)
    yield shell
    shell.close()


def test_a_session(terminal: Terminal, tmp_path: Path) -> None:
    assert "TDX_SUCCESS" in terminal.line("TDH.MEM.PAGE.AUG G 4K p0")
    # Tab completes a call, a level and a page.
    terminal.type("TDH.MEM.PAGE.RELO\tG p1")
    terminal.expect("TDH.MEM.PAGE.RELOCATE ")
    assert "GPA_RANGE_NOT_BLOCKED|RCX" in terminal.line("")
    # Ctrl-C drops what was typed, and nothing else.
    terminal.type("TDH.MEM.PAGE.REM")
    terminal.expect("TDH.MEM.PAGE.REM")
    terminal.interrupt("^C")
    assert "PENDING    p0" in terminal.line("tree")
    # The arrow goes back in the history.
    terminal.type("\x1b[A")
    terminal.expect("tree")
    assert "PENDING    p0" in terminal.line("")
    assert "undone: TDH.MEM.PAGE.RELOCATE G p1" in terminal.line("undo")
    # A wrong line is answered under its column.
    told = terminal.line("TDH.MEM.PAGE.AUG G 3K p0")
    lines = [line.rstrip() for line in told.split("\n")]
    typed = next(n for n, line in enumerate(lines) if line.endswith("3K p0"))
    assert lines[typed + 1].index("^") == len(PROMPT) + "TDH.MEM.PAGE.AUG G 3K p0".index("3K")
    terminal.type("\x04")
    assert terminal.end() == 0
    history = (tmp_path / ".local/state/septum/tdx-history").read_text()
    assert "TDH.MEM.PAGE.RELOCATE G p1" in history


def test_history_of_the_last_session(terminal: Terminal, tmp_path: Path) -> None:
    terminal.line("TDH.MEM.SEPT.RD G 2M")
    terminal.type("quit\n")
    assert terminal.end() == 0
    again = Terminal(tmp_path)
    try:
        again.type("\x1b[A\x1b[A")
        again.expect("TDH.MEM.SEPT.RD G 2M")
        assert "entry: NL_MAPPED" in again.line("")
    finally:
        again.close()


def test_ctrl_c_takes_a_running_call_back(terminal: Terminal) -> None:
    terminal.type("TDH.PHYMEM.PAGE.RDMD p0 x262144\n")
    terminal.expect("x262144")
    terminal.interrupt("interrupted: nothing was changed")
    assert "TDX_SUCCESS" in terminal.line("TDH.MEM.PAGE.AUG G 4K p0")
    assert "RDMD" not in terminal.line("list")
