# SPDX-License-Identifier: GPL-2.0-only
"""Each rule finds what it states, and nothing in the run beside it."""

import pytest
from trace_rig import EMPTY, FROZEN, HEADER, ROOT, Writer, judged, leaf, run, table

from septum.trace import RULES
from septum.trace.examples import BEFORE, EXAMPLES, as_lines


def tree() -> Writer:
    writer = Writer()
    writer.tree()
    return writer


def test_ordinary_run() -> None:
    w = tree()
    w.change(1, 1, EMPTY, leaf(0x91))
    w.change(1, 1, leaf(0x91), leaf(0x91, 0xE65))
    w.change(1, 1, leaf(0x91), EMPTY)  # W by fast_page_fault
    w.change(1, 2, EMPTY, 0x8000000002187)  # MMIO
    w.change(1, 2, 0x8000000002187, leaf(0x92))
    w.prepare_zap(1, 0)
    w.change(1, 2, leaf(0x92), FROZEN)
    w.change(2, 0, table(0x13), EMPTY)
    assert w.rules() == []
    assert run(w.lines).leafs == (0, 0, 0)


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("LINE", (1, 1, leaf(0x91), leaf(0x91))),
        ("I11", (1, 1, leaf(0x91), leaf(0x92))),
        ("I13", (1, 1, leaf(0x91), leaf(0x91, 0xA67))),
        ("I13", (1, 1, leaf(0x91), leaf(0x91, 0xC65))),
        ("WARN:__handle_changed_spte", (1, 1, leaf(0x91), 0x91667)),
        ("WARN:__handle_changed_spte", (1, 1, leaf(0x91), 0)),
        ("WARN:__handle_changed_spte", (2, 0x200, EMPTY, leaf(0x91, 0xEE7))),
        ("WARN:__handle_changed_spte", (2, 0, table(0x13), table(0x14))),
        ("WARN:__handle_changed_spte", (2, 1, EMPTY, table(0x14))),
        ("WARN:__handle_changed_spte", (6, 0, EMPTY, table(0x14))),
        ("WARN:__handle_changed_spte", (0, 0, EMPTY, table(0x14))),
        ("WARN:__handle_changed_spte", (23, 0, EMPTY, table(0x14))),
        ("WARN:__handle_changed_spte", (1, 1 << 40, EMPTY, leaf(0x92))),
        ("I20", (1, 1, leaf(0x91, 0xE47), EMPTY)),
        ("I20", (1, 1, EMPTY, 0x8000000002187)),
        ("I20-reinstall", (1, 1, EMPTY, leaf(0x92))),
        ("I20", (1, 3, leaf(0x92), EMPTY)),
        ("I20-link", (2, 0x200, EMPTY, table(0x12))),
        ("I20-child", (1, 0x400, EMPTY, leaf(0x92))),
        ("I20-link", (1, 0x40400, EMPTY, leaf(0x92))),
        ("I9", (1, 1, leaf(0x91), FROZEN)),
    ],
)
def test_one_bad_line(rule: str, change: tuple[int, int, int, int]) -> None:
    w = tree()
    w.change(1, 1, EMPTY, leaf(0x91))
    w.change(2, 0x600, EMPTY, table(0x15))
    w.prepare_zap(1, 0x600)
    w.change(2, 0x600, table(0x15), EMPTY)
    assert w.rules() == []
    w.change(*change)
    assert rule in w.rules()
    assert rule in RULES


def test_frozen_old_value() -> None:
    w = tree()
    w.change(1, 1, FROZEN, leaf(0x91))
    assert "I9" in w.rules()


def test_empty_values_do_not_mix() -> None:
    w = tree()
    w.change(1, 1, EMPTY, 0)
    assert "WARN:__handle_changed_spte" in w.rules()


def test_removed_table_with_a_leaf_left() -> None:
    w = tree()
    w.change(1, 1, EMPTY, leaf(0x91))
    w.change(1, 2, EMPTY, leaf(0x92))
    w.prepare_zap(1, 0)
    w.change(1, 2, leaf(0x92), FROZEN)
    w.change(2, 0, table(0x13), EMPTY)
    w.change(2, 0, EMPTY, table(0x14))
    assert w.rules() == ["I20-removal"]


def test_shared_removal_logs_every_entry() -> None:
    w = tree()
    w.prepare_zap(1, 0)
    for gfn in range(512):
        w.change(1, gfn, EMPTY, FROZEN)
    w.change(2, 0, table(0x13), EMPTY)
    assert w.rules() == []
    del w.lines[200]
    result = judged(w.lines)
    assert [f.rule for f in result.findings] == ["I20-removal"]
    assert "no line removed 8000000000000000 (empty)" in result.findings[0].message


def test_children_are_frozen_in_order() -> None:
    w = tree()
    for gfn in (1, 2):
        w.change(1, gfn, EMPTY, leaf(0x90 + gfn))
    w.prepare_zap(1, 0)
    w.change(1, 2, leaf(0x92), FROZEN)
    w.change(1, 1, leaf(0x91), FROZEN)
    w.change(2, 0, table(0x13), EMPTY)
    assert w.rules() == ["I20-removal"]


def test_parents_line_must_follow() -> None:
    w = tree()
    w.change(1, 1, EMPTY, leaf(0x91))
    w.prepare_zap(1, 0)
    w.change(1, 1, leaf(0x91), FROZEN)
    w.change(2, 0x200, EMPTY, table(0x14))
    assert w.rules() == ["I20-removal"]


def test_parent_first_kernels() -> None:
    frozen = 0x80000000000005A0
    w = Writer()
    w.line(ROOT.replace("rwux", "wux"))
    for level, page in ((4, 0x11), (3, 0x12), (2, 0x13)):
        w.change(level, 0, EMPTY, table(page))
    w.change(1, 1, EMPTY, leaf(0x91))
    w.change(1, 2, EMPTY, leaf(0x92))
    w.change(2, 0, table(0x13), EMPTY)
    w.prepare_zap(1, 0)
    w.change(1, 1, leaf(0x91), frozen)
    w.change(1, 2, leaf(0x92), frozen)
    good = list(w.lines)
    assert judged(good).findings == []
    assert judged(good).kernel == "6.12"
    assert [f.rule for f in judged(good[:-1]).findings] == ["I20-removal"]
    without_parent = good[:-4] + good[-3:]
    assert "I9" in [f.rule for f in judged(without_parent).findings]


def test_swapped_lines_of_two_cpus_are_no_finding() -> None:
    w = tree()
    w.change(1, 1, EMPTY, leaf(0x91))
    w.change(1, 1, EMPTY, leaf(0x92), cpu=1)
    w.change(1, 1, leaf(0x91), EMPTY, cpu=2)
    result = judged(w.lines)
    assert result.findings == []
    assert result.notes == ["1 line was printed later than a line of another CPU that follows it"]
    same_cpu = [line.replace("[002]", "[001]") for line in w.lines]
    assert {f.rule for f in judged(same_cpu).findings} == {"I20", "I20-reinstall"}


def test_a_chain_of_swapped_lines() -> None:
    """A chain read backwards, each line by a CPU of its own."""
    w = tree()
    w.change(1, 1, EMPTY, leaf(0x91))
    w.change(1, 1, EMPTY, leaf(0x93), cpu=1, task="vmm-91")
    w.change(1, 1, leaf(0x92), EMPTY, cpu=2, task="vmm-92")
    w.change(1, 1, EMPTY, leaf(0x92), cpu=3, task="vmm-93")
    w.change(1, 1, leaf(0x91), EMPTY, cpu=4, task="vmm-94")
    w.change(1, 1, leaf(0x93), EMPTY)
    assert w.rules() == []


def test_ageing_line_that_comes_after_the_zap() -> None:
    w = tree()
    w.change(1, 1, EMPTY, leaf(0x91))
    w.change(1, 1, leaf(0x91), EMPTY, cpu=1, task="vmm-91")
    w.change(1, 1, leaf(0x91), leaf(0x91, 0xE47), cpu=2, task="kdamond-7")
    w.change(1, 1, EMPTY, leaf(0x92))
    assert w.rules() == []


def test_link_line_after_its_childs_line() -> None:
    w = tree()
    w.change(2, 0x600, EMPTY, table(0x15))
    w.change(1, 0x200, EMPTY, leaf(0x91))
    w.change(2, 0x200, EMPTY, table(0x14), cpu=1, task="CPU 1/KVM-101")
    w.change(1, 0x200, leaf(0x91), EMPTY)
    assert w.rules() == []
    assert judged(w.lines).tables.unseen == 0


def test_time_steps_back_in_a_trace_file() -> None:
    w = tree()
    w.change(1, 1, EMPTY, leaf(0x91))
    w.change(1, 2, EMPTY, leaf(0x92))
    w.lines[-1], w.lines[-2] = w.lines[-2], w.lines[-1]
    assert w.rules() == ["ORDER"]
    pipe = w.lines[2:]
    result = run(pipe)
    assert result.findings == []
    assert any("step back 1 times" in note for note in result.notes)


def examples_rules(payloads: tuple[str, ...]) -> set[str]:
    lines = [*HEADER, *as_lines(BEFORE, 9.0), *as_lines(payloads)]
    return {finding.rule for finding in judged(lines).findings}


def test_every_rule_has_examples() -> None:
    assert list(EXAMPLES) == list(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_the_examples_of_a_rule(rule: str) -> None:
    assert examples_rules(RULES[rule].good) == set()
    assert examples_rules(RULES[rule].bad) == {rule}


def test_a_line_names_an_address_space_that_exists() -> None:
    w = tree()
    w.change(1, 1, EMPTY, leaf(0x91), as_id=7)
    assert w.rules() == ["WARN:__handle_changed_spte"]


def test_a_frozen_child_is_of_the_address_space_of_its_table() -> None:
    w = tree()
    for gfn in (1, 2, 3):
        w.change(1, gfn, EMPTY, leaf(0x90 + gfn))
    w.prepare_zap(1, 0)
    w.change(1, 1, leaf(0x91), FROZEN)
    w.change(1, 2, leaf(0x92), FROZEN, as_id=1)
    w.change(1, 3, leaf(0x93), FROZEN)
    w.change(2, 0, table(0x13), EMPTY)
    assert "I9" in w.rules()


def fast_fault(w: Writer, vcpu: int, after: float) -> None:
    """A fault that sets W on gfn 1, ``after`` seconds after the last line."""
    w.time += after
    task = f"CPU {vcpu}/KVM-10{vcpu}"
    for text in EXAMPLES["FAULT-fast"].good[2:4]:
        w.line(text, cpu=vcpu, task=task)


@pytest.mark.parametrize(
    ("after", "late", "rules"),
    [(0.1, False, ["FAULT-fast"]), (0.0, False, []), (0.1, True, [])],
    ids=["in order", "too near to tell", "the clearing line comes late"],
)
def test_two_fast_faults_with_no_line_between(after: float, late: bool, rules: list[str]) -> None:
    w = tree()
    w.change(1, 1, EMPTY, leaf(0x91))
    w.change(1, 1, leaf(0x91), leaf(0x91, 0xE65), task="vmm-99")
    fast_fault(w, 0, after)
    fast_fault(w, 1, after)
    if late:
        w.change(1, 1, leaf(0x91), leaf(0x91, 0xE65), cpu=3, task="vmm-99")
    assert w.rules() == rules


def test_rules_are_described() -> None:
    for rule in RULES.values():
        assert rule.statement.endswith(".")
        assert "facts" in rule.source or "kernel/" in rule.source


def fault(w: Writer, gfn: int = 5, page: int = 0x95, *, installed: int = 0x95) -> None:
    """The lines of one fault."""
    w.line(f"kvm_page_fault: vcpu 0 rip 0x1000 address 0x{gfn << 12:016x} error_code 0x100000006")
    w.line(f"kvm_mmu_spte_requested: gfn {gfn:x} pfn {page:x} level 1 access f")
    w.change(1, gfn, EMPTY, leaf(installed))
    w.line(
        f"kvm_mmu_set_spte: gfn {gfn:x} spte {leaf(page):x} (rwxu) level 1 at {0x13000 + gfn * 8:x}"
    )


def split(w: Writer, gfn: int = 0x200, page: int = 0x400, name: int = 0x200) -> None:
    """A huge leaf, then the lines that split it."""
    w.change(2, gfn, EMPTY, leaf(page, 0xEE7))
    w.line(
        f"kvm_mmu_get_page: sp gen 0 gfn {gfn:x} l1 8-byte q0 direct rwux nxe ad root 0 sync new"
    )
    w.change(2, gfn, leaf(page, 0xEE7), table(0x21 + (gfn >> 9)))
    w.line(f"kvm_mmu_split_huge_page: gfn {name:x} spte {leaf(page, 0xEE7):x} level 2 errno 0")


def test_the_lines_of_faults_and_splits_keep_the_rules() -> None:
    w = tree()
    fault(w)
    fault(w, 6, 0x96, installed=0x96)
    split(w)
    split(w, 0x400, 0x600, 0x400)
    assert w.rules() == []


def without(w: Writer, text: str) -> Writer:
    """Delete the last line but one of those that have ``text``: its kind comes later again."""
    numbers = [number for number, line in enumerate(w.lines) if text in line]
    del w.lines[numbers[-2]]
    return w


def three_faults() -> Writer:
    w = tree()
    for gfn in (5, 6, 7):
        fault(w, gfn, 0x90 + gfn, installed=0x90 + gfn)
    return w


def three_splits() -> Writer:
    w = tree()
    for gfn in (0x200, 0x400, 0x600):
        split(w, gfn, 2 * gfn, gfn)
    return w


def test_a_fault_installs_the_page_it_asked_for() -> None:
    w = tree()
    fault(w, installed=0x97)
    assert "FAULT-pfn" in w.rules()


def test_a_fault_ends_with_set_spte() -> None:
    assert without(three_faults(), "kvm_mmu_set_spte").rules() == ["FAULT-set"]


def test_set_spte_names_the_address_of_its_entry() -> None:
    w = three_faults()
    w.lines[-1] = w.lines[-1].replace("at 13038", "at 13040")
    assert w.rules() == ["FAULT-set"]


def test_a_linked_page_was_made() -> None:
    assert without(three_splits(), "kvm_mmu_get_page").rules() == ["PAGE"]


def test_a_split_is_announced() -> None:
    assert without(three_splits(), "kvm_mmu_split_huge_page").rules() == ["SPLIT"]
    w = tree()
    split(w, name=0x400)
    assert w.rules() == []  # the first line of its kind: it may just have been switched on
    split(w, 0x600, 0x800, 0x800)
    split(w, 0xA00, 0xC00, 0xA00)
    assert w.rules() == ["SPLIT"]


def test_events_may_be_switched_off() -> None:
    """A missing line counts only if its kind comes again."""
    w = three_faults()
    w.lines = [line for line in w.lines if "kvm_mmu_set_spte" not in line or "gfn 5" in line]
    assert w.rules() == []


def test_findings_have_the_history_of_their_gfn() -> None:
    w = three_faults()
    w.change(1, 5, leaf(0x95), EMPTY)
    w.change(1, 5, leaf(0x99), EMPTY)
    finding = judged(w.lines).findings[0]
    assert (finding.as_id, finding.gfn, finding.level) == (0, 5, 1)
    assert (finding.old, finding.new) == (leaf(0x99), EMPTY)
    past = [(p.level, p.old, p.new) for p in finding.history]
    assert past[-2:] == [(1, EMPTY, leaf(0x95)), (1, leaf(0x95), EMPTY)]
    assert past[0] == (4, EMPTY, table(0x11))
