# SPDX-License-Identifier: GPL-2.0-only
"""Files with protocols of one's own: rows of ``septum check`` like any other.

A file is one if it has ``PROTOCOL``, a `septum.explore.Protocol`, or ``PROTOCOLS``, a
sequence of them.  In a row and in a counterexample the design is the protocol's name, the
scenario the file's path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from septum.designs.calls import nearest
from septum.designs.registry import DesignError, load_file
from septum.explore import MachineProgram, Protocol, program_of
from septum.machine import Machine

__all__ = ["BuiltProtocol", "build_protocol", "find_protocol", "is_protocol_row", "protocols"]


@dataclass(frozen=True, slots=True)
class BuiltProtocol:
    """A protocol as a program; has what recording and replay need of a `Built`."""

    design_name: str
    scenario_name: str
    program: MachineProgram

    @property
    def machine(self) -> Machine:
        return self.program.machine

    @property
    def hypothetical(self) -> bool:
        return False

    @property
    def params(self) -> dict[str, Any]:
        return {}

    @property
    def origin(self) -> dict[str, Any]:
        return {}

    def describe(self, what: str, args: tuple[Any, ...]) -> str:
        return ""

    def snapshot(self) -> Mapping[str, Any]:
        return {}


def protocols(spec: str) -> tuple[Protocol, ...]:
    """The protocols of a file; none if it is something else (a design).

    :raises DesignError: the file cannot be read, or what it lists are no protocols.
    """
    return _protocols(spec) if spec.endswith(".py") else ()


@cache
def _protocols(path: str) -> tuple[Protocol, ...]:
    names = vars(load_file(Path(path)))
    if "PROTOCOLS" in names:
        found = names["PROTOCOLS"]
        listed = tuple(found) if isinstance(found, list | tuple) else (found,)
    elif "PROTOCOL" in names:
        listed = (names["PROTOCOL"],)
    else:
        return ()
    for protocol in listed:
        if not isinstance(protocol, Protocol):
            raise DesignError(
                f"{path}: PROTOCOLS should list septum.explore.Protocol objects, "
                f"not {type(protocol).__name__}"
            )
    known = [p.name for p in listed]
    if not listed or len(set(known)) < len(known):
        raise DesignError(f"{path}: PROTOCOLS should have at least one, each with its own name")
    return listed


def is_protocol_row(scenario: str) -> bool:
    """Whether a row's scenario is a protocol file (no scenario is named like one)."""
    return scenario.endswith(".py")


def find_protocol(name: str, path: str) -> Protocol:
    """:raises DesignError: the file has no protocol of that name."""
    listed = protocols(path)
    for protocol in listed:
        if protocol.name == name:
            return protocol
    names = [p.name for p in listed]
    raise DesignError(f"{path}: no protocol {name!r}{nearest(name, names)}; it has {names}")


def build_protocol(name: str, path: str, memory_model: str) -> BuiltProtocol:
    """:raises DesignError: there is no such protocol, or it cannot be built."""
    protocol = find_protocol(name, path)
    try:
        return BuiltProtocol(name, path, program_of(protocol, memory_model=memory_model))
    except Exception as error:
        raise DesignError(f"{path}: {name}: {type(error).__name__}: {error}") from error
