# SPDX-License-Identifier: GPL-2.0-only
"""The shell's commands: nothing that is typed loses the session."""

from __future__ import annotations

from pathlib import Path

import pytest

from septum.tdx.console.session import Session
from septum.tdx.console.shell import COMMANDS, START, Shell


class Typed(Shell):
    """A shell that keeps what it says."""

    def __init__(self, *lines: str) -> None:
        self.told: list[str] = []
        super().__init__(self.told.append)
        self.type(*lines)

    def type(self, *lines: str) -> str:
        """Type lines; what the last one said."""
        for line in lines:
            del self.told[:]
            self.handle(line)
        return "\n".join(self.told)


AUG = "TDH.MEM.PAGE.AUG G 4K p0"


def started(*lines: str) -> Typed:
    return Typed(*START, *lines)


def test_calls_and_views() -> None:
    shell = started()
    assert shell.type(AUG) == "  TDX_SUCCESS"
    assert "PENDING    p0" in shell.type("tree") == shell.type("show tree")
    assert "vcpu1  READY" in shell.type("vcpus")
    assert "PT_REG    of td" in shell.type("pamt")
    assert shell.type("locks") == "  (all free)"
    assert "RUNNABLE, HKID 18" in shell.type("show state")
    assert "gpa G = 0x40000000" in shell.type("names")
    for text in (shell.type("show all"), shell.type("help"), shell.type("help script")):
        assert max(map(len, text.split("\n"))) <= 78


def test_undo() -> None:
    shell = started(AUG, "TDH.MEM.TRACK")
    assert shell.type("undo") == "  undone: TDH.MEM.TRACK"
    assert "PENDING" in shell.type("tree")
    assert "undone: TDH.MEM.PAGE.AUG" in shell.type("undo 1")
    assert "PENDING" not in shell.type("tree")
    assert "nothing is left" in shell.type("undo 99")
    assert "expected a number" in shell.type("undo x")
    assert shell.type(START[0]).startswith("  td: RUNNABLE")


def test_reset_and_its_undo() -> None:
    shell = started(AUG)
    shell.type("reset")
    assert "no TDCS" in shell.type("tree")
    assert shell.type("undo") == "  undone: reset"
    assert "PENDING" in shell.type("tree")


def test_save_and_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shell = started(AUG, "TDH.MEM.TRACK # twice is too much", "TDH.MEM.TRACK", "tree")
    assert shell.type("save a.tdx") == "  4 lines in a.tdx"
    assert Path("a.tdx").read_text().split("\n")[1:] == [
        START[0],
        f"{AUG} -> TDX_SUCCESS",
        "TDH.MEM.TRACK -> TDX_SUCCESS",
        "TDH.MEM.TRACK -> TDX_SUCCESS",
        "",
    ]
    assert "save -f a.tdx replaces it" in shell.type("save a.tdx")
    shell.type("undo", "save -f a.tdx")
    assert Path("a.tdx").read_text().count("TRACK") == 1
    shell.type("reset")
    told = shell.type("load a.tdx")
    assert "NOT AS EXPECTED" not in told and "TDX_SUCCESS" in told
    assert "PENDING" in shell.type("tree")
    assert shell.type("list") == "\n".join(Path("a.tdx").read_text().split("\n")[1:-1])


def test_load_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shell = started(AUG)
    Path("bad.tdx").write_text("TRACK\nTDH.MEM.PAGE.AGU G\n")
    told = shell.type("load bad.tdx")
    assert "bad.tdx:2:1: unknown call" in told and "nothing was loaded" in told
    assert "No such file" in shell.type("load none.tdx")
    assert "expected load FILE" in shell.type("load")
    assert "PENDING" in shell.type("tree")
    Path("half.tdx").write_text("td\nguest interrupt\nTRACK\n")
    assert "half.tdx:2: no vCPU is in the guest" in shell.type("load half.tdx")
    shell.type("undo 2")
    assert "PENDING" in shell.type("tree")


def test_save_where_nobody_may(tmp_path: Path) -> None:
    told = started().type(f"save {tmp_path}/none/a.tdx")
    assert "No such file" in " ".join(told.split()) and f"{tmp_path}/none/a.tdx:" in told
    assert "expected save" in started().type("save")


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("TDH.MEM.PAGE.AGU G 4K p0", "nearest: TDH.MEM.PAGE.AUG"),
        ("quti", "nearest: quit"),
        ("xyzzy", "help lists what there is"),
        ("help xyzzy", "no help on 'xyzzy'"),
        ("registers maybe", "registers on or registers off"),
        ("guest touch G", "no vCPU is in the guest"),
        ("TDH.MEM.PAGE.AUG G 3K p0", "expected a level"),
        ("\x00\x01", "unknown"),
    ],
)
def test_a_wrong_line_says_what_was_expected(line: str, part: str) -> None:
    shell = started(AUG)
    assert part in " ".join(shell.type(line).split())
    assert max(map(len, "\n".join(shell.told).split("\n"))) <= 78
    assert "PENDING" in shell.type("tree")


def test_the_arrow_stands_under_the_column() -> None:
    shell = started()
    line = "TDH.MEM.PAGE.AUG G 3K p0"
    arrow = shell.type(line).split("\n")[0]
    assert f"{shell.prompt}{line}"[arrow.index("^") :].startswith("3K")


@pytest.mark.parametrize(
    ("fault", "told"),
    [(KeyboardInterrupt(), "interrupted"), (RuntimeError("flat tables"), "internal error")],
)
def test_a_fault_in_a_call_takes_it_back(
    monkeypatch: pytest.MonkeyPatch, fault: BaseException, told: str
) -> None:
    shell = started(AUG)
    once = Session._once

    def fail(self: Session, *args: object) -> object:
        once(self, *args)  # type: ignore[arg-type]
        raise fault

    monkeypatch.setattr(Session, "_once", fail)
    said = shell.type("TDH.MEM.RANGE.BLOCK G 4K")
    assert told in said and "nothing was changed" in said
    monkeypatch.undo()
    assert "PENDING    p0" in shell.type("tree")
    assert shell.type("TDH.MEM.RANGE.BLOCK G 4K") == "  TDX_SUCCESS"


def test_registers() -> None:
    shell = started("registers on")
    assert "in   rax=0x6 rcx=0x40000000" in shell.type(AUG)
    shell.type("registers off")
    assert "rax=" not in shell.type("TDH.MEM.TRACK")


def test_a_hypothetical_module_is_marked_in_the_prompt() -> None:
    shell = Typed("platform profile=1.5.01+nonblocking-resize")
    assert shell.prompt == "tdx (hypothetical)> "
    shell.type("undo")
    assert shell.prompt == "tdx> "


def test_quit() -> None:
    for word in ("quit", "exit"):
        shell = Typed(word)
        assert shell.finished


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("TDH.MEM.PAGE.A", ["TDH.MEM.PAGE.ADD", "TDH.MEM.PAGE.AUG"]),
        ("tdh.mem.tr", ["TDH.MEM.TRACK"]),
        ("promote", ["TDH.MEM.PAGE.PROMOTE"]),
        ("un", ["undo"]),
        ("AUG ", ["G"]),
        ("AUG G ", ["4K", "2M"]),
        ("AUG G 4K ", ["p0", "m0"]),
        ("AUG G 4K p0 ", ["@lp0", "->"]),
        ("AUG G 4K p0 -> OPERAND_B", ["OPERAND_BUSY"]),
        ("TDH.VP.ENTER v", ["vcpu0"]),
        ("guest ", ["touch", "interrupt"]),
        ("show ", ["tree", "pamt"]),
        ("hold s", ["sept-tree", "sept-entry"]),
        ("td s", ["state="]),
        ("help TDH.VP.E", ["TDH.VP.ENTER"]),
        ("registers ", ["on", "off"]),
    ],
)
def test_completion(line: str, some: list[str]) -> None:
    found = started().complete(line)
    assert set(some) <= set(found)
    last = "" if line.endswith(" ") else line.split()[-1]
    assert all(word.lower().startswith(last.lower()) for word in found) or len(found) == 1


def test_completion_of_what_is_nothing() -> None:
    shell = started()
    assert shell.complete("xyzzy ") == [] and shell.complete("xyzzy") == []
    assert set(COMMANDS) <= set(shell.complete(""))
