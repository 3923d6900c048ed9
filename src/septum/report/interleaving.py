# SPDX-License-Identifier: GPL-2.0-only
"""An execution as a table: one column per task, one row per step shown.

A line with a function's name says where the steps below it are; it is repeated when the
task goes on elsewhere.  Marks in the left margin: ``*`` the racing pair, ``!`` a step at
which a rule broke.  ``(n steps)`` are steps that `septum.report.fold` left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

from septum.designs import design_names, lookup
from septum.machine import Event
from septum.report.fold import BUDGET, rank_steps, shown_steps
from septum.report.layout import WIDTH, Paint, clean, fill, plain, shorten, steps
from septum.report.states import changes
from septum.report.values import change, value
from septum.scenarios.result import Replay

__all__ = [
    "calls_of",
    "describe",
    "function_of",
    "interleaving",
    "last_step",
    "legend",
    "story_end",
]

_AFTER: Final = 30  # steps behind the one that breaks the rule: a livelock has no end
_GAP = "  "
_LEAST_COLUMN = 14

# Their caller says more: store helpers (mmu/tdp_iter.h), how a VM is bugged, and the
# wrappers of SEAMCALLs, whose leaf is the operation itself.
_HELPERS = frozenset(
    {
        "__kvm_tdp_mmu_write_spte",
        "kvm_tdp_mmu_read_spte",
        "kvm_tdp_mmu_write_spte",
        "kvm_tdp_mmu_write_spte_atomic",
        "kvm_vm_bugged",
        "kvm_vm_dead",
        "seamcall",
        "tdp_mmu_clear_spte_bits",
        "tdp_mmu_clear_spte_bits_atomic",
    }
)


@cache
def _kernel_functions() -> frozenset[str]:
    """Functions that some design or the floor below knows by a kernel name."""
    return frozenset(name for design in design_names() for name in lookup(design).functions)


def calls_of(event: Event) -> list[str]:
    """The call stack of a step, kernel functions only, outermost first; of code that has
    none (an operation, a guest, a protocol of one's own), its innermost function."""
    known = _kernel_functions()
    stack = [name for name in event.stack if name in known]
    if not stack and event.where is not None:
        return [event.where[0]]
    return stack


def function_of(event: Event) -> str:
    """The function to name for a step: the innermost kernel function that is not a mere
    helper; of code that is no kernel function (an operation, a guest), the innermost."""
    known = _kernel_functions()
    for name in reversed(event.stack):
        if name in known and name not in _HELPERS and not name.startswith("tdh_"):
            return name
    if event.where is not None:
        return event.where[0]
    return ""


def describe(event: Event, told: Sequence[str] = ()) -> str:
    """Operation, object, value and SEAMCALL status of a step, in one line.

    :param told: what the model told at this step (`Replay.traces`).
    """
    op, obj = event.op, event.obj
    if op == "choose":
        option = event.options[event.choice] if event.options else event.choice
        return f"choice {obj}: {value(option)}"
    if op == "await":
        awaited = sorted(event.since or {})
        verb = "has" if len(awaited) == 1 else "have"
        return f"retry {obj}" + (f": {', '.join(awaited)} {verb} changed" if awaited else "")
    if event.label:
        own = f"{op} -> "
        returned = [text.removeprefix(own) for text in told if text.startswith(own)]
        return " -> ".join([f"{op} {obj}".rstrip(), *returned])
    if op == "cmpxchg-failed":
        return f"cmpxchg {obj} fails: it is {value(event.seen, obj)}"
    if op == "read":
        return f"read {obj}: {value(event.seen, obj)}"
    if event.seen is None and event.left is None:
        return f"{op} {obj}"
    if op == "store":
        return f"store {obj}: {change(event.seen, event.left, obj)} (buffered)"
    return f"{op} {obj}: {change(event.seen, event.left, obj)}"


def last_step(replay: Replay, upto: int | None = None) -> int:
    """The last step worth a row: ``upto``, else the first finding's, or the racing pair."""
    last = len(replay.events) - 1
    if upto is None:
        upto = replay.findings[0].step if replay.findings else last
    return min(max(upto, *(replay.pair or (0,))), last)


def story_end(replay: Replay, upto: int) -> int:
    """How many steps are worth walking through: some more than are worth a row."""
    return min(last_step(replay, upto) + 1 + _AFTER, len(replay.events))


def legend(replay: Replay, folded: bool) -> str:
    """What the marks and the folds mean; only those that occur."""
    parts = []
    if replay.pair is not None:
        parts.append("* racing pair")
    if replay.findings:
        parts.append("! rule broken here")
    if replay.buffers:
        parts.append("flush: a buffered store becomes visible")
    if folded:
        parts.append("(n steps) not shown; all with septum show --all")
    return "; ".join(parts)


def interleaving(
    replay: Replay,
    *,
    width: int = WIDTH,
    upto: int | None = None,
    budget: int = BUDGET,
    paint: Paint = plain,
    states: bool = False,
    sources: bool = False,
) -> list[str]:
    """The table.

    :param upto: the step at which the rule broke: later ones are folded.
    :param budget: steps shown; negative: all.
    :param states: below each step shown, what has changed in ``replay.states`` since the
        one before.
    :param sources: file and line beside each function.
    """
    return _Table(replay, width, paint, states, sources).draw(budget, upto)


class _Table:
    """The table while it is drawn."""

    def __init__(
        self, replay: Replay, width: int, paint: Paint, states: bool, sources: bool
    ) -> None:
        self.replay = replay
        self.paint = paint
        self.sources = sources
        self.states = replay.states if states else {}
        self.state: Mapping[str, Any] | None = None
        self.now: Mapping[str, Any] | None = None
        self.everything = False
        shown = len(replay.task_names) - replay.buffers  # a flush is in its task's column
        self.names = [clean(name) for name in replay.task_names[:shown]]
        self.digits = max(len(str(max(len(replay.events) - 1, 0))), 2)
        self.margin = self.digits + 4
        n = max(len(self.names), 1)
        self.column = (width - self.margin - len(_GAP) * (n - 1)) // n
        self.width = width
        self.narrow = self.column < _LEAST_COLUMN
        if self.narrow:
            self.column = width - self.margin
        self.lines: list[str] = []
        self.hidden: dict[int, int] = {}
        self.inside: dict[int, str] = {}

    def draw(self, budget: int, upto: int | None) -> list[str]:
        replay = self.replay
        self.everything = budget < 0
        end = len(replay.events) - 1 if budget < 0 else last_step(replay, upto)
        events = replay.events[: end + 1]
        marked = {f.step for f in replay.findings if f.task >= 0}
        since = {f.since for f in replay.findings if f.since >= 0}
        calls = {
            at for at in range(len(replay.events)) if any(map(is_call, replay.traces.get(at, ())))
        }
        ranks = rank_steps(
            replay.events,
            pair=replay.pair,
            marked=marked | since,
            focus=(f.obj for f in replay.findings if f.obj),
            calls=calls,
        )
        shown = set(shown_steps(ranks[: end + 1], budget))
        self._head()
        for at, event in enumerate(events):
            self.now = self.states.get(at, self.now)
            if at in shown:
                self._flush()
                if at in since:
                    self._repeats()
                self._step(at, event, at in marked)
            else:
                self._hide(event)
        for event in replay.events[end + 1 :]:
            self._hide(event)
        self._flush()
        return self.lines

    def _repeats(self) -> None:
        """Where a cycle begins: every task says again where it is."""
        text = " from here on it repeats "
        self.lines.append(self.paint("finding", text.center(self.width, "-")))
        self.inside = {}

    def _hide(self, event: Event) -> None:
        task = self.replay.owner(event.task)
        self.hidden[task] = self.hidden.get(task, 0) + 1

    def _head(self) -> None:
        rule = "-" * self.column
        if self.narrow:
            self.lines += [f"{'step':>{self.margin - 2}}  task", "-" * self.width]
            return
        names = self._across(dict(enumerate(self.names)))
        self.lines.append(f"{'step':>{self.margin - 2}}  {names}".rstrip())
        bars = self._across(dict.fromkeys(range(len(self.names)), rule))
        self.lines.append(f"{'-' * (self.margin - 2)}  {bars}")

    def _across(self, cells: Mapping[int, str]) -> str:
        """One line with a cell per task."""
        if self.narrow:
            return _GAP.join(f"{self.names[t]}: {text}" for t, text in sorted(cells.items()))
        texts = [shorten(cells.get(t, ""), self.column) for t in range(len(self.names))]
        return _GAP.join(text.ljust(self.column) for text in texts).rstrip()

    def _flush(self) -> None:
        """The folded steps of every task, on one line."""
        if not self.hidden:
            return
        cells = {t: steps(n) for t, n in self.hidden.items()}
        if self.narrow:
            text = self._across(cells)
            blank = " " * self.margin
            self.lines += fill(text, self.width, first=blank)
        else:
            self.lines.append((" " * self.margin + self._across(cells)).rstrip())
        self.hidden = {}

    def _step(self, at: int, event: Event, broken: bool) -> None:
        function = function_of(event)
        task = self.replay.owner(event.task)
        if function != self.inside.get(task, ""):
            self.inside[task] = function
            self._put(task, "", self._function(event, function), "function")
        star = "*" if self.replay.pair is not None and at in self.replay.pair else " "
        bang = "!" if broken else " "
        mark = f"{star}{bang}{at:>{self.digits}}"
        kind = "finding" if broken else "racing" if star == "*" else ""
        told = self.replay.traces.get(at, ())
        self._put(task, mark, describe(event, told), kind)
        for text in told:
            if is_call(text) and not text.startswith(f"{event.op} -> "):
                self._put(task, "", text, "trace", indent="  ")
            elif self.everything and not is_call(text):
                self._put(task, "", f"trace {text}", "trace", indent="  ")
        self._state()

    def _function(self, event: Event, function: str) -> str:
        text = f"{function}()" if function else "?"
        if self.sources and event.where is not None:
            _, path, line = event.where
            text += f" {'/'.join(path.split('/')[-2:])}:{line}"
        return text

    def _put(self, task: int, mark: str, text: str, kind: str, indent: str = "") -> None:
        """A cell of one task, wrapped inside its column; the mark on its first line."""
        name = f"{self.names[task]}: " if self.narrow else ""
        first = indent + name + ("" if kind == "function" else " ")
        rest = indent + "   " if kind != "function" else "  "
        for i, line in enumerate(fill(clean(text), self.column, first=first, rest=rest)):
            margin = f"{mark if i == 0 else '':<{self.margin}}"
            left = 0 if self.narrow else task * (self.column + len(_GAP))
            painted = self.paint(kind, line) if kind else line
            self.lines.append((margin + " " * left + painted).rstrip())

    def _state(self) -> None:
        """What has changed since the last step shown, over the whole width."""
        now = self.now
        if now is None or now is self.state:
            return
        blank = " " * self.margin
        for text in changes(self.state, now):
            lines = fill(clean(text), self.width, first=blank + "| ", rest=blank + "|   ")
            self.lines += [self.paint("state", line) for line in lines]
        self.state = now


def is_call(text: str) -> bool:
    """Whether a text names a SEAMCALL or TDCALL leaf."""
    return text.startswith(("TDH.", "TDG."))
