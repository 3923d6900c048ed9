# SPDX-License-Identifier: GPL-2.0-only
"""Words of shared memory and the pages that hold them.

Every method of `Word` that the kernel would write as one atomic or volatile access is
one scheduling point.  `Word.init` is for memory not yet published (no point).

A `Page` knows whether it is live, waits for an RCU grace period, or is freed.  Grace
periods are judged, not scheduled: an access to a page passed to `Page.call_rcu` is
legal iff the accessing task's RCU reader section began before that call.  Anything
else is finding ``I6`` (facts/kvm-tdp-mmu.md section 7).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from operator import add
from typing import Any, Final

from mypy_extensions import mypyc_attr

from septum.machine.core import Machine
from septum.machine.dependency import ADD, READ, WRITE
from septum.machine.state import Cell

__all__ = ["Page", "Word"]

LIVE: Final = "live"
IN_GRACE: Final = "rcu"
FREED: Final = "freed"


@mypyc_attr(allow_interpreted_subclasses=True)
class Word(Cell):
    """One shared word (an SPTE, a counter, a flag); any hashable value."""

    __slots__ = ("page",)

    def __init__(
        self,
        m: Machine,
        name: str,
        v: Any,
        page: Page | None = None,
        *,
        dynamic: bool = False,
    ) -> None:
        super().__init__(m, name, v, dynamic=dynamic)
        self.page = page

    def read(self) -> Any:
        """READ_ONCE()."""
        m = self.m
        event = m.point("read", self.name) if m.interleaving else None
        own = m.buffers.forward(self) if m.buffers is not None else None
        if own is not None:
            v = own.value
        else:
            m.acc.append((self.name, READ))
            v = self._v
            if m.rec is not None:
                m.rec.read(self)
            page = self.page
            if page is not None and page.v is not LIVE:
                page.judge(self.name)
        if event is not None:
            event.seen = event.left = v
        if m.history is not None:
            m.history.append(v)
        return v

    def write(self, v: Any) -> None:
        """WRITE_ONCE(): a plain store (under TSO, into the task's store buffer)."""
        m = self.m
        if m.buffers is not None:
            m.buffers.put(self, v)
            return
        event = m.point("write", self.name) if m.interleaving else None
        if event is not None and m.rec is not None:
            m.rec.read(self)  # the event shows it
        old = self._v
        self._store(v)
        if event is not None:
            event.seen = old
            event.left = v

    def xchg(self, v: Any) -> Any:
        """Atomic exchange; the old value."""
        m = self.m
        event = m.locked_point("xchg", self.name) if m.interleaving else None
        if m.rec is not None:
            m.rec.read(self)
        old = self._v
        self._store(v)
        if event is not None:
            event.seen = old
            event.left = v
        if m.history is not None:
            m.history.append(old)
        return old

    def try_cmpxchg(self, expected: Any, new: Any) -> tuple[bool, Any]:
        """try_cmpxchg64(): ``(True, expected)``, or ``(False, what memory holds)``.

        A failure blames the word: the value the caller worked from is stale, so a
        retry is worth it at once.
        """
        m = self.m
        event = m.locked_point("cmpxchg", self.name) if m.interleaving else None
        if m.rec is not None:
            m.rec.read(self)
        old = self._v
        if m.history is not None:
            m.history.append(old)
        if old == expected:
            self._store(new)
            if event is not None:
                event.seen = old
                event.left = new
            return True, expected
        m.acc.append((self.name, READ))
        page = self.page
        if page is not None and page.v is not LIVE:
            page.judge(self.name)
        if event is not None:
            event.op = "cmpxchg-failed"
            event.seen = event.left = old
        m.blame(self, changed=True)
        return False, old

    def fetch_and(self, mask: int) -> int:
        """atomic64_fetch_and(); the old value."""
        m = self.m
        event = m.locked_point("fetch_and", self.name) if m.interleaving else None
        if m.rec is not None:
            m.rec.read(self)
        old: int = self._v
        self._store(old & mask)
        if event is not None:
            event.seen = old
            event.left = old & mask
        if m.history is not None:
            m.history.append(old)
        return old

    def fetch_or(self, mask: int) -> int:
        """Atomic OR; the old value (the CPU setting A or D)."""
        m = self.m
        event = m.locked_point("fetch_or", self.name) if m.interleaving else None
        if m.rec is not None:
            m.rec.read(self)
        old: int = self._v
        self._store(old | mask)
        if event is not None:
            event.seen = old
            event.left = old | mask
        if m.history is not None:
            m.history.append(old)
        return old

    def fetch_add(self, n: int) -> int:
        """Atomic add whose old value is used: does not commute with other adds."""
        m = self.m
        event = m.locked_point("fetch_add", self.name) if m.interleaving else None
        if m.rec is not None:
            m.rec.read(self)
        old: int = self._v
        self._store(old + n)
        if event is not None:
            event.seen = old
            event.left = old + n
        if m.history is not None:
            m.history.append(old)
        return old

    def add(self, n: int) -> None:
        """Atomic add whose result nobody looks at: commutes with other adds."""
        m = self.m
        event = m.locked_point("add", self.name) if m.interleaving else None
        m.acc.append((self.name, ADD))
        m.journal.append((self, self._v, self.wseq))
        if event is not None:
            event.seen = self._v
            event.left = self._v + n
        self._v += n
        self.wseq = m.seq
        if m.rec is not None:
            m.rec.change(self, partial(add, n), seq=True, shown=event is not None)

    def peek(self) -> Any:
        """As `Cell.peek`; the running task's own buffered store comes first."""
        m = self.m
        own = m.buffers.forward(self) if m.buffers is not None else None
        if own is None:
            return super().peek()
        if m.history is not None:
            m.history.append(own.value)
        return own.value

    def view(self) -> Any:
        """What the running task would read now, without an access (a trace line)."""
        buffers = self.m.buffers
        return self.v if buffers is None else buffers.view(self)

    def init(self, v: Any) -> None:
        """Store to memory that no other task can reach yet: not a point."""
        m = self.m
        m.journal.append((self, self._v, self.wseq))
        self._v = v

    def _store(self, v: Any) -> None:
        m = self.m
        m.acc.append((self.name, WRITE))
        page = self.page
        if page is not None and page.v is not LIVE:
            page.judge(self.name)
        m.journal.append((self, self._v, self.wseq))
        self._v = v
        self.wseq = m.seq


@mypyc_attr(allow_interpreted_subclasses=True)
class Page(Cell):
    """A page of ``size`` words, made on first use with value ``fill``.

    ``v`` is the page's life: ``live``, ``rcu`` after `call_rcu`, or ``freed``; ``readers``
    the RCU sections (task, number) that were open at `call_rcu`.
    """

    __slots__ = ("fill", "owner", "readers", "size", "words")

    def __init__(
        self,
        m: Machine,
        name: str,
        size: int,
        fill: Any,
        *,
        owner: Any = None,
        dynamic: bool = False,
    ) -> None:
        super().__init__(m, name, LIVE, dynamic=dynamic)
        self.size = size
        self.fill = fill
        self.owner = owner
        self.words: dict[int, Word] = {}
        self.readers = Cell(m, f"~{name}", frozenset())

    def word(self, index: int) -> Word:
        """The word at ``index`` (0 .. size-1)."""
        word = self.words.get(index)
        if word is None:
            if not 0 <= index < self.size:
                raise IndexError(f"{self.name}: word {index} of {self.size}")
            word = Word(self.m, f"{self.name}[{index}]", self.fill, self)
            self.words[index] = word
        return word

    def made(self) -> Iterable[Word]:
        """Every word that may hold anything but ``fill``."""
        if not self.m.learning:
            return self.words.values()
        return [self.word(i) for i in range(self.size)]  # which were made is chance

    @property
    def live(self) -> bool:
        return self.v is LIVE

    @property
    def freed(self) -> bool:
        return bool(self.v == FREED)

    def free(self) -> None:
        """Give the page back at once.  Twice, or while linked, is finding I6."""
        m = self.m
        with m.step("free", self.name):
            self._retire()
            if self.v == FREED:
                m.report("I6", f"{self.name} is freed twice", self.name)
            self.poke(FREED)

    def call_rcu(self, callback: Callable[[], None]) -> None:
        """call_rcu(): free after a grace period; ``callback`` runs when settling."""
        m = self.m
        with m.step("call_rcu", self.name):
            self._retire()
            if self.v is not LIVE:
                m.report("I6", f"{self.name} is passed to call_rcu() twice", self.name)
            m.acc.append((m.rcu.name, ADD))
            m.rcu.set((*m.rcu._v, callback))
            if m.rec is not None:
                for t in m.tasks:
                    m.rec.read(t.rcu)
            readers = {(t.id, t.rcu_section) for t in m.tasks if t.rcu_depth > 0}
            self.readers.set(frozenset(readers | m.buffered_sections()))
            self.poke(IN_GRACE)

    def _retire(self) -> None:
        """Every later access to a word depends on this event."""
        acc = self.m.acc
        for i in range(self.size):
            acc.append((f"{self.name}[{i}]", WRITE))

    def judge(self, word: str) -> None:
        """An access to a page that is not live: legal only inside an older RCU section."""
        m = self.m
        if self.v == FREED:
            m.report("I6", f"access to {word} of a freed page", word)
            return
        task = m.current
        if task.rcu_depth == 0:
            m.report("I6", f"access to {word} of a page in RCU without rcu_read_lock()", word)
        elif (task.id, task.rcu_section) not in self.readers.v:
            m.report(
                "I6",
                f"access to {word}: the reader section is younger than call_rcu()",
                word,
            )
