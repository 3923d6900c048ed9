# SPDX-License-Identifier: GPL-2.0-only
"""Random call sequences: the model never crashes, its structural invariants always hold."""

from __future__ import annotations

import random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from septum.machine import Machine
from septum.machine.geometry import HARDWARE_5_WIDE, Geometry
from septum.tdx import Conditions, Config, GuestResult, Result, TdxModule, make_td
from septum.tdx.build import BuiltTd
from septum.tdx.dump import dump
from septum.tdx.invariants import broken
from septum.tdx.leaves import SEAMCALL_NUMBERS, TDCALL_NUMBERS
from septum.tdx.show import show_locks, show_pamt, show_td, show_tree, show_vcpus
from septum.tdx.status import NAMES, status_class

GEOMETRIES = [Geometry(), HARDWARE_5_WIDE, Geometry(bits=1, levels=3), Geometry(bits=2, levels=3)]
LPS = st.integers(0, 2)
SMALL = st.integers(0, 5)


class RandomCalls(RuleBasedStateMachine):
    """One TD of two vCPUs on three LPs; pools of GPAs and HPAs that collide often."""

    module: TdxModule
    td: BuiltTd

    @initialize(
        geometry=st.sampled_from(GEOMETRIES),
        state=st.sampled_from(["INITIALIZED", "RUNNABLE"]),
        associate=st.booleans(),
    )
    def start(self, geometry: Geometry, state: str, associate: bool) -> None:
        self.module = TdxModule(Machine(), geometry, config=Config(lps=3))
        self.td = make_td(self.module, 2, state, associate=associate)
        self.large = geometry.bytes_per_level(2)
        self.pages = [0x80000000 + i * 0x1000 for i in range(6)]
        self.pages += [0x80000000 + i * self.large for i in range(3)]
        self.pages += [self.td.sept + i * 0x1000 for i in range(6)] + [self.td.tdr, 0x1008, 0]
        self.gpas = [0, 0x1000, self.large, self.large + 0x1000, geometry.shared_gpa]

    def judge(self, result: Result | GuestResult) -> None:
        assert status_class(result.rax) in NAMES, hex(result.rax)

    @rule(
        call=st.sampled_from(sorted(n for n in SEAMCALL_NUMBERS if n.startswith("TDH.MEM."))),
        gpa=SMALL,
        level=st.integers(0, 4),
        page=st.integers(0, 17),
        lp=LPS,
        version=st.sampled_from([0, 0, 0, 1, 2]),
        intr=st.sampled_from([None, None, 1]),
    )
    def mem(
        self, call: str, gpa: int, level: int, page: int, lp: int, version: int, intr: int | None
    ) -> None:
        address = self.gpas[gpa % len(self.gpas)]
        span = self.module.geometry.bytes_per_level(min(level + 1, self.module.geometry.levels))
        regs = {"rcx": address & -span | level, "rdx": self.td.tdr, "r8": self.pages[page % 18]}
        if call == "TDH.MEM.TRACK":
            regs["rcx"] = self.td.tdr
        leaf = SEAMCALL_NUMBERS[call] | version << 16
        self.judge(self.module.seamcall(leaf, regs, lp, Conditions(intr_at=intr)))

    @rule(gpa=SMALL, page=SMALL)
    def build(self, gpa: int, page: int) -> None:
        """Likely calls, so that runs get deep: tables, then a page."""
        address = self.gpas[gpa % 4]
        for level in range(self.module.sept.top, 0, -1):
            span = self.module.geometry.bytes_per_level(level + 1)
            free = next((p for p in self.pages[9:15] if not self.module.pamt.leaf(p).type), 0)
            self.judge(self.module.tdh_mem_sept_add(self.td.tdr, address & -span, level, free))
        self.judge(self.module.tdh_mem_page_aug(self.td.tdr, address, 0, self.pages[page]))

    @rule(gpa=SMALL, level=st.integers(0, 1), then=st.integers(0, 4))
    def zap(self, gpa: int, level: int, then: int) -> None:
        """BLOCK, TRACK, and something that needs both."""
        module, tdr = self.module, self.td.tdr
        address = self.gpas[gpa % 4] & -module.geometry.bytes_per_level(level + 1)
        self.judge(module.tdh_mem_range_block(tdr, address, level))
        self.judge(module.tdh_mem_track(tdr))
        if then == 0:
            self.judge(module.tdh_mem_page_remove(tdr, address, level))
        elif then == 1:
            self.judge(module.tdh_mem_range_unblock(tdr, address, level))
        elif then == 2:
            self.judge(module.tdh_mem_page_relocate(tdr, address, self.pages[1]))
        elif level:
            page = self.pages[14]
            self.judge(module.tdh_mem_page_demote(tdr, address, level, page))
            self.judge(module.tdh_mem_page_promote(tdr, address, level))
            self.judge(module.tdh_mem_sept_remove(tdr, address, level))

    @rule(size=st.sampled_from([0, 1]), gap=st.booleans())
    def fill(self, size: int, gap: bool) -> None:
        """The large page at GPA 0: as one leaf, or from small ones; then PROMOTE."""
        module, tdr = self.module, self.td.tdr
        self.build(0, 0)
        if size:
            self.judge(module.tdh_mem_page_remove(tdr, 0, 0))
            self.judge(module.tdh_mem_sept_remove(tdr, 0, 1))
            self.judge(module.tdh_mem_page_aug(tdr, 0, 1, 0x80000000))
        elif self.large < 0x10000:
            for i in range(gap, self.large >> 12):
                at = i << 12
                self.judge(module.tdh_mem_page_aug(tdr, at, 0, 0x80000000 + at))
            self.judge(module.tdh_mem_page_promote(tdr, 0, 1))

    @rule(vcpu=st.integers(0, 2), lp=LPS)
    def enter(self, vcpu: int, lp: int) -> None:
        if self.module.lp(lp).guest.v is None:
            pages = (*self.td.tdvprs, 0x80000000)
            self.judge(self.module.tdh_vp_enter(pages[vcpu], lp=lp))

    def running(self) -> list[int]:
        return [lp for lp in range(3) if self.module.lp(lp).guest.v is not None]

    @rule(
        what=st.sampled_from([*sorted(TDCALL_NUMBERS), "access", "violation", "interrupt"]),
        gpa=SMALL,
        level=st.integers(0, 2),
        which=st.integers(0, 2),
        intr=st.sampled_from([None, None, 1]),
        tsc=st.integers(0, 5_000_000_000),
    )
    def guest(
        self, what: str, gpa: int, level: int, which: int, intr: int | None, tsc: int
    ) -> None:
        if not self.running():
            self.judge(self.module.tdh_mr_finalize(self.td.tdr))
            self.enter(which % 2, which)
        if not self.running():
            return
        lp = self.running()[which % len(self.running())]
        address = self.gpas[gpa % 4]
        cond = Conditions(intr_at=intr, tsc=tsc)
        if what == "access":
            result = self.module.guest_access(lp, address)
        elif what == "violation":
            result = self.module.guest_ept_violation(lp, address, cond)
        elif what == "interrupt":
            result = self.module.guest_interrupt(lp, cond)
        else:
            rcx = address & -self.module.geometry.bytes_per_level(level + 1) | level
            result = self.module.tdcall(TDCALL_NUMBERS[what], {"rcx": rcx}, lp, cond)
        self.judge(result)

    @rule(
        call=st.sampled_from(sorted(n for n in SEAMCALL_NUMBERS if not n.startswith("TDH.MEM."))),
        rcx=st.integers(0, 22),
        rdx=st.integers(0, 22),
        lp=LPS,
    )
    def other(self, call: str, rcx: int, rdx: int, lp: int) -> None:
        if self.module.lp(lp).guest.v is not None:
            return
        pool = [*self.pages, *self.td.tdvprs, self.td.tdcx[0], 18, 1]
        regs = {"rcx": pool[rcx % len(pool)], "rdx": pool[rdx % len(pool)]}
        self.judge(self.module.seamcall(SEAMCALL_NUMBERS[call], regs, lp))

    @rule()
    def undo_redo(self) -> None:
        """A rewound call leaves no trace."""
        m = self.module.m
        mark, before = m.mark(), dump(self.module)
        self.module.tdh_mem_track(self.td.tdr)
        self.module.tdh_mem_page_aug(self.td.tdr, 0, 0, self.pages[0])
        m.rewind(mark)
        assert dump(self.module) == before

    @rule()
    def printable(self) -> None:
        tdr = self.td.tdr
        texts = [show(self.module, tdr) for show in (show_locks, show_td, show_tree, show_vcpus)]
        assert all([*texts, show_pamt(self.module)])

    @invariant()
    def sound(self) -> None:
        if hasattr(self, "module"):
            assert broken(self.module) == []
            assert self.module.m.findings == []


RandomCalls.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestRandomCalls = RandomCalls.TestCase


def test_long_walks_get_everywhere() -> None:
    """The same calls from a seeded generator: deep sequences, and what they must reach."""
    reached: set[str] = set()
    for seed in range(40):
        rng = random.Random(seed)
        walk = RandomCalls()
        walk.start(rng.choice(GEOMETRIES), rng.choice(["INITIALIZED", "RUNNABLE"]), seed % 2 == 0)
        mem = sorted(n for n in SEAMCALL_NUMBERS if n.startswith("TDH.MEM."))
        for _ in range(80):
            pick = rng.random()
            gpa, level, page, lp = (rng.randrange(n) for n in (6, 3, 18, 3))
            if pick < 0.25:
                intr = 1 if rng.random() < 0.2 else None
                walk.mem(rng.choice(mem), gpa, level, page, lp, 0, intr)
            elif pick < 0.4:
                walk.build(gpa, page % 6)
            elif pick < 0.5:
                walk.fill(rng.randrange(2), False)
            elif pick < 0.65:
                walk.zap(gpa, level % 2, rng.randrange(5))
            elif pick < 0.75:
                walk.enter(page % 3, lp)
            else:
                what = rng.choice(["TDG.MEM.PAGE.ACCEPT", "access", "violation", "interrupt"])
                walk.guest(what, gpa, level, lp, None, rng.randrange(5_000_000_000))
            walk.sound()
        reached |= walk.module.m.reached
    for call in mem:
        assert f"{call} SUCCESS" in reached or call == "TDH.MEM.PAGE.ADD", call
    assert "TDG.MEM.PAGE.ACCEPT resume TDX_SUCCESS" in reached
    assert "TDH.MEM.RANGE.UNBLOCK returned TDX_TLB_TRACKING_NOT_DONE|SEPT_TREE" in reached
    assert "TDH.MEM.TRACK returned TDX_PREVIOUS_TLB_EPOCH_BUSY" in reached
