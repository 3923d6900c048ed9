# SPDX-License-Identifier: GPL-2.0-only
"""Runs the image's tasks as tasks of a `Machine`: one announcement, one point.

A C task announces its next access and yields; `Machine.point` decides who goes on; the access
is performed when the task is resumed, and its outcome is known when it announces the next one.
That is the same event, so footprints, sleep sets, monitors and counterexamples are those of
the Python models.  SEAMCALLs are served here by `septum.tdx`, whose own points are points of
the calling task.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from types import SimpleNamespace
from typing import Any, Final

from septum.kvm.guest import flush_all, run_guest
from septum.kvm.seamcall import Injected
from septum.kvm.tdx import EXIT_REASON_EPT_VIOLATION, EXIT_REASON_TDCALL
from septum.machine import Event, Halt
from septum.machine.dependency import (
    ADD,
    EXCL,
    EXCL_REL,
    FAIL_EXCL,
    FAIL_SHARED,
    READ,
    SHARED,
    SHARED_REL,
    TRY_EXCL,
    TRY_SHARED,
    WAIT,
    WRITE,
)
from septum.machine.geometry import PAGE_SHIFT
from septum.native.answers import FREED, LOAD, Answers
from septum.native.answers import SEAMCALL as ASKED
from septum.native.image import SEQUENTIAL, STACK_SIZE, STACKS
from septum.native.kernel import Kernel, KernelError
from septum.native.notice import Notice
from septum.native.objects import Granule
from septum.native.problems import report_problems
from septum.native.services import SERVICES, Services
from septum.native.source import rmw_name
from septum.native.vcpus import Vcpu
from septum.tdx.leaves import SEAMCALL_NAMES, TDH_VP_ENTER, TDH_VP_FLUSH
from septum.tdx.regs import Result
from septum.tdx.status import decode, is_operand_busy

__all__ = ["Driver"]

(
    _NONE,
    ACCESS,
    LOCK,
    UNLOCK,
    FREE,
    AWAIT_C,
    RETRY,
    SEAMCALL,
    TELL,
    CHOICE,
    DONE,
    DIED,
) = range(12)
TELL_FREED, TELL_ROUND, TELL_REACHED, TELL_FLUSH, TELL_KICKED, TELL_LAST = range(1, 7)
_WRITE, _RMW, _RCU = 1, 2, 0x100
_REGISTERS: Final = ("rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13")
_QUIET_LEAFS: Final = frozenset({11, 12, 26, 43, 48})
"""MNG.RD, MNG.WR, VP.RD, VP.WR, and the like: no state of theirs is modelled; success, 0."""
_TDVMCALL_MAP_GPA: Final = 0x10001
_IDLE_RETRIES: Final = 20
_ALONE: Final = 50_000
"""Announcements of one call that nobody interrupts: hundreds are usual."""
_LOCK_OPS: Final = {0: "write_lock", 1: "read_lock", 2: "try_lock", 3: "read_trylock"}


class Driver:
    """Calls functions of the image on behalf of machine tasks.

    :ivar last: what each task's last SEAMCALL was and gave, for those who ask why.
    :ivar learning: it is to be learned which words tasks share, so others also go on where a
        task tries again and looked at nothing that others are known to write.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.image = kernel.image
        self.m = kernel.m
        self.notice = Notice(kernel)
        self.services = Services(self)
        kernel.entry_changed = self.notice.entry_changed
        self.last: dict[int, Any] = {}
        self.entered: dict[int, bool] = {}
        self.idle: dict[int, int] = {}
        self.learning = False
        self.first: dict[int, dict[int, int]] = {}  # values as an attempt met them
        self.own: dict[int, dict[int, int]] = {}  # and as it left them
        self._pending: dict[int, tuple[Event | None, Granule, int, int, int]] = {}
        self.answers: Answers | None = None  # notes what is done here for the scheduler in C

    # --- calls -------------------------------------------------------------------------

    def start(self) -> None:
        """A new execution begins."""
        self.last.clear()
        self.entered.clear()
        self._pending.clear()
        self.idle.clear()
        self.first.clear()
        self.own.clear()
        self.notice.start()

    def sequential(self, name: str, *args: int, cpu: int = 0) -> int:
        """Call a function with nobody else running; its result as a signed number.

        :raises Halt: it died (a finding says why).
        """
        return self.call(name, *args, cpu=cpu)

    def call(self, name: str, *args: int, cpu: int, vcpu: int = -1) -> int:
        """Run a function of the image as the current machine task."""
        m = self.m
        number = m.current.id if m.exploring and not m.dead else SEQUENTIAL
        self.image.exploring.value = int(number != SEQUENTIAL)
        self.image.spawn(number, cpu, name, *args)
        event = self.image.events[number]
        handlers = self._HANDLERS
        resume = self.image.resume
        for step in count():
            if step > _ALONE and number == SEQUENTIAL:
                self._does_not_end(name, event)
            kind = resume(number)
            if event.performed:
                self._performed(number, event)
            if self.image.found_count.value:
                report_problems(self, number)
            if kind == DONE:
                result: int = event.result
                return result - (1 << 64) if result >> 63 else result
            handler = handlers.get(kind)
            if handler is None:
                raise KernelError(f"{name} announced {kind}, which no version of the runtime does")
            handler(self, number, event)
        raise AssertionError("count() ends")

    def _does_not_end(self, name: str, ev: Any) -> None:
        """A loop of the kernel or of the glue while nobody else runs: no verdict."""
        place = self.kernel.lines.frames(ev.pc)[0]
        what = f"it repeats {self.image.text(ev.addr)!r}" if ev.kind == RETRY else "it was"
        self.m.report(
            "EXCEPTION",
            f"{name.removeprefix('septum_')}() does not end with nobody else running: after "
            f"{_ALONE:,} steps {what} in {place.function}() at {place.file}:{place.line}",
        )
        raise Halt

    # --- accesses ----------------------------------------------------------------------

    def _point(self, op: str, obj: str, pc: int, ready: Callable[[], bool] | None = None) -> Event:
        m = self.m
        event = m.point(op, obj, ready)
        if m.tracing:
            frames = self.kernel.lines.frames(pc)
            own = next((f for f in frames if not _plumbing(f.function)), frames[-1])
            event.where = (own.function, own.file, own.line)
            event.stack = tuple(f.function for f in reversed(frames))
        return event

    def _access(self, number: int, ev: Any) -> None:
        cell = self.kernel.objects.cell(ev.addr)
        kind = ev.type
        if kind & _RMW:
            op = rmw_name(ev.pc)
        else:
            op = "write" if kind & _WRITE else "read"
        if kind & _RCU:
            op = "call_rcu" if kind & _WRITE else "rcu_read_lock"
        if self.m.interleaving:
            event = self._point(op, cell.name, ev.pc)
            self._pending[number] = (event, cell, kind, ev.addr, ev.pc)
        else:
            self._pending[number] = (None, cell, kind, ev.addr, ev.pc)

    def _performed(self, number: int, ev: Any) -> None:
        pending = self._pending.pop(number, None)
        if pending is None:
            return
        event, cell, kind, addr, pc = pending
        m = self.m
        before, after = ev.before, ev.after
        if not cell.counter:
            self.first.setdefault(number, {}).setdefault(addr, before)
        blame = m.current.blame
        if kind & _RCU:
            m.acc.append((cell.name, ADD if kind & _WRITE else READ))
            return
        # A store of what is there already is, in this state, a read: it commutes with reads,
        # and depends on every store that changes the word.
        if before != after:
            foreign = cell in blame and cell.wseq > blame[cell]
            m.acc.append((cell.name, cell.changed(before, after) if kind & _RMW else WRITE))
            cell.touch()
            self.own.setdefault(number, {})[addr] = after
            if cell in blame and not foreign:
                blame[cell] = m.seq
        else:
            m.acc.append((cell.name, READ))
            if not cell.counter:
                blame.setdefault(cell, m.seq)
            if event is not None and kind & _RMW and event.op == "cmpxchg":
                event.op = "cmpxchg-failed"
        if m.history is not None:
            m.history.append(before)
        if event is not None:
            if cell.table:
                event.seen = self.kernel.value_of(before)
                event.left = self.kernel.value_of(after)
            else:
                event.seen, event.left = _small(before), _small(after)
        self.notice.accessed(number, cell, addr, kind, before, after, event, pc)

    # --- locks and waits ---------------------------------------------------------------

    def _lock(self, number: int, ev: Any) -> None:
        m = self.m
        cell = self.kernel.objects.cell(ev.addr)
        op = _LOCK_OPS[ev.type & 3]
        shared, attempt = ev.type & 1, ev.type & 2
        can = self.image.can
        if not m.interleaving:
            if not attempt and not can(number):
                m.report("DEADLOCK", f"{op} {cell.name} with nobody to release it", cell.name)
                raise Halt
            return
        self._point(op, cell.name, ev.pc, None if attempt else lambda: bool(can(number)))
        if not attempt:
            m.acc.append((cell.name, SHARED if shared else EXCL))
        elif can(number):
            m.acc.append((cell.name, TRY_SHARED if shared else TRY_EXCL))
        else:
            m.acc.append((cell.name, FAIL_SHARED if shared else FAIL_EXCL))
            m.current.blame.setdefault(cell, m.seq)

    def _unlock(self, number: int, ev: Any) -> None:
        m = self.m
        if not m.interleaving:
            return
        cell = self.kernel.objects.cell(ev.addr)
        self._point("read_unlock" if ev.type & 1 else "write_unlock", cell.name, ev.pc)
        m.acc.append((cell.name, SHARED_REL if ev.type & 1 else EXCL_REL))
        cell.touch()

    def _await(self, number: int, ev: Any) -> None:
        m = self.m
        cell = self.kernel.objects.cell(ev.addr)
        can = self.image.can
        if not m.interleaving:
            if not can(number):
                m.report("STUCK", f"waits for {cell.name} with nobody to change it", cell.name)
                raise Halt
            return
        self._point("wait", cell.name, ev.pc, lambda: bool(can(number)))
        m.acc.append((cell.name, WAIT))

    def _free(self, number: int, ev: Any) -> None:
        m = self.m
        if not m.interleaving:
            return
        objects = self.kernel.objects
        if not ev.type:  # else by call_rcu(): its event is this one
            self._point("free", objects.cell(ev.addr).name, ev.pc)
        for addr in range(ev.addr, ev.addr + ev.size, 8):
            if self.image.is_shared(addr):
                # A lock in it: whoever takes or releases it has to be first.
                kind = FAIL_EXCL if self.image.is_lock(addr) else WRITE
                m.acc.append((objects.cell(addr).name, kind))

    def _retry(self, number: int, ev: Any) -> None:
        self.notice.retried(number)
        m = self.m
        if self._own_doing(number):
            return
        if not m.current.blame and m.exploring:
            self._nothing_to_wait_for(number, ev)
        else:
            self.idle[number] = 0
        m.retry(self.image.text(ev.addr))

    def _own_doing(self, number: int) -> bool:
        """Whether the task itself changed something that its attempt looked at: the next
        attempt differs, whatever others do."""
        first = self.first.pop(number, {})
        own = self.own.pop(number, {})
        if all(first.get(addr, value) == value for addr, value in own.items()):
            return False
        self.m.current.blame = {}
        return True

    def _nothing_to_wait_for(self, number: int, ev: Any) -> None:
        """A retry whose attempt read nothing that others write: an injected failure, or a
        word that is only now found to be shared."""
        self.idle[number] = self.idle.get(number, 0) + 1
        if self.image.new_shared_count.value:
            self._end("limit")
        if self.idle[number] > _IDLE_RETRIES:
            head = self.image.text(ev.addr)
            self.m.report("LIVELOCK", f"{head}: fails again and again with nobody's doing")
            self._end("limit")
        if self.learning:
            self._point("retry", self.image.text(ev.addr), ev.pc)

    def _end(self, status: str) -> None:
        """End the execution from inside a task."""
        m = self.m
        m._status = status
        if m.exploring and not m.dead and m._main is not None:
            m._main.switch(None)
        raise Halt

    def _choice(self, number: int, ev: Any) -> None:
        if self.m.interleaving and not self.m.current.started:
            self._point("choice", self.image.text(ev.addr), ev.pc)
        options = tuple(range(ev.arg[0]))
        ev.result = self.m.choose(self.image.text(ev.addr), options)

    def _died(self, number: int, ev: Any) -> None:
        m = self.m
        if m.interleaving and not m.current.started:
            self._point("crash", self.image.text(ev.addr), ev.pc)
        if not m.findings:
            m.report("BUG:runtime", self.image.text(ev.addr))
        m.die()

    # --- the environment ---------------------------------------------------------------

    def _tell(self, number: int, ev: Any) -> None:
        what, arg = ev.arg[0], ev.arg[1]
        m = self.m
        if what == TELL_FREED:
            self._freed(number, arg)
        elif what == TELL_REACHED:
            m.reach(self.image.text(arg))
        elif what == TELL_LAST:
            dying = self.kernel.objects.cell(arg).dying
            if dying is not None:
                dying.poke(True)
        elif what == TELL_ROUND:
            self._round(number, arg)

    def _freed(self, number: int, pfn: int) -> None:
        if self.answers is not None and self.m.exploring:
            self.answers.begin(FREED, number, int(self.m.current.started), pfn)
        pages = self.kernel.free_pages
        pages.set(pages.v | {pfn})
        self.m.emit("page_freed", pfn)
        if self.answers is not None:
            self.answers.end()

    def load(self, number: int, position: int, load: Callable[[], None]) -> None:
        """Give the guest what the task's operation at ``position`` lets it do."""
        if self.answers is not None and self.m.exploring:
            self.answers.begin(LOAD, number, int(self.m.current.started), position)
        load()
        if self.answers is not None:
            self.answers.end()

    def _round(self, number: int, vcpu: int) -> None:
        """A round of vcpu_run() that got nowhere waits for what stopped it."""
        m = self.m
        if self.entered.pop(number, False) or not m.exploring or self._own_doing(number):
            m.current.blame = {}
        else:
            m.retry("vcpu_run")

    def _seamcall(self, number: int, ev: Any) -> None:
        kernel, m = self.kernel, self.m
        leaf, args, variant = ev.arg[0], ev.arg[1], ev.arg[2]
        image = self.image
        regs = {name: image.u64(args + 8 * n) for n, name in enumerate(_REGISTERS)}
        code = leaf & 0xFFFF
        name = SEAMCALL_NAMES.get(code, f"SEAMCALL {code}")
        cpu = image.cpu(number)
        answers = self.answers if m.exploring else None
        if answers is not None:
            started = int(m.current.started)
            answers.begin(ASKED, number, cpu, leaf, variant, started, *regs.values())
        if leaf in SERVICES:
            served = self.services.serve(number, leaf, *regs.values())
            self._answered(ev, args, variant, served)
            return
        if m.interleaving and not m.current.started:
            self._point("SEAMCALL", name, ev.pc)
        result: Any
        if code in _QUIET_LEAFS:
            result = Result(regs)
        else:
            status = kernel.injection.status(code) if kernel.injection is not None else 0
            result = Injected(status) if status else kernel.module.seamcall(leaf, regs, cpu)
        if m.listeners:
            m.emit("seamcall", name, regs, result)
        self.last[number] = (name, result)
        self.notice.seamcall(number, name, result)
        if code == TDH_VP_ENTER:
            result = self._enter(number, kernel.vcpu_at(regs["rcx"]), cpu, result)
        elif code == TDH_VP_FLUSH and getattr(result, "flush", False):
            flush_all(kernel.vcpu_at(regs["rcx"]), cpu)
        self._answered(ev, args, variant, result)

    def _answered(self, ev: Any, args: int, variant: int, result: Any) -> None:
        """Registers and result go back to the caller."""
        answers = self.answers if self.m.exploring else None
        if variant:
            for n, register in enumerate(_REGISTERS):
                self.kernel.poke(args + 8 * n, getattr(result, register, 0))
                if answers is not None:
                    answers.register(n, getattr(result, register, 0))
        ev.result = result.rax
        if answers is not None:
            answers.end(result.rax)

    def got_on(self, number: int) -> None:
        """The task's vCPU made progress in the guest: what it saw before does not count."""
        self.entered[number] = True
        self.first.pop(number, None)
        self.own.pop(number, None)
        self.m.current.blame = {}
        if self.answers is not None:
            self.answers.got_on()
            self.answers.attempt_over()

    def leave(self, vcpu: int) -> None:
        """Userspace asks the vCPU to leave KVM_RUN: what ends the operation."""
        self.kernel.leave(vcpu)
        if self.answers is not None:
            self.answers.leave(vcpu)

    def _enter(self, number: int, vcpu: Vcpu, cpu: int, result: Any) -> Any:
        """VP.ENTER up to the TD exit."""
        vcpu.moved_to(cpu)
        if getattr(result, "flush", False):
            flush_all(vcpu, cpu)
        if result.event != "td-entry":
            if is_operand_busy(result.rax):
                self.m.reach("VP.ENTER returned BUSY")
            return result
        self.m.current.blame = {}
        before = vcpu.guest.pc.v
        result = run_guest(vcpu)
        self.notice.exited(number, result)
        if vcpu.guest.pc.v != before or not self._shared_violation(result):
            self.got_on(number)
        if vcpu.guest.halted.v:
            self.leave(vcpu.id)
        if result.rax & 0xFFFFFFFF == EXIT_REASON_TDCALL:
            return _map_gpa(vcpu, result.rax)
        return result

    def _shared_violation(self, result: Any) -> bool:
        """A TD exit because of the shared half: unlike private faults, these are repeated by
        way of the guest."""
        if result.rax & 0xFFFFFFFF != EXIT_REASON_EPT_VIOLATION:
            return False
        return self.kernel.geometry.is_shared(result.r8 >> PAGE_SHIFT)

    def describe_last(self, number: int) -> str:
        """The last SEAMCALL of a task, for messages."""
        last = self.last.get(number)
        if last is None:
            return ""
        return f"{last[0]} -> {getattr(last[1], 'event', '') or decode(last[1].rax)}"

    def stack_words(self, number: int, sp: int) -> list[int]:
        """What lies on a task's stack above ``sp``, to find its callers."""
        top = STACKS + (number + 1) * STACK_SIZE
        return [self.image.u64(at) for at in range(sp & ~7, min(sp + 4096, top), 8)]

    _HANDLERS: Final[dict[int, Callable[[Driver, int, Any], None]]] = {
        ACCESS: _access,
        LOCK: _lock,
        UNLOCK: _unlock,
        FREE: _free,
        AWAIT_C: _await,
        RETRY: _retry,
        SEAMCALL: _seamcall,
        TELL: _tell,
        CHOICE: _choice,
        DIED: _died,
    }


def _map_gpa(vcpu: Any, rax: int) -> Any:
    """Registers of a TD exit for TDG.VP.VMCALL<MapGPA> of one page, the only call there is."""
    gpa = vcpu.guest.next_op().gfn << PAGE_SHIFT
    return SimpleNamespace(rax=rax, r11=_TDVMCALL_MAP_GPA, r12=gpa, r13=1 << PAGE_SHIFT)


_PLUMBING: Final = (
    "arch_",
    "raw_",
    "instrument_",
    "kcsan_",
    "__xchg",
    "atomic_",
    "atomic64_",
    "refcount_",
    "__refcount",
    "septum_m_",
    "__raw_",
    "_raw_",
)


def _small(value: int) -> str:
    """A word that is no page-table entry, for people."""
    return str(value) if value < 0x10000 else f"{value:#x}"


def _plumbing(function: str) -> bool:
    """A helper whose name says less than its caller's."""
    return function.startswith(_PLUMBING)
