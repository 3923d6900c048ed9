# SPDX-License-Identifier: GPL-2.0-only
"""The script language: what parses to what, what is refused and where, what a run does."""

from __future__ import annotations

from pathlib import Path

import pytest

from septum.tdx.console.calls import CALLS, resolve_call
from septum.tdx.console.expect import Ending, Expectation, parse_expectation, spell
from septum.tdx.console.explain import explain
from septum.tdx.console.lexer import ScriptError, Word, split
from septum.tdx.console.names import Names
from septum.tdx.console.parser import Parser
from septum.tdx.console.script import Verdict, parse_script, run_script
from septum.tdx.console.session import Session
from septum.tdx.console.statement import Call
from septum.tdx.handlers import HANDLERS, TDCALLS
from septum.tdx.status import (
    TDX_OPERAND_BUSY,
    TDX_PAGE_ALREADY_ACCEPTED,
    TDX_PAGE_SIZE_MISMATCH,
    VALUES,
    Operand,
)

EXAMPLES = sorted((Path(__file__).parents[2] / "docs" / "examples").glob("*.tdx"))
TDR = 0x40100000
G = 0x40000000


def call(text: str) -> Call:
    found = Parser().parse(text)
    assert isinstance(found, Call)
    return found


def test_every_handler_has_a_form() -> None:
    assert set(CALLS) == set(HANDLERS) | set(TDCALLS)


@pytest.mark.parametrize(
    ("text", "regs"),
    [
        ("TDH.MEM.PAGE.AUG G 4K p0", {"rcx": G, "rdx": TDR, "r8": 0x80000000}),
        ("tdh_mem_page_aug G+2M 1 m1", {"rcx": G + 0x200001, "rdx": TDR, "r8": 0x90200000}),
        ("AUG G 2M 0x1000+3*4K", {"rcx": G | 1, "rdx": TDR, "r8": 0x4000}),
        ("AUG rcx=7 r8=p0", {"rcx": 7, "rdx": TDR, "r8": 0x80000000}),
        ("AUG G 4K p0 td=p1", {"rcx": G, "rdx": 0x80001000, "r8": 0x80000000}),
        ("SEPT.ADD G 2M s2 allow_existing", {"rcx": G | 1, "rdx": TDR | 1, "r8": 0x40202000}),
        ("PAGE.ADD G p0", {"rcx": G, "rdx": TDR, "r8": 0x80000000, "r9": 0x100000}),
        ("MNG.CREATE", {"rcx": TDR, "rdx": 18}),
        ("MNG.CREATE 0x20", {"rcx": TDR, "rdx": 0x20}),
        ("TRACK", {"rcx": TDR}),
        ("VP.ADDCX vcpu1 vcpu1+4K", {"rdx": 0x41010000, "rcx": 0x41011000}),
        ("CACHE.WB resume", {"rcx": 1}),
        ("CACHE.WB", {}),
        ("VP.ENTER vcpu0", {"rcx": 0x41000000}),
    ],
)
def test_operands_go_to_their_registers(text: str, regs: dict[str, int]) -> None:
    assert call(text).regs == regs


def test_options_of_a_call() -> None:
    found = call("PROMOTE G 2M @lp3 version=1 intr=2 rip=0x10 tsc=5 no_entropy # why not")
    assert (found.lp, found.version, found.cond.intr_at, found.cond.rip) == (3, 1, 2, 0x10)
    assert (found.cond.tsc, found.cond.no_entropy) == (5, True)
    assert call("KEY.CONFIG pconfig=busy").cond.pconfig == "busy"
    assert call("AUG G 2M m0 x7").strides == {"rcx": 0x200000, "r8": 0x200000}
    assert call("SEPT.ADD G 2M s0 x7").strides == {"rcx": 0x200000, "r8": 0x1000}


@pytest.mark.parametrize(
    ("text", "column", "parts"),
    [
        ("TDH.MEM.PAGE.AGU G 4K p0", 1, ["unknown call", "TDH.MEM.PAGE.AUG"]),
        ("agu G 4K p0", 1, ["TDH.MEM.PAGE.AUG"]),
        ("xyzzy", 1, ["unknown call or statement 'xyzzy'"]),
        ("REMOVE G 4K", 1, ["TDH.MEM.SEPT.REMOVE or TDH.MEM.PAGE.REMOVE"]),
        ("AUG", 4, ["a GPA", "TDH.MEM.PAGE.AUG GPA LEVEL PAGE"]),
        ("AUG G", 6, ["a level (4K"]),
        ("AUG G 4K", 9, ["a page (p0"]),
        ("AUG G 4K # a comment", 9, ["a page"]),
        ("AUG G 3K p0", 7, ["a level (4K, 2M", "'3K'"]),
        ("AUG 4K p0", 5, ["a GPA", "not the level 4K"]),
        ("AUG G 4K po", 10, ["unknown name 'po'", "nearest: ", "p0"]),
        ("AUG G+0x 4K p0", 7, ["unknown name '0x'"]),
        ("AUG G++1 4K p0", 7, ["a number or a name"]),
        ("AUG G 4K p0+q*4K", 13, ["a number before '*'"]),
        ("AUG 99999999999999999999 4K p0", 5, ["64 bits"]),
        ("AUG G 4K p0 p1", 13, ["'@lpN'", "'p1'"]),
        ("AUG G 4K p0 @lp4", 13, ["@lp0 to @lp3"]),
        ("AUG G 4K p0 @", 13, ["@lp0 to @lp3"]),
        ("AUG G 4K p0 x0", 13, ["x1 to x262144"]),
        ("TRACK x3", 7, ["no address"]),
        ("AUG G 4K p0 vesrion=1", 13, ["nearest: version"]),
        ("AUG G 4K p0 version=900", 21, ["a version, 0 to 255"]),
        ("AUG G 4K p0 r8=", 16, ["a number or a name"]),
        ("KEY.CONFIG pconfig=slow", 20, ["busy or entropy"]),
        ("AUG G 4K p0 ->", 15, ["after '->'"]),
        ("AUG G 4K p0 -> BUSSY", 16, ["a status or an event"]),
        ("AUG G 4K p0 -> OPERAND_BUSI", 16, ["nearest: OPERAND_BUSY"]),
        ("AUG G 4K p0 -> OPERAND_BUSY|TREE", 29, ["an operand", "SEPT_TREE"]),
        ("ACCEPT G 4K -> PAGE_SIZE_MISMATCH|3K", 35, ["a level (4K"]),
        ("AUG G 4K p0 -> SUCCESS rxc=1", 24, ["REGISTER=VALUE"]),
        ("guest touch G -> ok SUCCESS", 21, ["nothing after 'ok'"]),
        ("guest touch G -> inject XX", 25, ["VE or DF"]),
        ("-> SUCCESS", 1, ["unknown call or statement '->'"]),
        ("guest", 6, ["touch, read, interrupt"]),
        ("guest tuoch G", 7, ["nearest: touch"]),
        ("guest touch", 12, ["a GPA"]),
        ("guest interrupt G", 17, ["'@lpN'"]),
        ("show tre", 6, ["nearest: tree"]),
        ("show tree -> SUCCESS", 21, ["no status"]),
        ("td vcpsu=2", 4, ["nearest: vcpus="]),
        ("td vcpus=2 vcpus=3", 12, ["given twice"]),
        ("td vcpus=many", 10, ["a number of vCPUs, 0 to 256"]),
        ("td state=RUNNING", 10, ["INITIALIZED or RUNNABLE"]),
        ("td tables=G,q", 13, ["unknown name 'q'"]),
        ("td p0", 4, ["has a meaning"]),
        ("platform levels=3", 17, ["4 to 5"]),
        ("platform gpaw=1", 16, ["needs levels=5"]),
        ("platform profile=1.5.02", 18, ["unknown profile", "1.5.01"]),
        ("platform lps=1", 15, ["2 packages need"]),
        ("page", 5, ["a name"]),
        ("page p0", 6, ["has a meaning"]),
        ("page 9x", 6, ["no name"]),
        ("page a = ", 9, ["an address after '='"]),
        ("page a b = 3", 8, ["expected '=', not 'b'"]),
        ("page a = 1 2", 12, ["end of the line"]),
        ("page a a", 8, ["'a' is 0x88000000 already"]),
        ("gpa H", 6, ["NAME = GPA"]),
        ("tables", 7, ["a GPA"]),
        ("hold", 5, ["a lock: sept-tree"]),
        ("hold sept-tre", 6, ["nearest: sept-tree"]),
        ("hold pamt", 10, ["a page"]),
        ("hold sept-tree sharde", 16, ["shared, exclusive"]),
        ("hold wbcache 2", 14, ["a package, 0 to 1"]),
        ("hold sept-entry G 512G guset", 24, ["host, guest"]),
    ],
)
def test_what_does_not_parse(text: str, column: int, parts: list[str]) -> None:
    with pytest.raises(ScriptError) as caught:
        Parser().parse(text)
    assert caught.value.column == column, str(caught.value)
    for part in parts:
        assert part in caught.value.message


def test_comments_and_blank_lines_are_nothing() -> None:
    for text in ("", "   ", "# all", "\t# x -> y"):
        assert Parser().parse(text) is None
    assert [w.text for w in split("a b#c #d e")] == ["a", "b#c"]


def test_a_line_number_is_told() -> None:
    script = parse_script(b"TRACK\r\n\nAUG G 9K p0\nxyzzy\n", Session())
    assert [str(e).split(": ")[0] for e in script.errors] == ["3:7", "4:1"]
    (error,) = parse_script(b"TRACK\nAUG \xff\n", Session()).errors
    assert str(error) == "2:5: not UTF-8 text here"
    many = parse_script(b"xyzzy\n" * 50, Session())
    assert len(many.errors) == 21 and "too many" in str(many.errors[-1])


# --- names -----------------------------------------------------------------------------------


def test_names_and_back() -> None:
    names = Names().with_td("b").with_page("heap", 0x80005000).with_gpa("H", 0x80000000)
    for name in ("td", "tdcx0", "tdcx5", "vcpu0", "vcpu12", "s0", "s17", "p0", "p99", "m0", "m3"):
        value = names.value(name)
        assert value is not None and names.page(value) == name
    for name in ("b", "b.vcpu1", "b.tdcx3", "heap"):
        value = names.value(name)
        assert value is not None and names.page(value) == name
    assert names.value("H") == 0x80000000 and names.page(0x80000000) == "p0"
    assert names.page(0x41002000) == "vcpu0+8K"
    assert names.page(0x7FFF0000) == "0x7fff0000"
    for unknown in ("p65536", "p01", "tdcx9", "c.vcpu0", "vcpu256", "q", ""):
        assert names.value(unknown) is None


def test_a_call_by_any_end_of_its_name() -> None:
    assert resolve_call("aug") == ["TDH.MEM.PAGE.AUG"]
    assert resolve_call("Page.Remove") == ["TDH.MEM.PAGE.REMOVE"]
    assert resolve_call("tdg_mem_page_accept") == ["TDG.MEM.PAGE.ACCEPT"]
    assert len(resolve_call("ADDCX")) == 2
    assert resolve_call("") == resolve_call("AU") == []


# --- expectations ------------------------------------------------------------------------------


def expectation(text: str) -> Expectation:
    return parse_expectation([Word(w, 1) for w in text.split()], lambda w: int(w.text, 0), 1)


BUSY_TREE = Ending("", TDX_OPERAND_BUSY | Operand.SEPT_TREE, 0, {"rcx": 5})


@pytest.mark.parametrize(
    ("text", "ending", "met"),
    [
        ("TDX_OPERAND_BUSY|SEPT_TREE", BUSY_TREE, True),
        ("operand_busy|sept_tree", BUSY_TREE, True),
        ("OPERAND_BUSY", BUSY_TREE, True),
        ("OPERAND_BUSY|RCX", BUSY_TREE, False),
        ("0x8000020000000092", BUSY_TREE, True),
        ("OPERAND_BUSY|0x92 rcx=5", BUSY_TREE, True),
        ("OPERAND_BUSY rcx=4", BUSY_TREE, False),
        ("OPERAND_INVALID", BUSY_TREE, False),
        ("SUCCESS", Ending("", 0, 0, {}), True),
        ("SUCCESS", Ending("resume", 0, 0, {}), True),
        ("SUCCESS", Ending("td-exit", 48, 0, {}), False),
        ("SUCCESS", Ending("", 48, 0, {}), False),
        ("SUCCESS|48", Ending("", 48, 0, {}), True),
        ("td-exit", Ending("td-exit", 48, 0, {}), True),
        ("td-exit SUCCESS|48", Ending("td-exit", 48, 0, {}), True),
        ("td-exit SUCCESS|1", Ending("td-exit", 48, 0, {}), False),
        ("td-entry", Ending("td-entry", 0, 0, {}), True),
        ("inject VE", Ending("inject", 0, 20, {}), True),
        ("inject DF", Ending("inject", 0, 20, {}), False),
        ("inject", Ending("inject", 0, 8, {}), True),
        ("retry", Ending("retry", 0, 0, {}), True),
        ("ok", Ending("ok", 0, 0, {}), True),
        ("ok", Ending("td-exit", 48, 0, {}), False),
        ("PAGE_SIZE_MISMATCH|2M", Ending("resume", TDX_PAGE_SIZE_MISMATCH | 1, 0, {}), True),
        ("PAGE_SIZE_MISMATCH|0", Ending("resume", TDX_PAGE_SIZE_MISMATCH | 1, 0, {}), False),
    ],
)
def test_expectations(text: str, ending: Ending, met: bool) -> None:
    assert expectation(text).met(ending) is met


@pytest.mark.parametrize("event", ["", "resume", "td-exit"])
def test_every_status_is_spelled_as_it_is_read(event: str) -> None:
    for code in VALUES.values():
        leveled = code in (TDX_PAGE_SIZE_MISMATCH, TDX_PAGE_ALREADY_ACCEPTED)
        for low in (0, 1, 2) if leveled else (0, 1, 48, int(Operand.SEPT_TREE), 0x12345678):
            ending = Ending(event, code | low, 0, {})
            assert expectation(spell(ending)).met(ending), spell(ending)
            assert not expectation(spell(ending)).met(Ending(event, code | 77, 0, {})) or not low


# --- running -----------------------------------------------------------------------------------


def run(*lines: str) -> tuple[Session, list[str], Verdict]:
    session, verdict = Session(), Verdict()
    script = parse_script("\n".join(lines).encode(), session)
    assert script.errors == ()
    return session, list(run_script(session, script, verdict)), verdict


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples(path: Path) -> None:
    _, lines, verdict = run(*path.read_text().split("\n"))
    assert verdict.ok and verdict.expected >= 10, lines
    assert max(map(len, lines)) <= 78


def test_there_are_examples() -> None:
    assert {p.stem for p in EXAMPLES} >= {
        *("track-remove", "contention", "huge-page", "life-cycle"),
    }


def test_an_expectation_that_fails() -> None:
    _, lines, verdict = run("td tables=G", "AUG G 4K p0 -> OPERAND_BUSY", "TRACK -> SUCCESS")
    assert verdict.unmet == (2,) and not verdict.ok
    assert "      NOT AS EXPECTED: OPERAND_BUSY" in lines
    assert str(verdict) == "2 calls, 1 of 2 expectations failed: line 2"


def test_the_tree_is_printed_at_the_end_once() -> None:
    for last in ("show", "tree", "TRACK"):
        _, lines, _ = run("td tables=G", last)
        assert sum("S-EPT of td" in line for line in lines) == 1


def test_what_cannot_be_done_names_its_line_and_changes_nothing() -> None:
    session = Session()
    script = parse_script(b"td\nVP.ENTER vcpu0 @lp0\nTRACK @lp0\n", session)
    with pytest.raises(ScriptError, match=r"^3: LP 0 is in the guest \(vcpu0\)"):
        list(run_script(session, script, Verdict()))
    assert len(session.done) == 2


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["guest interrupt"], "no vCPU is in the guest"),
        (["td", "guest touch G @lp1"], "no vCPU is in the guest there"),
        (["td", "VP.ENTER vcpu0", "guest touch 0x800000000000"], "shared"),
        (["td", "VP.ENTER vcpu0", "guest touch 0x1000000000000"], "do not reach"),
        (["td", "td"], "there is a TD td already"),
        (["td vcpus=0"], "TDX_NO_VCPUS"),
        (["td hkid=3"], "TDX_OPERAND_INVALID|RDX"),
        (["tables G"], "td is no TD"),
        (["td", "tables 0x800000000000"], "shared or too wide"),
        (["td", "VP.ENTER vcpu0", "td b"], "needs every LP"),
        (["td", "drop kot"], "nobody holds that"),
        (["td", "hold kot shared", "drop kot"], "nobody holds that"),
        (["hold pamt 0x1000"], "in no TDMR"),
        (["hold sept-entry G 4K"], "no S-EPT"),
        (["td", "hold sept-entry G 4K"], "the walk to 0x40000000 ends at 512G"),
        (["td", "platform lps=2"], "before every call"),
        (
            ["td vcpus=2", "VP.ENTER vcpu0 @lp0", "VP.ENTER vcpu1 @lp1", "guest interrupt"],
            "which LP? @lp0 or @lp1",
        ),
        (["platform lps=2", "td", "VP.ENTER vcpu0 @lp0", "VP.FLUSH vcpu0 @lp0"], "in the guest"),
    ],
)
def test_impossible(lines: list[str], message: str) -> None:
    session = Session()
    for line in lines[:-1]:
        session.run(line)
    with pytest.raises(ScriptError) as caught:
        session.run(lines[-1])
    assert message in caught.value.message
    assert len(session.done) == len(lines) - 1


def test_repetition_stops_at_the_first_refusal() -> None:
    session, lines, _ = run("td tables=G", "AUG G 4K p0 x600 -> EPT_WALK_FAILED")
    assert any("(call 513 of 600)" in line for line in lines)
    assert "PENDING    p0 x512" in "\n".join(lines)
    assert session.undo() is not None
    assert "PENDING" not in "\n".join(explain(session, session.run("tree")))  # type: ignore[arg-type]


def test_a_stopped_module_answers_nothing_until_undo() -> None:
    session = Session()
    for line in ("td state=INITIALIZED tables=G", "hold sept-entry G 4K"):
        session.run(line)
    outcome = session.run("PAGE.ADD G p0 -> halt")
    assert outcome is not None and outcome.met
    assert "the module has stopped" in "\n".join(explain(session, outcome))
    with pytest.raises(ScriptError, match="has stopped"):
        session.run("TRACK")
    session.undo()
    assert session.module.m.findings == [] and session.run("TRACK") is not None


def test_two_tds() -> None:
    _, lines, verdict = run(
        "td tables=G",
        "td b vcpus=2 tables=G",
        "AUG G 4K p0 td=b -> SUCCESS",
        "AUG G 4K p0 -> PAGE_METADATA_INCORRECT|R8",
        "VP.ENTER b.vcpu1 -> td-entry",
        "show vcpus td=b",
        "TRACK td=b",
    )
    assert verdict.ok, lines
    text = "\n".join(lines)
    assert "b.vcpu1  ACTIVE" in text and "S-EPT of td" in text and "S-EPT of b" in text


def test_five_levels() -> None:
    _, lines, verdict = run(
        "platform levels=5 gpaw=1",
        "gpa high = 0x1000000000000",
        "td tables=high",
        "AUG high 4K p0 -> SUCCESS",
    )
    assert verdict.ok
    assert any("256T" in line for line in lines)


def test_profiles() -> None:
    init = "VP.INIT vcpu1 version=1"
    steps = ["td state=INITIALIZED", "VP.CREATE vcpu1", "VP.ADDCX vcpu1 vcpu1+4K x5"]
    assert run(*steps, f"{init} -> OPERAND_INVALID|RAX")[2].ok
    assert run("platform profile=linux-7.3", *steps, f"{init} -> SUCCESS")[2].ok


def test_a_hypothetical_profile_says_so() -> None:
    _, lines, verdict = run(
        "platform profile=1.5.01+nonblocking-resize",
        "td tables=G",
        "AUG G+2M 2M m0",
        "DEMOTE G+2M 2M s3 -> SUCCESS",
    )
    assert verdict.ok
    assert any("(hypothetical)" in line for line in lines)
    assert "(hypothetical)" in str(verdict)


def test_what_a_vcpu_inside_means_for_tracking() -> None:
    session, lines, _ = run(
        *("td tables=G", "AUG G 4K p0", "VP.ENTER vcpu0", "BLOCK G 4K", "PAGE.REMOVE G 4K"),
        *("TRACK", "PAGE.REMOVE G 4K", "TRACK", "guest touch G", "PAGE.REMOVE G 4K"),
    )
    text = "\n".join(lines)
    assert "blocked in epoch 1, TD_EPOCH is 1: TDH.MEM.TRACK has not run since" in text
    assert "blocked in epoch 1, TD_EPOCH is 2: 1 vCPU in the guest since epoch 1" in text
    assert "TDX_PREVIOUS_TLB_EPOCH_BUSY  0x8000020100000000" in text
    assert "EPT violation at GPA 0x40000000 (write)" in text
    assert session.done[-1].line() == "PAGE.REMOVE G 4K -> TDX_SUCCESS"


def test_registers_on_request() -> None:
    session = Session()
    session.run("td tables=G")
    outcome = session.run("AUG G 4K p0 @lp2")
    assert outcome is not None
    told = explain(session, outcome, registers=True)
    assert told[0] == "in   rax=0x6 rcx=0x40000000 rdx=0x40100000 r8=0x80000000  LP 2"
    assert told[-1] == "out  rcx=0x0 rdx=0x0"


def test_guest_side_in_words() -> None:
    _, lines, verdict = run(
        *("td tables=G", "AUG G 4K p0", "VP.ENTER vcpu0", "guest touch G -> inject VE"),
        *("guest touch G -> inject DF", "TDG.VP.VEINFO.GET -> resume SUCCESS rcx=48 r9=G"),
        *("TDG.VP.VEINFO.GET -> NO_VALID_VE_INFO", "ACCEPT G 4K -> resume", "guest read G+8 -> ok"),
        *("ACCEPT G+4K 4K -> td-exit SUCCESS|48", "PHYMEM.PAGE.RDMD p0 -> SUCCESS rcx=3 rdx=td"),
    )
    assert verdict.ok, lines
    text = " ".join(" ".join(lines).split())
    assert "inject #VE" in text and "ok at 0x80000008 (p0+0x8)" in text
    assert "the guest wanted to ACCEPT" in text and "PT_REG of td, 4K" in text


def test_zero_step() -> None:
    fault = ["VP.ENTER vcpu0", "guest ept-violation G rip=0x1000"]
    _, lines, verdict = run(
        *("td tables=G", *(fault * 7)),
        "VP.ENTER vcpu0 -> SUCCESS|48",
        "show vcpus",
        "AUG G 4K p0",
        "VP.ENTER vcpu0 -> SUCCESS|48",
    )
    assert verdict.ok, lines
    text = "\n".join(lines)
    assert "not entered: the EPT violation at GPA 0x40000000 still stands" in text
    assert "waits for 0x40000000" in text
