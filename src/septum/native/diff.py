# SPDX-License-Identifier: GPL-2.0-only
"""The compiled kernel and a Python design check each other in scenarios: the same findings and
the same set of settled states.  Pages are compared by what they map, not by their numbers,
which differ.  `septum.native.diff_operations` compares single operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from errno import errorcode
from time import perf_counter
from typing import Any, Final

from septum.explore import Options, search
from septum.kvm.spte import is_frozen_spte, is_last_spte, is_shadow_present_pte
from septum.kvm.view import SpteChange
from septum.machine.geometry import Geometry
from septum.native.code import Code
from septum.native.image import ImageError
from septum.native.operations import unsupported
from septum.native.process import ImageDied, ImageProcess, Wanted
from septum.native.program import NativeBuilt, SharingGrew
from septum.scenarios.build import Built, build
from septum.scenarios.model import Scenario
from septum.scenarios.start import StartError
from septum.tdx import status
from septum.tdx.sept import state_of

__all__ = ["Difference", "Side", "compare_scenario", "native_side", "python_side", "words_of"]

State = tuple[tuple[Any, ...], ...]
_MEMORY_LEAFS: Final = ("TDH.MEM.", "TDH.PHYMEM.PAGE")


@dataclass(frozen=True, slots=True)
class Difference:
    """Outcome for one scenario.

    :ivar text: empty if both agree; else the first difference, with its witness.
    :ivar complete: both searches were complete.
    """

    scenario: str
    text: str
    complete: bool
    states: int
    note: str = ""


# --- one form for both sides ------------------------------------------------------------------


def _kind(value: int, level: int) -> str:
    if is_frozen_spte(value):
        return "frozen"
    if not is_shadow_present_pte(value):
        return "none"
    return "leaf" if is_last_spte(value, level) else "table"


class Side:
    """What one side did, in neutral words.  ``small`` turns its GFNs into the scenario's;
    None: not part of the scenario."""

    def __init__(self, built: Any, small: Callable[[int, int], int | None]) -> None:
        self.built = built
        self.small = small
        self.sequence: list[tuple[Any, ...]] = []
        self.states: dict[State, list[int]] = {}
        self.settle = built.program.settle
        built.program.settle = self._settled
        built.view.subscribe("spte", self._spte)
        built.view.subscribe("seamcall", self._seamcall)
        built.view.subscribe("returned", self._returned)

    def _spte(self, change: SpteChange) -> None:
        entry = change.entry
        gfn = self.small(entry.gfn, entry.level)
        if gfn is None or not entry.table.is_mirror:
            return
        kinds = _kind(change.old, entry.level), _kind(change.new, entry.level)
        self.sequence.append(("SPTE", entry.level, gfn, *kinds))

    def _seamcall(self, name: str, regs: Any, result: Any) -> None:
        if name.startswith(_MEMORY_LEAFS):
            self.sequence.append(("SEAMCALL", name, status.decode(result.rax)))

    def _returned(self, result: int | None) -> None:
        value = int(result or 0)
        self.sequence.append(("RETURN", errorcode.get(-value, str(value)) if value < 0 else "ok"))

    def _settled(self) -> None:
        state = self._state()
        self.states.setdefault(state, [e.task for e in self.built.machine.log])
        if self.settle is not None:
            self.settle()

    def _state(self) -> State:
        seen = self.built.snapshot()
        out: list[tuple[Any, ...]] = []
        for _, level, gfn, value in seen["mirror"]:
            at, kind = self.small(gfn, level), _kind(value, level)
            if at is not None and kind != "none":
                out.append(("mirror", level, at, kind))
        for level, gfn, raw in seen["sept"]:
            at = self.small(gfn, level)
            if at is not None:
                out.append(("S-EPT", level, at, state_of(raw).name))
        view = self.built.view
        out.append(("VM", "bugged" if view.vm_bugged() else "", "dead" if view.vm_dead() else ""))
        return tuple(sorted(set(out), key=str))

    def run(self, options: Options) -> tuple[set[str], bool]:
        """Explore; the rules broken, and whether nothing was left out."""
        begun = perf_counter()
        while not options.budget_s or perf_counter() - begun < options.budget_s:
            self.sequence.clear()
            self.states.clear()
            engine = getattr(self.built.program, "engine", None)
            if engine is not None:
                engine.settled.clear()  # states that are known are not shown again
            try:
                result = search(self.built.program, options)
            except SharingGrew:
                continue
            return set(result.found), result.complete
        return set(), False  # time ended while tasks were still found to share words


def python_side(built: Built) -> Side:
    slots = built.kvm.slots
    end = max(s.base_gfn + s.npages for s in slots)
    return Side(built, lambda gfn, level: gfn if gfn < end else None)


def native_side(built: NativeBuilt) -> Side:
    params = built.params
    geometry = Geometry(bits=params["bits"], levels=params["levels"])

    def small(gfn: int, level: int) -> int | None:
        if level > geometry.levels or gfn >> 9 * geometry.levels:
            return None
        out = 0
        for n in range(geometry.levels):
            index = gfn >> 9 * n & 0x1FF
            if index > geometry.mask:
                return None
            out |= index << n * geometry.bits
        return out

    return Side(built, small)


# --- comparing --------------------------------------------------------------------------------


def compare_scenario(code: Code, design: str, scenario: Scenario, options: Options) -> Difference:
    """Compare in a process of its own."""
    lacking = unsupported(scenario)
    if lacking:
        return Difference(scenario.name, "", True, 0, f"n/a: {lacking}")
    process = ImageProcess(Wanted(code, scenario))
    try:
        return process.ask(_compare, design, options)
    except (StartError, ImageError, ImageDied) as error:
        return Difference(scenario.name, str(error), False, 0)
    finally:
        process.close()


def _compare(compiled: NativeBuilt, design: str, options: Options) -> Difference:
    scenario, name = compiled.scenario, compiled.design_name
    model = python_side(build(design, scenario))
    code = native_side(compiled)
    compiled.program.warm_up()
    ours, whole = model.run(options)
    if compiled.program.engine is not None:
        options = replace(options, strategy="stateful")
    theirs, all_of_it = code.run(options)
    names = [task.name for task in scenario.tasks]
    found = (
        _Seen(design, ours, set(model.states), whole),
        _Seen(name, theirs, set(code.states), all_of_it),
    )
    text = "\n".join(_differences(*found, (model, code), names))
    return Difference(scenario.name, text, whole and all_of_it, len(code.states))


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one side found; ``whole``: it explored everything."""

    name: str
    rules: set[str]
    states: set[State]
    whole: bool


def _differences(
    model: _Seen, code: _Seen, sides: tuple[Side, Side], names: Sequence[str]
) -> Iterator[str]:
    """What one side did not get to before its time was up is no difference."""
    both = ((model, code, sides[0]), (code, model, sides[1]))
    if any(other.whole and one.rules - other.rules for one, other, _ in both):
        yield f"findings: {model.name} {_list(model.rules)}, {code.name} {_list(code.rules)}"
    for one, other, side in both:
        only = [state for state in side.states if state not in other.states]
        if only and other.whole:
            schedule = " ".join(names[t] for t in side.states[only[0]])
            words = ", ".join(
                words_of(item) for item in only[0] if item[0] != "VM" or any(item[1:])
            )
            yield f"settled state that only {one.name} reaches: {words}"
            yield f"  by the schedule: {schedule}"


def words_of(item: tuple[Any, ...]) -> str:
    return " ".join(str(part) for part in item if part != "")


def _list(rules: set[str]) -> str:
    return ", ".join(sorted(rules)) or "none"
