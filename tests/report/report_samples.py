# SPDX-License-Identifier: GPL-2.0-only
"""A small program with kernel names, run for real, as input for the renderers.

One vCPU freezes a mirror SPTE, calls the module and re-reads the SPTE; the other one
meets the frozen value.  Nothing here depends on the models of the floors below, so that
the golden files change only when the renderers do.
"""

from __future__ import annotations

from septum.kvm.spte import FROZEN_SPTE, SHADOW_NONPRESENT_VALUE
from septum.machine import Decision, Finding, Machine, RWLock, Word
from septum.scenarios.model import Inject, Scenario, Start, TaskSpec, op, run_vcpu
from septum.scenarios.result import CheckResult, Counterexample, Replay
from septum.tdx import sept

LEAF = 0x86B0000100010F77
SCENARIO = Scenario(
    "two-faults",
    "two vCPUs fault the same GFN",
    "What if __handle_changed_spte() reads *iter->sptep in step 2?",
    (
        TaskSpec("vcpu0", (op("fault", 0),), 0),
        TaskSpec("vcpu1", (run_vcpu(op("accept", 0), op("touch", 1)), op("fault", 0)), 1),
    ),
    Start(mapped=(2,)),
    must_occur=("a fault met FROZEN_SPTE",),
    inject=Inject(("TDH.MEM.PAGE.AUG",)),
)


class Rule:
    id = "I1"
    statement = (
        "A mirror entry that nobody is changing says what the S-EPT says: leaf <=> leaf "
        "with the same PFN, not present <=> FREE."
    )
    judged = "the store that unfreezes an entry; settled"
    source = "facts/kvm-tdp-mmu.md 7(b) I1; Linux tdp_mmu_set_spte_atomic()"
    example = "PAGE.AUG fails, the mirror keeps the leaf"


def replayed() -> Replay:
    """The schedule: vcpu0 freezes, vcpu1 overtakes it, vcpu0 stores what it re-read."""
    m = Machine()
    mmu_lock = RWLock(m, "mmu_lock")
    sptep = Word(m, "sp0[0]", SHADOW_NONPRESENT_VALUE)
    private = {name: Word(m, name, 0) for name in ("attr[0]", "memslots", "vcpu1.requests")}
    told: dict[int, list[str]] = {}

    def __tdp_mmu_set_spte_atomic(new: int) -> bool:
        return sptep.try_cmpxchg(SHADOW_NONPRESENT_VALUE, new)[0]

    def tdx_sept_set_private_spte() -> None:
        with m.step("TDH.MEM.PAGE.AUG", "commit"):
            told[m.seq] = ["TDH.MEM.PAGE.AUG -> TDX_SUCCESS", "kvm_mmu_set_spte"]

    def __handle_changed_spte() -> None:
        tdx_sept_set_private_spte()
        if sptep.read() == FROZEN_SPTE:
            m.report("I1", "mirror gfn 0 level 1 is FROZEN, S-EPT is PENDING", sptep.name)

    def kvm_tdp_mmu_map() -> None:
        if __tdp_mmu_set_spte_atomic(FROZEN_SPTE):
            __handle_changed_spte()
            sptep.write(LEAF)

    def fault() -> None:
        private["attr[0]"].read()
        private["memslots"].read()
        mmu_lock.read_lock()
        kvm_tdp_mmu_map()
        mmu_lock.read_unlock()
        private["vcpu1.requests"].add(1)

    m.tracing = True
    order = [0, 0, 0, 0, 1, 1, 1, 0, 1, 0, 0, 0, 0, 1, 1]
    run = m.run([("vcpu0", fault), ("vcpu1", fault)], [Decision(task) for task in order])
    assert run.status == "complete", run
    state = {"mirror": [("sp0", 1, 0, SHADOW_NONPRESENT_VALUE)], "sept": []}
    after = {
        "mirror": [("sp0", 1, 0, LEAF)],
        "sept": [(1, 0, sept.leaf(sept.State.PENDING, 0x100010000))],
    }
    return Replay(run.events, ["vcpu0", "vcpu1"], run.findings, (3, 8), told, {3: state, 7: after})


def counterexample() -> Counterexample:
    replay = replayed()
    return Counterexample(
        "v7.3+reread-sptep",
        SCENARIO.name,
        {"bits": 1, "levels": 3},
        "linux-7.3",
        "SC",
        tuple(Decision(e.task, e.choice) for e in replay.events),
        tuple((replay.task_names[e.task], "", e.op, e.obj) for e in replay.events),
        replay.findings[0],
        "0.1.0",
    )


def results() -> list[CheckResult]:
    """A row of every verdict."""
    finding = Finding("I1", "mirror gfn 0 level 1 is FROZEN, S-EPT is PENDING", 9, 0, "sp0[0]")

    def row(design: str, scenario: str, verdict: str, **more: object) -> CheckResult:
        given = {"executions": 1234, "traces": 1200, "blocked": 34, "seconds": 1.25, **more}
        return CheckResult(design, scenario, {"bits": 1}, verdict, **given)  # type: ignore[arg-type]

    return [
        row("v7.3", "two-faults", "holds", complete=True, reached=["b", "a"]),
        row("v7.3", "zap", "bounded", bounds_hit=["1234 executions"], retries_folded=True),
        row("v7.3", "split", "n/a", note="needs a 2M mirror leaf", executions=0, seconds=0.0),
        row(
            "v7.3+reread-sptep",
            "two-faults",
            "violated",
            complete=True,
            finding=finding,
            other_findings=["I9", "BUG:tdx_sept_set_private_spte"],
            counterexample=counterexample(),
            seconds=125.0,
        ),
        row("v7.3+reread-sptep", "zap", "vacuous", complete=True, missing=["a leaf was zapped"]),
        row("v7.3+reread-sptep", "split", "sampled", strategy="pct", hypothetical=True),
        row("rfc-v5", "two-faults", "error", note="the start state cannot be made"),
    ]
