# SPDX-License-Identifier: GPL-2.0-only
"""septum: an executable model, concurrency checker and trace debugger for KVM's TDP MMU.

The floors of the package, lowest first (docs/architecture.md): ``machine``,
``explore``, ``tdx``, ``kvm``, ``designs``, ``scenarios``, ``trace``, ``report``,
``cli``.  A module imports only from floors below its own.
"""

from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

__version__ = "0.1.0"


def compiled() -> bool:
    """Whether the hot path is compiled (hatch_build.py); results are the same either way."""
    machine = Path(__file__).parent / "machine"
    return any((machine / f"core{suffix}").exists() for suffix in EXTENSION_SUFFIXES)
