# SPDX-License-Identifier: GPL-2.0-only
"""From an image and a scenario to a program that an explorer can run."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

from septum.explore import Options, SearchResult
from septum.explore.program import KeepsStates
from septum.kvm.monitors import Monitors, mirror_matches
from septum.kvm.monitors.private import AcceptedPageStays
from septum.kvm.seamcall import Injection
from septum.kvm.spte import is_frozen_spte
from septum.machine import Decision, Execution, Finding, Halt, Limits, Machine, Policy, Task
from septum.machine.dependency import Footprint, Sleep
from septum.machine.events import CONTINUE, DEFAULT_LIMITS
from septum.machine.geometry import Geometry
from septum.native.answers import NativeMachine
from septum.native.driver import Driver
from septum.native.engine import Engine, Plan
from septum.native.errors import SharingGrew
from septum.native.image import CPUS, Image
from septum.native.kernel import Kernel
from septum.native.operations import EVERYTHING, bind, removals, uses_direct_roots
from septum.native.start import epilogue_steps, start_state
from septum.native.states import stateful
from septum.native.symbols import Lines
from septum.native.view import NativeView
from septum.native.words import word_address, word_name
from septum.scenarios.model import Scenario
from septum.scenarios.witness import watch
from septum.tdx import leaves, status
from septum.tdx.profiles import PROFILES, find_profile

__all__ = ["NativeBuilt", "NativeProgram", "SharingGrew", "build_native"]

_WARM_UP = 40  # random executions that look for words that tasks share


class NativeProgram(KeepsStates):
    """Tasks of an image.  Every execution begins from the saved memory."""

    def __init__(
        self, driver: Driver, bodies: Sequence[tuple[str, Callable[[], None]]], names: str
    ) -> None:
        super().__init__(driver.m, bodies)
        self.driver = driver
        self.label = names
        self.before_run: Callable[[Sequence[Decision]], None] | None = None
        self.engine: Engine | None = None
        self._known: tuple[str, ...] | None = None
        self.among_states = False  # a search over states asks: words that it finds are its own

    def use_engine(self, plans: Sequence[Sequence[Plan]]) -> Engine:
        """Let C run executions; ``plans`` is what the bodies do."""
        self.engine = Engine(self.driver, self.task_names, plans)
        return self.engine

    def run(
        self,
        prefix: Sequence[Decision] = (),
        sleep: Sleep = (),
        policy: Policy = CONTINUE,
        limits: Limits = DEFAULT_LIMITS,
        *,
        fingerprint: bool = False,
        covered: Sequence[Footprint] = (),
        survivors: bool = False,
    ) -> Execution:
        image = self.driver.image
        if self.before_run is not None:
            self.before_run(prefix)
        if self.engine is not None:
            if not fingerprint and self._plain(policy):
                self.engine.settle = self.settle
                done = self.engine.run(prefix, sleep, limits, covered)
                if image.new_shared_count.value:
                    self.forget_sharing()
                    raise SharingGrew
                if done is not None:
                    return done
            self.engine.python_runs()
        image.restore()
        if self.among_states:  # what earlier executions marked still counts
            image.found_count.value = 0
        else:
            image.begin()
        self.driver.start()
        execution = super().run(
            prefix,
            sleep,
            policy,
            limits,
            fingerprint=fingerprint,
            covered=covered,
            survivors=survivors,
        )
        if self.engine is not None and self.engine.answers.conflict:
            self.give_up_engine()
            raise SharingGrew
        if image.new_shared_count.value and not self.among_states:
            self.forget_sharing()
            raise SharingGrew
        return execution

    def explore_states(
        self, options: Options, progress: Callable[[SearchResult], None] | None = None
    ) -> SearchResult:
        return stateful(self, options, progress)

    def give_up_engine(self) -> None:
        """Python runs everything from now on."""
        if self.engine is not None:
            self.engine.m.answers = None
        self.engine = None
        self.driver.answers = self.driver.image.answers = None
        self.driver.kernel.objects.on_new = None

    def _plain(self, policy: Policy) -> bool:
        """Nothing that only Python can do is asked for."""
        m = self.machine
        return (
            policy.kind == "continue"
            and not m.tracing
            and m.history is None
            and m.state_hook is None
            and not m.retries_allowed
        )

    def words(self) -> tuple[str, ...]:
        """The words that are scheduling points, by names that other processes know."""
        image = self.driver.image
        return tuple(sorted(word_name(image, addr, by) for addr, by in image.shared()))

    def know(self, words: tuple[str, ...]) -> None:
        """Make these words scheduling points, and no others than those of the start state.
        What this image does not have is left out."""
        if words == self._known:
            return
        image = self.driver.image
        found = (word_address(image, word) for word in words)
        image.share_only(word for word in found if word is not None)
        self.forget_sharing()
        self._known = words

    def forget_sharing(self) -> None:
        """What was reported is known by now."""
        image = self.driver.image
        image.share_only(image.shared())
        image.new_shared_count.value = 0
        self.machine.forget()
        if self.engine is not None:
            self.engine.python_runs()
        self._known = None

    def warm_up(self) -> int:
        """Learn which words tasks share; how many runs it took."""
        runs = 0
        self.driver.learning = True
        for seed in range(_WARM_UP):
            runs += 1
            with suppress(SharingGrew):
                self.run(policy=Policy("random", seed=seed))
        self.driver.learning = False
        return runs


@dataclass
class NativeBuilt:
    """What `septum.scenarios.build.Built` is for a design, for an image."""

    design: Any
    scenario: Scenario
    params: dict[str, Any]
    machine: Machine
    kernel: Kernel
    view: NativeView
    monitors: Monitors
    program: NativeProgram
    driver: Driver
    plans: list[list[Plan]]
    source: Mapping[str, Any]
    settled: dict[Hashable, tuple[Finding, ...]] = field(default_factory=dict)

    @property
    def origin(self) -> dict[str, Any]:
        """Where the code comes from, and the present scheduling points."""
        return {**self.source, "words": list(self.program.words())}

    @property
    def design_name(self) -> str:
        """How rows call the tree."""
        return str(self.design.name)

    @property
    def scenario_name(self) -> str:
        return self.scenario.name

    @property
    def hypothetical(self) -> bool:
        """The module profile has features that no module is known to have."""
        profile = find_profile(self.params["profile"])
        return profile is not None and profile.hypothetical

    def do_instead(self, scenario: Scenario) -> None:
        """Give the program the tasks of another scenario with the same start state, without
        the scheduler in C."""
        geometry = Geometry(bits=self.params["bits"], levels=self.params["levels"])
        self.program.give_up_engine()
        _allow_removals(self.monitors, geometry, scenario)
        plans = _plans(self.driver, geometry, scenario)
        self.program.bodies = [
            (task.name, _body(self.driver, n, plan))
            for n, (task, plan) in enumerate(zip(scenario.tasks, plans, strict=True))
        ]

    def describe(self, what: str, args: tuple[Any, ...]) -> str:
        """An event of the module as one short line."""
        if what != "seamcall":
            return ""
        name, _, result = args
        return f"{name} -> {result.event or status.decode(result.rax)}"

    def snapshot(self) -> Mapping[str, Any]:
        """Both trees as they are now, and where they disagree (``differs``).  Looking is nobody's
        access: it makes no word a scheduling point."""
        self.machine.exploring, exploring = False, self.machine.exploring
        try:
            return self._snapshot()
        finally:
            self.machine.exploring = exploring

    def _snapshot(self) -> Mapping[str, Any]:
        entries = [e for e in self.view.entries() if e.table.is_mirror]
        settled = [e for e in entries if not is_frozen_spte(e.value)]
        judged = settled if self.view.keys_configured() else []
        problems = [(e.level, e.gfn, mirror_matches(self.view, e)) for e in judged]
        return {
            "mirror": [(e.table.name, e.level, e.gfn, e.value) for e in entries],
            "sept": self.view.sept_entries(),
            "differs": [problem for problem in problems if problem[2]],
        }


def build_native(
    image: Image,
    lines: Lines,
    scenario: Scenario,
    *,
    name: str,
    params: Mapping[str, Any] | None = None,
    monitors_off: Iterable[str] = (),
    origin: Mapping[str, Any] | None = None,
) -> NativeBuilt:
    """Make the TD in its start state and the tasks that are to be explored.

    :param origin: `septum.scenarios.result.Counterexample.kernel` without its words.
    :raises StartError: the kernel fails before anything races.
    """
    chosen = {**scenario.params(), **(params or {})}
    geometry = Geometry(bits=chosen["bits"], levels=chosen["levels"])
    machine = NativeMachine()
    machine.opaque = None  # where C code is in its loops cannot be seen
    profile = find_profile(chosen["profile"]) or PROFILES["linux-7.3"]
    kernel = Kernel(image, lines, machine, profile, bool(chosen["fine"]))
    driver = Driver(kernel)
    start_state(driver, geometry, scenario.start)
    kernel.poke_symbol("septum_yields", chosen["yields"])
    kernel.poke_symbol("septum_alloc_failures", scenario.alloc_failures)
    kernel.poke_symbol("septum_tells_monitors", int(uses_direct_roots(scenario)))
    if scenario.inject is not None:
        kernel.injection = _injection(machine, scenario)
    view = NativeView(kernel)
    driver.notice.linked_at_start = view.table_addresses()
    watch(view)
    monitors = Monitors(view, monitors_off)
    _allow_removals(monitors, geometry, scenario)
    plans = _plans(driver, geometry, scenario)
    bodies = [
        (task.name, _body(driver, n, plan))
        for n, (task, plan) in enumerate(zip(scenario.tasks, plans, strict=True))
    ]
    program = NativeProgram(driver, bodies, name)
    design = SimpleNamespace(name=name, capabilities=frozenset())
    built = NativeBuilt(
        design,
        scenario,
        chosen,
        machine,
        kernel,
        view,
        monitors,
        program,
        driver,
        plans,
        origin or {},
    )
    program.settle = _settle(built, geometry, bool(chosen["epilogue"]))
    machine.sequential = Task(-1, "sequential", None)
    machine.findings.clear()
    image.new_shared_count.value = 0
    if any(o.name == "run_vcpu" for t in scenario.tasks for o in t.ops):
        for cpu in range(CPUS):
            image.share(image.symbols["septum_irqs_off"] + 8 * cpu)
    image.save()
    return built


def _allow_removals(monitors: Monitors, geometry: Geometry, scenario: Scenario) -> None:
    """Operations begin and end where nobody looks, so a task may at any time remove what
    one of its operations is there to remove; the epilogue may remove everything."""
    for monitor in monitors.active:
        if isinstance(monitor, AcceptedPageStays):
            monitor.allow(-1, (EVERYTHING,))
            for number, task in enumerate(scenario.tasks):
                monitor.allow(number, removals(geometry, task.ops))


def _injection(machine: Machine, scenario: Scenario) -> Injection:
    inject = scenario.inject
    assert inject is not None
    numbers = {name: leaf for leaf, name in leaves.SEAMCALL_NAMES.items()}
    return Injection(
        machine,
        frozenset(numbers[name] for name in inject.leafs),
        tuple(getattr(status, name) | status.Operand.RCX for name in inject.statuses),
        inject.budget,
    )


def _plans(driver: Driver, geometry: Geometry, scenario: Scenario) -> list[list[Plan]]:
    """What each task does."""
    out: list[list[Plan]] = []
    hosts = scenario.start.vcpus
    for task in scenario.tasks:
        cpu = task.vcpu
        if cpu < 0:
            cpu, hosts = hosts, hosts + 1
        plan = []
        for what in task.ops:
            name, args, program = bind(geometry, task.vcpu, what)
            if what.name == "migrate_vcpu":
                cpu = int(what.args[0])
            load = None
            if program:
                load = partial(driver.kernel.vcpus[task.vcpu].guest.load, program)
            plan.append(Plan(name, args, cpu, load))
        out.append(plan)
    return out


def _body(driver: Driver, number: int, plan: Sequence[Plan]) -> Callable[[], None]:
    def run() -> None:
        for position, call in enumerate(plan):
            if call.load is not None:
                driver.load(number, position, call.load)
            driver.m.emit("returned", driver.call(call.function, *call.args, cpu=call.cpu))

    return run


def _settle(built: NativeBuilt, geometry: Geometry, epilogue: bool) -> Callable[[], None]:
    """Judge the settled state, then a sequential epilogue, once per state."""
    machine = built.machine
    mark = machine.mark()

    def settle() -> None:
        state = (machine.fingerprint(mark), built.kernel.memory_hash(), bool(machine.findings))
        known = built.settled.get(state)
        if known is None:
            before = len(machine.findings)
            built.monitors.settled()
            if epilogue and not machine.findings:
                built.driver.image.epilogue.value = 1
                _epilogue(built, geometry)
                built.driver.image.epilogue.value = 0
            built.settled[state] = tuple(machine.findings[before:])
        else:
            for finding in known:
                machine.report(finding.rule, finding.message, finding.obj)

    return settle


def _epilogue(built: NativeBuilt, geometry: Geometry) -> None:
    machine, start = built.machine, built.scenario.start
    reached = set(machine.reached)
    steps = epilogue_steps(built.driver, geometry, start, built.view)
    for number, step in enumerate(steps):
        before = len(machine.findings)
        try:
            step()
            if number < len(steps) - 1:
                built.monitors.settled()
        except Halt:
            pass
        if len(machine.findings) > before:
            machine.findings[before:] = [
                Finding(f.rule, f"{f.message} [epilogue step {number}]", f.step, f.task, f.obj)
                for f in machine.findings[before:]
            ]
            break
    machine.reached = reached
