# SPDX-License-Identifier: GPL-2.0-only
"""septum: an executable model, concurrency checker and trace debugger for KVM's TDP MMU.

The floors of the package, lowest first (docs/architecture.md): ``machine``,
``explore``, ``tdx``, ``kvm``, ``designs``, ``scenarios``, ``trace``, ``report``,
``cli``.  A module imports only from floors below its own.
"""

__version__ = "0.1.0"
