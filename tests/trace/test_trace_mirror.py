# SPDX-License-Identifier: GPL-2.0-only
"""Mirror against S-EPT: recordings made from the models, and lines written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from trace_rig import EMPTY, FROZEN, Writer, run

from septum.cli import main
from septum.kvm.shadow import is_leaf, is_table
from septum.report.replay_text import WIDTH, replay_lines
from septum.tdx import leaves, sept
from septum.tdx.status import TDX_EPT_ENTRY_STATE_INCORRECT, TDX_OPERAND_BUSY, Operand
from septum.trace import ReplayResult
from septum.trace.probes import PROBES, parse_probe
from septum.trace.replay import Replay
from septum.trace.setup import SETUPS, RecordError, run_tracefs
from septum.trace.synthetic import SYNTHETIC, record_scenario
from septum.trace.unobservable import tdx_unobservable

TDR = 0x50000000
BUSY = TDX_OPERAND_BUSY | Operand.RCX
DESIGNS = ("v6.16", "rfc-v5-08", "rfc-v5", "feb06", "feb10-sp", "v7.3", "void-callback")
SOUND = ("fault-fault", "fault-punch", "subtree", "zap-running", "fault-neighbours")


def small(pfn: int) -> int:
    """A mirror leaf, 4K."""
    return 0x80A0000000000F37 | pfn << 12


def below(pfn: int) -> int:
    """A mirror entry that maps a table."""
    return 0x8000000000000D07 | pfn << 12


class Td(Writer):
    """Writes SEAMCALL lines as the probes print them."""

    def call(
        self,
        leaf: int,
        gfn: int,
        level: int,
        r8: int = 0,
        status: int = 0,
        out: tuple[int, int] = (0, 0),
        **at: str,
    ) -> None:
        rcx = gfn << 12 | level - 1
        self.line(
            f"seamcall_ret: (__seamcall_ret+0x4/0x60) fn={leaf:#x} rcx={rcx:#x} rdx={TDR:#x}"
            f" r8={r8 << 12:#x} r9=0x0",
            **at,  # type: ignore[arg-type]
        )
        self.line(
            f"seamcall_ret_done: (tdx+0x60/0xa0 <- __seamcall_ret) status={status:#x}"
            f" rcx={out[0]:#x} rdx={out[1]:#x} r8={r8 << 12:#x}",
            **at,  # type: ignore[arg-type]
        )

    def installed(self, gfn: int, pfn: int) -> None:
        """A fault of 7.3: the call, then the line."""
        self.call(leaves.TDH_MEM_PAGE_AUG, gfn, 1, pfn)
        self.change(1, gfn, EMPTY, small(pfn))

    def replayed(self) -> ReplayResult:
        return run(self.lines)

    def rules(self) -> list[str]:
        return [finding.rule for finding in self.replayed().findings]


def zapped(td: Td, gfn: int, pfn: int, *, remove: bool = True, status: int = 0) -> None:
    td.call(leaves.TDH_MEM_RANGE_BLOCK, gfn, 1)
    if remove:
        out = (pfn << 12, 0) if not status else (0, 0)
        td.call(leaves.TDH_MEM_PAGE_REMOVE, gfn, 1, status=status, out=out)
    td.change(1, gfn, small(pfn), EMPTY)
    td.line("kvm_page_fault: vcpu 0 rip 0x0 address 0x0000000000001000 error_code 0x2")


def test_a_td_that_keeps_the_rules() -> None:
    td = Td()
    td.call(leaves.TDH_MEM_SEPT_ADD, 0, 2, 0x700)
    td.change(2, 0, EMPTY, below(0x13))
    td.installed(5, 0x95)
    td.call(leaves.TDH_MEM_PAGE_AUG, 6, 1, 0x96, status=BUSY)  # a retry, no line
    td.installed(6, 0x96)
    zapped(td, 5, 0x95)
    td.installed(5, 0x99)
    assert td.rules() == []


@pytest.mark.parametrize(
    ("remove", "status", "words"),
    [
        (True, BUSY, "PAGE.REMOVE(gfn 5, level 1) -> TDX_OPERAND_BUSY|RCX (line 8)"),
        (False, 0, "the mirror holds nothing, the S-EPT holds PENDING_BLOCKED 0x95000"),
    ],
)
def test_a_zap_that_did_not_reach_the_sept(remove: bool, status: int, words: str) -> None:
    td = Td()
    td.installed(5, 0x95)
    zapped(td, 5, 0x95, remove=remove, status=status)
    (finding,) = td.replayed().findings
    assert (finding.rule, finding.gfn, finding.level) == ("I1", 5, 1)
    assert words in finding.message


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ({"calls": 3, "mirror_roots": 1}, "TDG.MEM.PAGE.ACCEPT"),
        ({"mirror_roots": 2}, "2 mirror roots were made, but no SEAMCALL was recorded"),
        ({"ept": True}, "does not say whether a root is the mirror"),
        ({"ept": True, "raw_roles": True}, ""),
        ({}, ""),
    ],
)
def test_what_a_tdx_host_leaves_open(seen: dict[str, int], said: str) -> None:
    given = {"ept": False, "calls": 0, "mirror_roots": 0, "raw_roles": False} | seen
    sentences = tdx_unobservable(get_page=True, **given)  # type: ignore[arg-type]
    assert bool(sentences) == bool(said)
    assert all("robe" in s or "record" in s or "status" in s for s in sentences)
    assert said in " ".join(sentences)


def test_seamcalls_seen_are_said_to_show_no_accept() -> None:
    td = Td()
    td.installed(5, 0x95)
    assert any("TDG.MEM.PAGE.ACCEPT" in s for s in td.replayed().unobservable)


def test_a_zap_without_any_call() -> None:
    td = Td()
    td.installed(5, 0x95)
    td.change(1, 5, small(0x95), EMPTY)
    assert td.rules() == ["I1"]


def test_another_page_than_the_one_augmented() -> None:
    td = Td()
    td.call(leaves.TDH_MEM_PAGE_AUG, 5, 1, 0x95)
    td.change(1, 5, EMPTY, small(0x97))
    (finding,) = td.replayed().findings
    assert "the mirror maps pfn 97, the S-EPT holds PENDING 0x95000" in finding.message


def test_only_the_first_divergence_is_a_finding() -> None:
    td = Td()
    for gfn in (5, 6, 7):
        td.installed(gfn, 0x90 + gfn)
    for gfn in (5, 6, 7):
        zapped(td, gfn, 0x90 + gfn, remove=False)
    result = td.replayed()
    assert [f.line for f in result.findings] == [14]
    assert "TD 50000000: 2 more entries differ after the first divergence" in result.notes


def test_an_error_that_kvm_does_not_expect() -> None:
    td = Td()
    shown = (sept.arch_entry(sept.leaf(sept.State.MAPPED, 0x95000)), 0x400)
    status = TDX_EPT_ENTRY_STATE_INCORRECT | Operand.RCX
    td.call(leaves.TDH_MEM_PAGE_AUG, 5, 1, 0x95, status, shown)
    assert td.rules() == ["I8"]


def test_direct_trees_are_left_alone() -> None:
    """Shared pages of the same GFNs have no SEAMCALL."""
    td = Td()
    td.installed(5, 0x95)
    td.change(1, 5, EMPTY, small(0x777), task="CPU 1/KVM-101")
    td.change(1, 5, small(0x777), EMPTY, task="CPU 1/KVM-101")
    assert [rule for rule in td.rules() if rule == "I1"] == []


def test_the_end_of_a_td() -> None:
    """Tables and leafs go without calls of their own once the keys are free."""
    td = Td()
    td.installed(5, 0x95)
    td.call(leaves.TDH_MNG_KEY_FREEID, TDR >> 12, 1)
    td.change(1, 5, small(0x95), FROZEN)
    assert "I1" not in td.rules()


def test_two_tasks_on_one_entry() -> None:
    """The zap of another task may come before the first task's next line."""
    td = Td()
    td.installed(5, 0x95)
    td.call(leaves.TDH_MEM_RANGE_BLOCK, 5, 1, task="host-7")
    td.call(leaves.TDH_MEM_PAGE_REMOVE, 5, 1, out=(0x95000, 0), task="host-7")
    td.change(1, 5, small(0x95), EMPTY, task="host-7")
    td.installed(6, 0x96)
    assert td.rules() == []


# ------------------------------------------------------------------------ from the models


def model(design: str, scenario: str, *, fail: bool = False) -> tuple[Replay, ReplayResult]:
    lines = record_scenario(
        design, scenario, lambda e: not fail or "a failure was injected" in e.reached
    )
    assert SYNTHETIC in lines
    replayed = Replay("synthetic")
    replayed.feed(lines)
    return replayed, replayed.finish()


@pytest.mark.parametrize("scenario", SOUND)
@pytest.mark.parametrize("design", DESIGNS)
def test_designs_that_keep_the_trees_equal(design: str, scenario: str) -> None:
    replayed, result = model(design, scenario)
    assert result.findings == []
    assert replayed.mirrors.calls > 0


def test_the_field_case_is_found_at_the_split() -> None:
    """D0: the mirror has 4K children under a blocked 2M S-EPT leaf, because DEMOTE failed
    and the callback returns nothing (facts 6.6).  The split's own line is the finding, not
    the SEAMCALLs that fail later."""
    _, result = model("void-callback", "huge-split-fails", fail=True)
    first = result.findings[0]
    assert (first.rule, first.level) == ("I1", 2)
    assert first.old is not None and first.new is not None
    assert is_leaf(first.old, 2) and is_table(first.new, 2)
    assert "the mirror holds a table, the S-EPT entry is still blocked" in first.message
    assert "TDH.MEM.PAGE.DEMOTE(gfn 0, level 2) -> TDX_OPERAND_BUSY|RCX" in first.message
    assert [row.split()[:2] for row in first.detail[1:4]] == [[">", "2"], ["1", "0"], ["1", "1"]]
    assert all(f.line > first.line for f in result.findings[1:])
    assert max(len(line) for line in replay_lines(result)) <= WIDTH


def test_the_same_split_that_works() -> None:
    assert model("void-callback", "huge-split-fails")[1].findings == []


@pytest.mark.parametrize("fail", [False, True])
def test_record_writes_synthetic_recordings(fail: bool, tmp_path: Path) -> None:
    file = tmp_path / "d0.trace"
    args = ["record", "--synthetic", "void-callback", "huge-split-fails", "-o", str(file)]
    assert CliRunner().invoke(main, [*args, *(["--fail"] if fail else [])]).exit_code == 0
    assert SYNTHETIC in file.read_text()
    assert CliRunner().invoke(main, ["replay", str(file)]).exit_code == int(fail)


# ---------------------------------------------------------------------------- the set-up


@pytest.mark.parametrize("tool", SETUPS)
def test_setups_name_every_probe(tool: str) -> None:
    plain, tdx = SETUPS[tool](False, 1024), SETUPS[tool](True, 1024)
    assert "seamcall" not in plain
    if tool != "bpftrace":
        assert all(line in tdx for line in PROBES)
    assert tdx.count("septum replay") == plain.count("septum replay") == 1


def test_probe_lines() -> None:
    """As 7.3 prints a kprobe and a kretprobe."""
    text = "(__seamcall_ret+0x4/0x60) fn=0x6 rcx=0x5000 rdx=0x50000000 r8=0x95000 r9=0x0"
    assert parse_probe("seamcall_ret", text) == {
        "fn": 6,
        "rcx": 0x5000,
        "rdx": TDR,
        "r8": 0x95000,
        "r9": 0,
    }
    text = "(tdh_mem_page_aug+0x7a/0xb0 <- __seamcall_ret) status=0x8000020000000001 rcx=0x0"
    assert parse_probe("seamcall_ret_done", text) == {"status": BUSY, "rcx": 0}
    assert parse_probe("seamcall_ret_done", "(fault)") is None


def fake_tracefs(root: Path) -> Path:
    (root / "instances").mkdir(parents=True)
    (root / "kprobe_events").write_text("")
    return root


def test_run_needs_tracefs(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no tracefs here"):
        run_tracefs(tmp_path / "x", tracefs_root=tmp_path / "none")


def test_run_leaves_nothing_behind(tmp_path: Path) -> None:
    root = fake_tracefs(tmp_path / "tracing")
    with pytest.raises(RecordError, match="is the module kvm loaded"):
        run_tracefs(tmp_path / "x", tdx=True, tracefs_root=root)
    commands = (root / "kprobe_events").read_text().splitlines()
    assert commands == [*PROBES, *(f"-:{line.split()[0][2:]}" for line in PROBES)]


def test_run_does_not_take_over_another_run(tmp_path: Path) -> None:
    root = fake_tracefs(tmp_path / "tracing")
    (root / "instances" / "septum").mkdir()
    with pytest.raises(RecordError, match="another septum record runs"):
        run_tracefs(tmp_path / "x", tracefs_root=root)
