# SPDX-License-Identifier: GPL-2.0-only
"""Floor 7: recordings of real kernels, from ftrace text to findings.

`source` (bytes to lines), `text` (a line to a record), `events` (a payload to an event),
`judge` with `removal` and `rules` (events to shadow tables and findings), `recording` (all
of it, once through the recording), `replay` (the entry points), `result` (what comes out),
`unobservable` (what stock events cannot show).  User guide: docs/replay.md.
"""

from septum.trace.catalogue import RULES
from septum.trace.replay import replay
from septum.trace.result import ReplayResult
from septum.trace.rules import Finding
from septum.trace.source import TraceInputError

__all__ = ["RULES", "Finding", "ReplayResult", "TraceInputError", "replay"]
