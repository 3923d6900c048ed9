# SPDX-License-Identifier: GPL-2.0-only
"""What a monitor is."""

from __future__ import annotations

from typing import ClassVar

from septum.kvm.view import View

__all__ = ["Monitor"]


class Monitor:
    """One rule.  Subclasses define the methods of the events they judge at:
    ``on_<event>(...)`` and ``settled()``."""

    id: ClassVar[str]
    statement: ClassVar[str]
    judged: ClassVar[str]
    source: ClassVar[str]
    example: ClassVar[str]
    silenced_by_bug: ClassVar[bool] = False

    def __init__(self, view: View) -> None:
        self.view = view

    def report(self, message: str, obj: str = "") -> None:
        if self.silenced_by_bug and self.view.vm_bugged():
            return
        self.view.m.report(self.id, message, obj)
