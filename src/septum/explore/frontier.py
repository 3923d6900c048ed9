# SPDX-License-Identifier: GPL-2.0-only
"""What is left of one search, and what was found so far: the part that is kept.

A search begins as one branch.  When a unit returns and there are fewer branches than could
be explored at a time, the upper levels of what it left become *shared nodes*, kept here:
the plans that wait there are handed out as branches of their own, and what branches find
out about a node is sent to it.  Why that is the same search: at each node plans are begun one
after the other, each with all steps begun before it asleep, as in the search by one; only
is nobody waited for who has already explored something (from there on, everything below
that step will be), and plans that turn up later stand behind those begun.

Units are merged in the order in which their branches came up, whoever explored them when.
So the search is the same for any number of workers and interruptions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from septum.explore.estimate import Guesses, progress, sequences
from septum.explore.optimal import Level, Out
from septum.explore.result import Found, SearchResult
from septum.explore.steps import Step
from septum.explore.units import CLASSES as UNIT_CLASSES
from septum.explore.units import UNIT, Branch, Lent, Size, UnitResult, bare
from septum.explore.wakeup import WEAK, Wakeup, asleep, early
from septum.machine import Decision, Finding

__all__ = ["CLASSES", "Frontier", "Node", "Task"]

_LEAST, _MOST = 8, 64  # branches at a time


@dataclass(slots=True)
class Task:
    """A branch that waits or is being explored.

    :ivar node: the deepest shared node on its path (0: none).
    :ivar allowed: how many executions its next unit may take (0: none are left of the
        bound until earlier tasks give theirs back).
    :ivar made: executions in it.
    """

    branch: Branch
    node: int = 0
    allowed: int = 0
    made: int = 0


@dataclass(slots=True)
class Node:
    """A level that several branches share.

    :ivar parent: the node above (0: none).
    :ivar path: the decisions that lead here.
    :ivar steps: the steps that lead here.
    :ivar opens: what is open at the levels above, on the way here.
    :ivar below: branches and nodes directly below that live.
    :ivar lent: a branch begins here and has not explored anything yet.
    """

    level: Level
    parent: int
    path: list[Decision]
    steps: list[Step]
    opens: list[list[tuple[Out, tuple[int, ...] | None]]]
    below: int = 1
    lent: bool = False

    def plan(self, wakeup: Wakeup) -> None:
        """A branch below found a race to be reversed here."""
        if wakeup.name not in self.level.known:
            self.level.known.add(wakeup.name)
            self.level.todo.append(wakeup)

    def returned(self, lent: Lent, *, finished: bool) -> None:
        """What a branch that begins here says about it."""
        level = self.level
        gone = set(lent.gone)
        level.todo = [w for w in level.todo if w.name not in gone]
        if lent.explored:
            level.explored = True
            level.sleep[lent.key] = lent.foot
        self.lent = not (lent.explored or finished)

    def next(self) -> Wakeup | None:
        """The plan to begin now."""
        level = self.level
        while level.todo and not self.lent:
            wakeup = level.todo.pop(0)
            moves = wakeup.moves
            if all(asleep(k, f, moves) < WEAK for k, f in level.sleep.items()):
                return wakeup
        return None


@dataclass(slots=True)
class Frontier:
    """One search, put together from units.

    :ivar most: executions at most (0: no bound).
    :ivar first: stop at the first finding.
    :ivar tasks: what is left, in the order in which it is merged.
    :ivar units: how many were merged.
    :ivar guesses: how much may be left.
    """

    found: SearchResult
    most: int = 0
    first: bool = False
    tasks: deque[Task] = field(default_factory=deque)
    nodes: dict[int, Node] = field(default_factory=dict)
    units: int = 0
    numbered: int = 0
    guesses: Guesses = field(default_factory=Guesses)

    def __post_init__(self) -> None:
        self.tasks = deque(self.tasks)

    @classmethod
    def start(cls, strategy: str, *, most: int = 0, first: bool = False) -> Frontier:
        """A search of which nothing was explored."""
        frontier = cls(SearchResult(strategy), most, first, deque([Task(Branch())]))
        frontier._allow()
        return frontier

    @property
    def finished(self) -> bool:
        return not self.tasks

    def size(self, task: Task, seconds: float = 0.0) -> Size:
        """How much of a task's branch is one unit."""
        return Size(task.allowed, UNIT.steps, seconds)

    def merge(self, result: UnitResult) -> None:
        """Take the result of the first task's unit."""
        task = self.tasks.popleft()
        self.units += 1
        self.found.add(result.found)
        chain = self._chain(task.node)
        for depth, wakeup in result.mail:
            self.nodes[chain[depth]].plan(wakeup)
        if result.lent is not None:
            self.nodes[chain[-1]].returned(result.lent, finished=result.rest is None)
        self.guesses.learn(result.hoped, result.came)
        if result.rest is not None:
            left = result.rest
            made = sum(level.runs for level in left.levels[left.floor :])
            self._share(Task(left, task.node, made=made))
        elif task.node:
            self._over(task.node, task.made + result.found.executions)
        self._hand_out()
        if self.first and self.found.found and self.tasks:
            self.stop("stopped at the first finding")
        elif self.most and self.found.executions >= self.most and self.tasks:
            self.stop(f"{self.most} executions")
        self.found.complete = not self.tasks and not self.found.bounds_hit
        waiting = len(self.tasks) + sum(len(node.level.todo) for node in self.nodes.values())
        self.guesses.take(self.found, self._progress(), waiting, self.most)
        self._allow()

    def stop(self, why: str) -> None:
        """Give up what is left."""
        self.tasks.clear()
        self.nodes.clear()
        self.found.bounds_hit = sorted({*self.found.bounds_hit, why})
        self.found.complete = False

    def learned(self, words: tuple[str, ...]) -> None:
        """The program has more scheduling points than was known: what was explored does not
        count."""
        self.nodes.clear()
        self.tasks = deque([Task(Branch())])
        known = self.found
        self.found = SearchResult(
            known.strategy,
            seconds=known.seconds,
            words=tuple(sorted({*known.words, *words})),
        )
        self.guesses = Guesses()
        self._allow()

    # --- shared nodes -----------------------------------------------------------------

    def _chain(self, number: int) -> list[int]:
        """The nodes on the way to one, by their depth."""
        chain: list[int] = []
        while number:
            chain.append(number)
            number = self.nodes[number].parent
        return chain[::-1]

    def _width(self) -> int:
        return min(_LEAST + self.units // 8, _MOST)

    def _share(self, task: Task) -> None:
        """Queue what is left of a branch; as long as workers may want more, share its upper
        levels."""
        self.tasks.append(task)
        waiting = sum(1 for node in self.nodes.values() if node.level.todo and not node.lent)
        while len(self.tasks) + waiting < self._width() and self._split(task):
            waiting += 1

    def _split(self, task: Task) -> bool:
        """Share the levels of a branch down to the first at which a plan waits."""
        branch = task.branch
        levels = branch.levels
        explored = [i for i, level in enumerate(levels) if level.explored or level.fresh]
        deepest = explored[-1] if explored else 0
        upto = next((i for i in range(branch.floor, deepest) if levels[i].todo), None)
        if upto is None:
            return False
        for i in range(branch.floor, upto + 1):
            step = branch.steps[i]
            level = _copy(levels[i], [])
            level.explored = True
            level.sleep[(step.task, step.picks)] = step.slept
            level.sleep = {key: early(foot) for key, foot in level.sleep.items()}
            self.numbered += 1
            self.nodes[self.numbered] = Node(
                level,
                task.node,
                branch.path[: step.at],
                branch.steps[:i],
                [list(above.open) for above in levels[:i]],
            )
            task.node = self.numbered
        branch.floor = upto + 1
        task.made = sum(level.runs for level in levels[branch.floor :])
        return True

    def _hand_out(self) -> None:
        """Begin plans that wait at nodes, and forget nodes at which nothing can happen."""
        for number in list(self.nodes):
            while len(self.tasks) < self._width():
                wakeup = self.nodes[number].next()
                if wakeup is None:
                    break
                self.tasks.append(Task(self._begin(number, wakeup), number))
        for number in sorted(self.nodes, reverse=True):
            node = self.nodes[number]
            if not node.below and not node.level.todo:
                del self.nodes[number]
                self.guesses.learn(node.level.hoped, node.level.came)
                if node.parent:
                    self._over(node.parent, node.level.runs)

    def _over(self, number: int, runs: int) -> None:
        """Something directly below a node is explored, in so many executions."""
        node = self.nodes[number]
        node.below -= 1
        node.level.over(runs)

    def _progress(self) -> float:
        """Which part of the search may be done."""
        likely = self.guesses.likely
        done = 0.0
        share = {0: 1.0}  # of a sequence that begins at a node
        for number in sorted(self.nodes):
            node = self.nodes[number]
            part = share[node.parent] / sequences(node.level, node.below, likely)
            share[number] = part
            done += part * node.level.done
        for task in self.tasks:
            branch = task.branch
            done += share[task.node] * progress(branch.levels[branch.floor :], likely)
        return done

    def _begin(self, number: int, wakeup: Wakeup) -> Branch:
        """The branch of a plan: copies of all levels down to the node."""
        node = self.nodes[number]
        node.below += 1
        node.lent = True
        chain = self._chain(number)
        opens = [*node.opens, []]
        levels = [_copy(self.nodes[n].level, o) for n, o in zip(chain, opens, strict=True)]
        for level, step in zip(levels, node.steps, strict=False):
            level.sleep.pop((step.task, step.picks), None)  # it is on the way, so it is awake
        return Branch(
            levels, node.steps, node.path, plan=wakeup.moves, floor=len(levels), lent=True
        )

    # --- the bound --------------------------------------------------------------------

    def _allow(self) -> None:
        """Share what the bound leaves among the tasks, first come, first served."""
        left = self.most - self.found.executions - sum(task.allowed for task in self.tasks)
        for task in self.tasks:
            if task.allowed == 0:
                task.allowed = min(UNIT.executions, left) if self.most else UNIT.executions
                left -= task.allowed


def _copy(level: Level, opens: Iterable[tuple[Out, tuple[int, ...] | None]]) -> Level:
    out = Level(dict(level.sleep))
    out.todo = [bare(wakeup) for wakeup in level.todo]
    out.known = set(level.known)
    out.explored = level.explored
    out.done = level.done
    out.runs = level.runs
    out.asked, out.had, out.hoped = level.asked, level.had, level.hoped
    out.open = list(opens)
    return out


CLASSES: tuple[type, ...] = (
    *UNIT_CLASSES,
    Frontier,
    Task,
    Node,
    Guesses,
    SearchResult,
    Found,
    Finding,
)
