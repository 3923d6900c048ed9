# SPDX-License-Identifier: GPL-2.0-only
"""Small programs of the partial-order-reduction literature, and random ones.

Numbers of Mazurkiewicz traces are from Abdulla, Aronis, Jonsson, Sagonas (JACM 2017)
where they state them, and are confirmed here by brute force where small.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from septum.explore import MachineProgram
from septum.machine import Halt, Machine, Mutex, RWLock, TryLock, Word

Body = Callable[[], None]


def readers(n: int) -> MachineProgram:
    """One writer and n readers of one word: 2**n traces."""
    m = Machine()
    x = Word(m, "x", 0)
    locals_ = [Word(m, f"l{i}", 0) for i in range(n)]

    def reader(i: int) -> Body:
        def body() -> None:
            locals_[i].init(x.read())

        return body

    bodies: list[tuple[str, Body]] = [("w", lambda: x.write(1))]
    bodies += [(f"r{i}", reader(i)) for i in range(n)]
    return MachineProgram(m, bodies)


def last_zero(n: int) -> MachineProgram:
    """lastzero(n) of the JACM paper: one scanner from the end, n incrementers."""
    m = Machine()
    a = [Word(m, f"a{i}", 0) for i in range(n + 1)]

    def scanner() -> None:
        i = n
        while a[i].read() != 0:
            i -= 1

    def worker(j: int) -> Body:
        def body() -> None:
            a[j].write(a[j - 1].read() + 1)

        return body

    bodies: list[tuple[str, Body]] = [("scan", scanner)]
    bodies += [(f"w{j}", worker(j)) for j in range(1, n + 1)]
    return MachineProgram(m, bodies)


def file_system(n: int) -> MachineProgram:
    """filesystem(n) of Flanagan and Godefroid (POPL 2005): inodes and blocks under locks."""
    inodes, blocks = 32, 26
    m = Machine()
    locki = [Mutex(m, f"li{i}") for i in range(inodes)]
    lockb = [Mutex(m, f"lb{i}") for i in range(blocks)]
    inode = [Word(m, f"inode{i}", 0) for i in range(inodes)]
    busy = [Word(m, f"busy{i}", 0) for i in range(blocks)]

    def body(tid: int) -> Body:
        def run() -> None:
            i = tid % inodes
            locki[i].lock()
            if inode[i].read() == 0:
                b = (i * 2) % blocks
                while True:
                    lockb[b].lock()
                    if not busy[b].read():
                        busy[b].write(1)
                        inode[i].write(b + 1)
                        lockb[b].unlock()
                        break
                    lockb[b].unlock()
                    b = (b + 1) % blocks
            locki[i].unlock()

        return run

    return MachineProgram(m, [(f"t{t}", body(t)) for t in range(n)])


def indexer(n: int) -> MachineProgram:
    """indexer(n) of Flanagan and Godefroid (POPL 2005): cmpxchg into a hash table."""
    size, messages = 128, 4
    m = Machine()
    table = [Word(m, f"h{i}", 0) for i in range(size)]

    def body(tid: int) -> Body:
        def run() -> None:
            for k in range(1, messages + 1):
                w = k * 11 + tid
                h = (w * 7) % size
                while not table[h].try_cmpxchg(0, w)[0]:
                    h = (h + 1) % size

        return run

    return MachineProgram(m, [(f"t{t}", body(t)) for t in range(n)])


def random_program(seed: int) -> MachineProgram:
    """Two or three tasks of random operations on words, locks, try-locks and awaits."""
    rng = random.Random(seed)
    m = Machine()
    words = [Word(m, f"w{i}", 0) for i in range(rng.randint(1, 2))]
    lock = RWLock(m, "L")
    other = Mutex(m, "M")
    tried = TryLock(m, "T")
    out = [Word(m, f"out{i}", ()) for i in range(3)]
    flag = Word(m, "flag", 0)
    kinds = [
        "read", "write", "add", "xchg", "cas", "rlock", "wlock", "mutex", "try", "tryx",
        "choose", "await", "step", "set", "rcu", "rpeek", "wpoke",
    ]  # fmt: skip

    def program(tid: int, ops: list[tuple[str, int, int]]) -> Body:
        def note(v: object) -> None:
            out[tid].init((*out[tid].v, v))

        def run() -> None:
            if ops[0][0] == "choose":
                note(flag.read())  # a choice belongs to the point before it
            for kind, w, v in ops:
                word = words[w % len(words)]
                if kind == "read":
                    note(word.read())
                elif kind == "write":
                    word.write(v)
                elif kind == "add":
                    word.add(v)
                elif kind == "xchg":
                    note(word.xchg(v))
                elif kind == "cas":
                    note(word.try_cmpxchg(v % 2, v + 1)[0])
                elif kind == "rlock":
                    lock.read_lock()
                    note(word.read())
                    lock.read_unlock()
                elif kind == "wlock":
                    lock.write_lock()
                    word.write(v)
                    lock.write_unlock()
                elif kind == "rpeek":  # an access merged into the acquisition
                    lock.read_lock()
                    note(word.peek())
                    lock.read_unlock()
                elif kind == "wpoke":
                    lock.write_lock()
                    word.poke(int(word.peek()) + v)
                    word.write(v)
                    lock.write_unlock()
                elif kind == "mutex":
                    other.lock()
                    word.write(word.read() + v)
                    other.unlock()
                elif kind in ("try", "tryx"):
                    with m.step("try", "T"):
                        got = tried.try_shared() if kind == "try" else tried.try_excl()
                    note(got)
                    if got:
                        if v % 2:
                            note(word.read())
                        with m.step("drop", "T"):
                            if kind == "try":
                                tried.drop_shared()
                            else:
                                tried.drop_excl()
                elif kind == "choose":
                    word.write(m.choose("c", (v, v + 10)))
                elif kind == "await":
                    for _ in range(4):
                        seen = word.read()
                        if seen != 0:
                            break
                        m.blame(word)
                        m.retry("spin")
                    note("woke")
                elif kind == "step":
                    with m.step("step", "both"):
                        total = sum(int(x.read()) for x in words)
                        word.write(total + 1)
                elif kind == "set":
                    flag.write(v)
                else:
                    note(flag.read())

        return run

    tasks = rng.choice([2, 2, 3])
    longest = 4 if tasks == 2 else 2
    bodies: list[tuple[str, Body]] = []
    for tid in range(tasks):
        ops = [
            (rng.choice(kinds), rng.randrange(2), rng.randint(1, 3))
            for _ in range(rng.randint(1, longest))
        ]
        bodies.append((f"t{tid}:{','.join(o[0] for o in ops)}", program(tid, ops)))

    def settle() -> None:
        if sum(int(x.v) for x in words) == 5:
            m.report("I99", "sum is five")

    return MachineProgram(m, bodies, settle)


__all__ = ["Halt", "file_system", "indexer", "last_zero", "random_program", "readers"]
