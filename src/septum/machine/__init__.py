# SPDX-License-Identifier: GPL-2.0-only
"""Floor 0: tasks, shared words, locks, RCU, choices; sequential when nobody explores."""

from septum.machine.buffers import MEMORY_MODELS
from septum.machine.core import Machine
from septum.machine.events import (
    Decision,
    Event,
    Execution,
    Finding,
    Halt,
    Limits,
    MachineError,
    Policy,
)
from septum.machine.memory import Page, Word
from septum.machine.state import Cell, Task
from septum.machine.sync import RCU, SRCU, Mutex, RWLock, SpinLock, TryLock, wait_until

__all__ = [
    "MEMORY_MODELS",
    "RCU",
    "SRCU",
    "Cell",
    "Decision",
    "Event",
    "Execution",
    "Finding",
    "Halt",
    "Limits",
    "Machine",
    "MachineError",
    "Mutex",
    "Page",
    "Policy",
    "RWLock",
    "SpinLock",
    "Task",
    "TryLock",
    "Word",
    "wait_until",
]
