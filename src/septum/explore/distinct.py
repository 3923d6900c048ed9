# SPDX-License-Identifier: GPL-2.0-only
"""When two findings are the same one.

The same rule, broken in the same function by the same kind of step on the same kind of object:
numbers in names (``sp13[0]``, ``vcpu1``) do not count.  What is judged after all tasks have
finished has no step: there the message says which finding it is, without its numbers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from septum.machine import Event, Finding

__all__ = ["kind_of"]

_NUMBERS = re.compile(r"\b0x[0-9a-f]+\b|\b[0-9a-f]*[0-9][0-9a-f]*\b|[0-9]+(?:\.[0-9]+)*")


@lru_cache(maxsize=4096)
def _shape(text: str) -> str:
    return _NUMBERS.sub("#", text)


def kind_of(finding: Finding, events: Sequence[Event]) -> str:
    """What a finding shares with those that are no other ones.

    :param events: of the execution that shows it.
    """
    if finding.task < 0 or not 0 <= finding.step < len(events):
        return f"{finding.rule}|settled|{_shape(finding.message)}"
    event = events[finding.step]
    what = _shape(finding.obj or event.obj)
    return f"{finding.rule}|{finding.place}|{event.op}|{what}"
