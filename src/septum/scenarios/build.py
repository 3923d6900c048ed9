# SPDX-License-Identifier: GPL-2.0-only
"""From a design and a scenario to a program that an explorer can run."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from septum.designs.registry import Design, lookup
from septum.explore import MachineProgram
from septum.kvm.default_vm import create_default_vm, destroy_default_vm
from septum.kvm.monitors import Monitors, mirror_matches
from septum.kvm.operations import OPERATIONS
from septum.kvm.operations_direct import DIRECT_VCPU_OPERATIONS
from septum.kvm.seamcall import Injection
from septum.kvm.spte import is_frozen_spte
from septum.kvm.structs import Kvm
from septum.kvm.tdx_vm import create_tdx_vm
from septum.kvm.view import KvmView
from septum.machine import Finding, Halt, Machine, Task
from septum.machine.geometry import Geometry
from septum.scenarios import ops
from septum.scenarios.failure import failure
from septum.scenarios.model import Inject, Scenario, Start, TaskSpec
from septum.scenarios.start import StartError, prepare
from septum.scenarios.suite import find
from septum.scenarios.witness import watch
from septum.tdx import leaves, status
from septum.tdx.profiles import PROFILES, find_profile

__all__ = ["BadParameter", "Built", "build", "missing_capabilities"]

_KINDS = {int: "an integer", str: "a text"}


class BadParameter(ValueError):
    """A ``-p key=value`` that the scenario does not have, or whose value is wrong."""


@dataclass
class Built:
    """A program, and everything around it.

    :ivar settled: what the epilogue found in a settled state, by the state.
    """

    design: Design
    scenario: Scenario
    params: dict[str, Any]
    machine: Machine
    kvm: Kvm
    view: KvmView
    monitors: Monitors
    program: MachineProgram
    settled: dict[Hashable, tuple[Finding, ...]] = field(default_factory=dict)

    @property
    def design_name(self) -> str:
        return self.design.name

    @property
    def scenario_name(self) -> str:
        return self.scenario.name

    @property
    def hypothetical(self) -> bool:
        """The module profile has features that no module is known to have."""
        profile = find_profile(self.params["profile"])
        return profile is not None and profile.hypothetical

    @property
    def origin(self) -> dict[str, Any]:
        return {}

    def describe(self, what: str, args: tuple[Any, ...]) -> str:
        """A model event as one short line for people; empty if not worth one."""
        if what == "seamcall":
            name, _, result = args
            return f"{name} -> {result.event or status.decode(result.rax)}"
        if what == "trace":
            name, fields = args
            if name == "kvm_tdp_mmu_spte_changed":
                return (
                    f"{name}: gfn {fields['gfn']:x} level {fields['level']} "
                    f"old_spte {fields['old_spte']:x} new_spte {fields['new_spte']:x}"
                )
            return str(name)
        return ""

    def snapshot(self) -> Mapping[str, Any]:
        """What a reader may want to see now: SPTEs (``mirror``, ``direct``) and the S-EPT
        (``sept``) by GFN and level, where mirror and S-EPT disagree (``differs``), and
        CPUs and epochs (``cpu``)."""
        trees: dict[str, list[tuple[str, int, int, int]]] = {"mirror": [], "direct": []}
        differs = []
        keys = self.view.keys_configured()
        for e in self.view.entries():
            tree = "mirror" if e.table.is_mirror else "direct"
            trees[tree].append((e.table.name, e.level, e.gfn, e.value))
            if keys and e.table.is_mirror and not is_frozen_spte(e.value):
                problem = mirror_matches(self.view, e)
                if problem:
                    differs.append((e.level, e.gfn, problem))
        return {
            **trees,
            "sept": self.view.sept_entries(),
            "differs": differs,
            "cpu": self.view.cpus(),
        }


def missing_capabilities(design: Design, scenario: Scenario) -> list[str]:
    """What the scenario needs and the design cannot do."""
    return sorted(scenario.needs - design.capabilities)


def _params(scenario: Scenario, given: Mapping[str, Any]) -> dict[str, Any]:
    params = scenario.params()
    for key, value in given.items():
        if key not in params:
            raise BadParameter(
                f"unknown parameter {key!r} of {scenario.name}; it has {', '.join(params)}"
            )
        kind = type(params[key])
        try:
            params[key] = kind(value)
        except ValueError:
            raise BadParameter(f"parameter {key}={value!r}: {_KINDS[kind]} was expected") from None
    return params


def build(
    design: str | Design,
    scenario: str | Scenario,
    params: Mapping[str, Any] | None = None,
    monitors_off: Iterable[str] = (),
    *,
    memory_model: str = "SC",
) -> Built:
    """Make the VM in its start state and the tasks that are to be explored.

    :param memory_model: ``SC`` or ``TSO``, for the tasks; the start state is sequential.
    :raises DesignError, UnknownScenario, BadParameter: with what to do about it.
    :raises StartError: the design fails before anything races.
    """
    if isinstance(design, str):
        base, design = lookup(design.split("+")[0]), lookup(design)
    else:
        base = design
    if isinstance(scenario, str):
        scenario = find(scenario)
    chosen = _params(scenario, params or {})
    try:
        geometry = Geometry(bits=chosen["bits"], levels=chosen["levels"])
    except ValueError as error:
        raise BadParameter(str(error)) from None
    if find_profile(chosen["profile"]) is None:
        raise BadParameter(f"no profile {chosen['profile']!r}; there are {', '.join(PROFILES)}")
    machine = Machine()
    machine.memory_model = memory_model
    kvm = _started(machine, geometry, base, scenario.start, chosen)
    # Toggles and mutants are judged in the race, not for what they did to its start.
    vars(kvm.fn).update(design.functions)
    if scenario.inject is not None:
        kvm.tdx.injection = _injection(machine, scenario.inject)
    if scenario.interrupts:
        kvm.module.inject_interrupts = True
        kvm.module.interrupt_budget.set(scenario.interrupts)
    kvm.host.alloc_failures.set(scenario.alloc_failures)
    view = KvmView(kvm)
    watch(view)
    monitors = Monitors(view, monitors_off)
    bodies = [(task.name, _body(kvm, task)) for task in scenario.tasks]
    program = MachineProgram(machine, bodies)
    program.remembers = True
    built = Built(design, scenario, chosen, machine, kvm, view, monitors, program)
    program.settle = _settle(built, bool(chosen["epilogue"]))
    machine.sequential = Task(-1, "sequential", None)
    machine.findings.clear()
    return built


def _started(
    machine: Machine, geometry: Geometry, base: Design, start: Start, chosen: Mapping[str, Any]
) -> Kvm:
    """A VM in the scenario's start state, made by ``base``.

    :raises StartError: ``base`` fails before anything races.
    """
    try:
        slots = start.slots or ((0, start.slot_pages),)
        if start.default_vm is not None:
            kvm = create_default_vm(
                machine,
                geometry,
                base.functions,
                start.vcpus,
                slots=slots,
                features=start.default_vm.features,
                max_level=start.default_vm.max_level,
                yields=chosen["yields"],
            )
        else:
            kvm = create_tdx_vm(
                machine,
                geometry,
                base.functions,
                start.vcpus,
                finalized=start.finalized,
                slots=slots,
                profile=find_profile(chosen["profile"]) or chosen["profile"],
                yields=chosen["yields"],
                fine=bool(chosen["fine"]),
            )
        prepare(kvm, start)
    except StartError:
        raise
    except Halt:  # BUG() while the TD was made
        what = "; ".join(f"{f.rule}: {f.message}" for f in machine.findings[-1:])
        raise StartError(f"the TD cannot be made: {what}") from None
    except Exception as error:
        raise StartError(f"the start state cannot be made: {failure(error)}") from error
    return kvm


def _injection(machine: Machine, inject: Inject) -> Injection:
    numbers = {name: leaf for leaf, name in leaves.SEAMCALL_NAMES.items()}
    return Injection(
        machine,
        frozenset(numbers[name] for name in inject.leafs),
        tuple(getattr(status, name) | status.Operand.RCX for name in inject.statuses),
        inject.budget,
    )


def _body(kvm: Kvm, task: TaskSpec) -> Callable[[], None]:
    calls = [ops.bind(kvm, task.vcpu, what) for what in task.ops]

    def body() -> None:
        try:
            for number, call in enumerate(calls):
                kvm.m.emit("operation", task.name, number)
                kvm.m.emit("returned", call())
        except Exception as error:
            if kvm.m.dead:
                raise
            kvm.m.fatal("EXCEPTION", failure(error))

    return body


def _settle(built: Built, epilogue: bool) -> Callable[[], None]:
    """Judge the settled state, then a sequential epilogue.  Their outcome depends on the
    settled state only, so both are run once per state."""
    machine, kvm = built.machine, built.kvm
    mark = machine.mark()

    def settle() -> None:
        kvm.rcu.barrier()
        # The epilogue is only run if nothing was found before.
        state = (machine.fingerprint(mark), bool(machine.findings))
        known = built.settled.get(state)
        if known is None:
            before = len(machine.findings)
            built.monitors.settled()
            if epilogue and not machine.findings:
                _epilogue(built)
            known = tuple(machine.findings[before:])
            built.settled[state] = known
        else:
            for finding in known:
                machine.report(finding.rule, finding.message, finding.obj)

    return settle


def _gfns(kvm: Kvm) -> Iterator[int]:
    for slot in kvm.slots:
        yield from range(slot.base_gfn, slot.base_gfn + slot.npages)


def _touch(kvm: Kvm, gfn: int) -> None:
    """A fault on the side that the page has."""
    OPERATIONS["fault"](kvm, 0, gfn, shared=not kvm.fn.kvm_mem_is_private(kvm, gfn))


def _epilogue(built: Built) -> None:
    """Touch every GFN, zap all, tear down; judged after each operation."""
    machine, kvm = built.machine, built.kvm
    reached = set(machine.reached)
    steps: list[Callable[[], object]] = []
    if built.scenario.start.default_vm is not None:
        steps += [partial(DIRECT_VCPU_OPERATIONS["access"], kvm, 0, gfn) for gfn in _gfns(kvm)]
        steps.append(partial(OPERATIONS["unmap_hva"], kvm, 0, built.scenario.start.slot_pages))
    elif not kvm.vm_dead.v and built.view.keys_configured():
        if kvm.pre_fault_allowed.v:
            steps += [partial(_touch, kvm, gfn) for gfn in _gfns(kvm)]
        for file in kvm.gmem_files:
            hole = partial(OPERATIONS["punch_hole"], kvm, 0, file.size, file.number)
            steps.append(hole)
    if built.scenario.start.default_vm is not None:
        steps.append(partial(destroy_default_vm, kvm))
    else:
        steps.append(partial(OPERATIONS["destroy_vm"], kvm))
    for number, step in enumerate(steps):
        before = len(machine.findings)
        try:
            step()
            kvm.rcu.barrier()
            built.monitors.settled()
        except Halt:
            pass  # BUG() or a wait that cannot end: recorded as a finding
        except Exception as error:
            machine.report("EXCEPTION", failure(error))
        if len(machine.findings) > before:
            machine.findings[before:] = [
                Finding(f.rule, f"{f.message} [epilogue step {number}]", f.step, f.task, f.obj)
                for f in machine.findings[before:]
            ]
            break
    machine.reached = reached
