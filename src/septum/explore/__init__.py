# SPDX-License-Identifier: GPL-2.0-only
"""Floor 1: strategies over the Program protocol.  Nothing here knows what KVM is.

A *program* is anything that can be executed once under a prefix of decisions
(`program.Program`).  Strategies: `optimal` (one execution per trace, complete),
`brute` (every interleaving, and every interleaving up to equal states), `sample`
(random walk, PCT).  `search.search` is the way in, and
`protocol.check` for protocols of one's own.
"""

from septum.explore.estimate import left_text
from septum.explore.program import MachineProgram, Program
from septum.explore.protocol import Protocol, Tasks, Verdict, best_found, check, program_of
from septum.explore.result import Found, SearchResult
from septum.explore.search import STRATEGIES, Options, search

__all__ = [
    "STRATEGIES",
    "Found",
    "MachineProgram",
    "Options",
    "Program",
    "Protocol",
    "SearchResult",
    "Tasks",
    "Verdict",
    "best_found",
    "check",
    "left_text",
    "program_of",
    "search",
]
