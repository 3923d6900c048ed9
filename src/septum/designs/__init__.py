# SPDX-License-Identifier: GPL-2.0-only
"""Floor 4: one module per proposal of the mails, toggles on them, and mutants.

A design module holds the complete text of every function that its patch touches, and
nothing else, with the constants ``NAME``, ``PREDECESSOR`` (a name, or None for a base) and
``CAPABILITIES``.  Functions that it does not define are its predecessor's; those that no
design of the chain defines are the floor's (`septum.kvm.functions`).
"""

from septum.designs.registry import (
    Design,
    DesignError,
    Toggle,
    design_names,
    diff,
    lookup,
    toggle_names,
)

__all__ = [
    "Design",
    "DesignError",
    "Toggle",
    "design_names",
    "diff",
    "lookup",
    "toggle_names",
]
