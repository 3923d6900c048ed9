# SPDX-License-Identifier: GPL-2.0-only
"""Tasks that go round in a cycle of states, noticed while they run.

A state is: the shared memory, and of each task where it is in its code, with its local
variables (`septum.machine.frames`).  Comparing states is dear, so it is done only where a
task is about to do what it did before, after the same steps with the same values twice.

A cycle in which each task takes a step, or cannot at some point in it, can be repeated for
ever by a scheduler that is fair: that is finding LIVELOCK.  Before it is reported the cycle
is run on for a while, which catches what local variables do not show (a counter inside an
iterator).  In any other cycle somebody was not let run who could: whoever that is comes next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from septum.machine.events import Event
from septum.machine.frames import place
from septum.machine.reading import timeless
from septum.machine.state import Task

__all__ = ["CONFIRM", "LOOKS", "TIMES", "Rounds", "endless", "starving"]

CONFIRM: Final = 300
"""Steps for which a cycle is repeated, at least, before it is taken for endless."""
TIMES: Final = 10
"""How often the end of an execution repeats, at least, where states are not known."""

LOOKS: Final = 500  # at one place; then at every power of two, and plans may go round in vain


def same(one: Event, other: Event) -> bool:
    """Whether two events of a task did the same and saw the same."""
    return bool(
        one.task == other.task
        and one.op == other.op
        and one.obj == other.obj
        and one.choice == other.choice
        and one.seen == other.seen
        and one.left == other.left
    )


class Rounds:
    """What is known of the present run.

    :ivar starts: set while a decision is due in a state that the run was in before: log
        positions of that.
    :ivar period: of what is repeated now, in log positions (0: nothing is); ``until`` which
        position.
    :ivar sure: the cycle that is repeated is one, fair, and is run on to be reported:
        it ``began`` and was over (``end``) there, having ``reached`` that.
    """

    __slots__ = (
        "began",
        "checked",
        "end",
        "looks",
        "period",
        "places",
        "reached",
        "starts",
        "states",
        "sure",
        "until",
    )

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.period = 0
        self.until = 0
        self.sure = False
        self.began = self.end = self.checked = 0
        self.reached: set[str] = set()
        self.looks: dict[tuple[int, str, str], int] = {}
        self.states: list[tuple[int, Any]] = []  # position, state
        self.places: dict[int, tuple[int, object]] = {}  # of tasks, for `state_of`

    def again(self, trail: list[int], length: int, log: list[Event]) -> bool:
        """Whether a task whose events are at ``trail`` has done the same twice, in ``length``
        events each.  If others did something in between, that is to be repeated, too."""
        n = len(trail)
        if 2 * length > n:
            return False
        for i in range(n - 1, n - 1 - length, -1):
            if not same(log[trail[i]], log[trail[i - length]]):
                return False
        period = trail[n - 1] - trail[n - 1 - length]
        self.period = period if period > length else 0
        self.until = len(log) + self.period if self.period else 0
        return True

    def worth_a_look(self, task: int, op: str, obj: str) -> bool:
        """Loops with a counter are looked at ever less often."""
        key = (task, op, obj)
        n = self.looks.get(key, 0) + 1
        self.looks[key] = n
        return n <= LOOKS or not n & (n - 1)

    def seen(self, position: int, state: Any) -> None:
        """The state where the next decision is due; sets ``starts``."""
        self.starts = [at for at, known in self.states if known == state]
        if self.starts:
            self.period = self.until = 0
        self.states.append((position, state))

    def run_on(self, start: int, position: int, reached: set[str]) -> None:
        """Repeat the fair cycle that ends here."""
        self.began, self.end = start, position
        self.reached = set(reached)
        self.period = position - start
        self.until = position + max(-(-CONFIRM // self.period), 3) * self.period
        self.checked = position
        self.sure = True

    def goes_on(self, log: list[Event]) -> bool:
        """Whether all that has run since the last question repeats the cycle; else it was
        none, and is forgotten."""
        for i in range(self.checked, len(log)):
            if not same(log[i], log[i - self.period]):
                self.give_up()
                return False
        self.checked = len(log)
        return True

    def give_up(self) -> None:
        """What looked like a cycle is none."""
        self.period = self.until = 0
        self.sure = False
        self.states = []


def state_of(
    tasks: list[Task],
    shared: Any,
    current: Task,
    opaque: tuple[str, ...],
    places: dict[int, tuple[int, object]],
) -> Any:
    """The whole state where ``current`` announces an access.

    :param places: of tasks in this execution, with the number of the event they wait for.
    """
    out: list[Any] = []
    for task in tasks:
        if task.done:
            out.append(None)
            continue
        ready = task.ready is None or task.ready()
        waits = sorted([cell.name for cell in task.blame])
        number, here = places.get(task.id, (-1, None))
        if number != task.count or task is current:  # else it has not run since
            here = place(task, opaque, running=task is current)
            places[task.id] = (task.count, here)
        out.append((task.op, task.obj, ready, waits, task.retries, task.rcu_depth, here))
    return (frozenset([(name, timeless(value)) for name, value in shared]), out)


def starving(log: list[Event], start: int, enabled: Sequence[int]) -> list[int]:
    """Tasks that could run all the time since ``start``, and did not."""
    out = list(enabled)
    for i in range(start, len(log)):
        event = log[i]
        if event.op != "choose":
            out = [t for t in out if t in event.enabled and t != event.task]
    return out


def endless(log: list[Event], enabled: Sequence[int]) -> int:
    """Where the steps begin that the end of a log repeats again and again, with nobody
    starving; -1 if it does not.  For programs whose states are not known."""
    n = len(log)
    for period in range(1, n // TIMES + 1):
        begin = n - max(TIMES * period, min(CONFIRM, n - period))
        if begin >= period and _repeats(log, begin, period):
            start = n - period
            return -1 if starving(log, start, enabled) else start
    return -1


def _repeats(log: list[Event], begin: int, period: int) -> bool:
    return all(same(log[i], log[i - period]) for i in range(len(log) - 1, begin - 1, -1))
