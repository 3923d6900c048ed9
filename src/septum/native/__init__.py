# SPDX-License-Identifier: GPL-2.0-only
"""A kernel tree's own C, compiled and run as the thing under test (docs/kernel.md).

`kbuild` compiles the user's unmodified files with KCSAN's instrumentation, `link` links them
with the runtime in ``c/`` into an image at a fixed address, `image` loads it into this process,
`driver` runs its tasks on a `septum.machine.Machine`, and `program` builds from a scenario what
an explorer can run.  The TDX Module behind ``__seamcall`` is `septum.tdx`.
"""
