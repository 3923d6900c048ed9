# SPDX-License-Identifier: GPL-2.0-only
"""Conformance: run recorded vectors against the model and report every difference.

A vector file is JSON Lines, plain or gzipped, one sequence of calls a line: where it
starts, each step's inputs and outputs, the final state (its README describes it).  A
line that is cut or malformed is reported with its number and reason; the rest is still
checked.  After the first difference of a sequence the states have diverged, so only
that one is reported in full.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from septum.machine import Halt, Machine
from septum.machine.geometry import Geometry
from septum.tdx.config import Conditions, Config, Tdmr, TdParams
from septum.tdx.dump import dump, load
from septum.tdx.leaves import SEAMCALL_NUMBERS, TDCALL_NUMBERS
from septum.tdx.mng import initialise
from septum.tdx.module import TdxModule
from septum.tdx.presets import Locks
from septum.tdx.regs import REGISTERS, GuestResult
from septum.tdx.state import OpState
from septum.tdx.status import decode

__all__ = ["BadLine", "Disagreement", "Report", "check_file", "check_sequence", "read_lines"]

_WITH_FLUSH: Final = ("TDH.VP.ENTER", "TDH.VP.FLUSH")


class MalformedStep(ValueError):
    """A step that no vector file can contain."""


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line (or the rest of the file) that could not be checked."""

    line: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Disagreement:
    """The first difference of one sequence; ``step`` is -1 for the final state."""

    sequence: str
    step: int
    call: str
    inputs: Mapping[str, Any]
    recorded: Any
    model: Any

    def __str__(self) -> str:
        where = "final state" if self.step < 0 else f"step {self.step} {self.call}"
        lines = [f"sequence {self.sequence}, {where}"]
        if self.inputs:
            lines.append(f"  in       {json.dumps(dict(self.inputs))}")
        lines.append(f"  recorded {_text(self.recorded)}")
        lines.append(f"  model    {_text(self.model)}")
        return "\n".join(lines)


@dataclass
class Report:
    """What `check_file` found.

    :ivar by_call: per call, per recorded result: [steps, agreed].
    """

    file: str
    sequences: int = 0
    steps: int = 0
    agreed: int = 0
    finals: int = 0
    finals_agreed: int = 0
    disagreements: list[Disagreement] = field(default_factory=list)
    bad_lines: list[BadLine] = field(default_factory=list)
    by_call: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Everything could be read and agreed."""
        return not self.disagreements and not self.bad_lines and self.steps > 0

    def count(self, call: str, result: str, agreed: bool) -> None:
        self.steps += 1
        self.agreed += agreed
        row = self.by_call.setdefault(call, {}).setdefault(result, [0, 0])
        row[0] += 1
        row[1] += agreed

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "file": self.file,
            "sequences": self.sequences,
            "steps": self.steps,
            "agreed": self.agreed,
            "finals": self.finals,
            "finals_agreed": self.finals_agreed,
            "disagreements": [
                {
                    "sequence": d.sequence,
                    "step": d.step,
                    "call": d.call,
                    "in": dict(d.inputs),
                    "recorded": d.recorded,
                    "model": d.model,
                }
                for d in self.disagreements
            ],
            "bad_lines": [{"line": b.line, "reason": b.reason} for b in self.bad_lines],
            "by_call": {
                call: {r: {"steps": n[0], "agreed": n[1]} for r, n in sorted(rows.items())}
                for call, rows in sorted(self.by_call.items())
            },
        }


def _text(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    rax = value.get("rax") if isinstance(value, dict) else None
    return f"{text}  ({decode(int(rax, 16))})" if isinstance(rax, str) else text


# --- reading ---------------------------------------------------------------------------------


def read_lines(path: Path) -> Iterator[tuple[int, str | BadLine]]:
    """The file's lines with their numbers; a cut gzip stream ends in a `BadLine`."""
    number = 0
    try:
        raw = path.open("rb")
    except OSError as error:
        yield 0, BadLine(0, f"cannot read {path.name}: {error.strerror or error}")
        return
    with raw:
        head = raw.read(2)
        raw.seek(0)
        stream: io.BufferedIOBase = gzip.GzipFile(fileobj=raw) if head == b"\x1f\x8b" else raw
        while True:
            try:
                data = stream.readline()
            except (EOFError, OSError, zlib.error) as error:
                yield number + 1, BadLine(number + 1, f"the compressed file is cut here: {error}")
                return
            if not data:
                return
            number += 1
            try:
                text = data.decode()
            except UnicodeDecodeError as error:
                yield number, BadLine(number, f"not UTF-8 at byte {error.start}")
                continue
            if text.strip():
                yield number, text


def check_file(path: Path | str, *, keep: int = 20) -> Report:
    """Run every sequence of a vector file.

    :param keep: how many disagreements to keep in full (one per sequence).
    """
    path = Path(path)
    report = Report(str(path))
    for number, line in read_lines(path):
        if isinstance(line, BadLine):
            report.bad_lines.append(line)
            continue
        try:
            sequence = json.loads(line)
        except json.JSONDecodeError as error:
            reason = f"not JSON at column {error.colno}: {error.msg}"
            report.bad_lines.append(BadLine(number, reason))
            continue
        except RecursionError:
            report.bad_lines.append(BadLine(number, "not JSON: nested too deep"))
            continue
        try:
            check_sequence(sequence, report, keep=keep)
        except _MALFORMED as error:
            report.bad_lines.append(BadLine(number, _reason(error)))
    return report


_MALFORMED: Final = (KeyError, TypeError, ValueError, AttributeError, IndexError)


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is missing"
    return str(error) if isinstance(error, MalformedStep) else f"malformed: {error}"


# --- running ---------------------------------------------------------------------------------


_MOST_REPEATS: Final = 1 << 20
_MOST_LPS: Final = 4096


def _int(value: Any) -> int:
    if isinstance(value, int):
        return value
    try:
        return int(value, 16)
    except (TypeError, ValueError):
        raise MalformedStep(f"{str(value)[:40]!r} is no number") from None


def build_module(config: Mapping[str, Any]) -> TdxModule:
    """The platform a sequence was recorded on, in its start state."""
    params = config["td_params"]
    geometry = Geometry(levels=config["levels"], shared=51 if config["gpaw"] else 47)
    regions = tuple(
        Tdmr(
            _int(t["base"]),
            _int(t["size"]),
            tuple((_int(r["base"]), _int(r["size"])) for r in t.get("reserved", ())),
        )
        for t in config["tdmr"]
    )
    low, high = config["hkid_private"]
    if not 1 <= config["packages"] <= config["lps"] <= _MOST_LPS:
        raise ValueError(f"{config['packages']} packages, {config['lps']} LPs")
    module = TdxModule(
        Machine(),
        geometry,
        "1.5.01",
        Config(
            tdmrs=regions,
            lps=config["lps"],
            packages=config["packages"],
            hkid_shift=config["hkid_bits"][0],
            private_hkids=(low, high),
            cache_wb_blocks=config["cache_wb_blocks"],
            td_params=_params(params),
        ),
    )
    if config["start"] == "preset":
        load(module, config["preset"], _params(params), config["layout"])
    return module


def _params(raw: Mapping[str, Any]) -> TdParams:
    return TdParams(
        max_vcpus=raw["max_vcpus"],
        hp_lock_timeout=_int(raw["hp_lock_timeout"]),
        pending_ve_disable=bool(raw["pending_ve_disable"]),
    )


class _Runner:
    """Executes the steps of one sequence."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.module = build_module(config)
        self.tdr = _int(config["layout"]["tdr"])
        self.locks = Locks(self.module, self.tdr)

    def run(self, step: Mapping[str, Any]) -> Any:
        """The model's ``out`` for a step (the first differing one of a repeat)."""
        call, inputs = step["call"], step["in"]
        if not isinstance(call, str):
            raise MalformedStep(f"{call!r} is no call")
        if call in SEAMCALL_NUMBERS:
            return self._seamcall(call, step)
        if call in TDCALL_NUMBERS or call.startswith("guest-"):
            return _guest_out(call, self._guest(call, inputs, step["lp"]))
        if call == "preset-lock":
            return self.locks.run(inputs)
        self._preset(call, inputs)
        return {}

    def _conditions(self, inputs: Mapping[str, Any]) -> Conditions:
        return Conditions(
            intr_at=inputs.get("intr_at"),
            no_entropy=bool(inputs.get("no_entropy")),
            pconfig=inputs.get("pconfig", ""),
            rip=_int(inputs["rip"]) if "rip" in inputs else None,
            tsc=_int(inputs.get("tsc", 0)),
        )

    def _seamcall(self, call: str, step: Mapping[str, Any]) -> dict[str, Any]:
        inputs = step["in"]
        regs = {name: _int(inputs[name]) for name in REGISTERS if name in inputs}
        leaf = SEAMCALL_NUMBERS[call] | inputs.get("version", 0) << 16
        repeat = inputs.get("repeat", {"count": 1})
        out: dict[str, Any] = {}
        count = repeat["count"]
        if not 1 <= count <= _MOST_REPEATS:
            raise MalformedStep(f"a repeat count of {count}")
        for i in range(count):
            now = dict(regs)
            for name in ("rcx", "r8"):
                now[name] = regs.get(name, 0) + i * _int(repeat.get(f"{name}_stride", 0))
            result = self.module.seamcall(leaf, now, step["lp"], self._conditions(inputs))
            if result.event == "td-entry":
                out = {"event": "td-entry"}
            else:
                out = {"rax": hex(result.rax)}
                out.update((n, hex(v)) for n, v in result.changed(now).items())
            if call in _WITH_FLUSH:
                out["flush"] = int(result.flush)
            if out != step["out"]:
                break
        return out

    def _guest(self, call: str, inputs: Mapping[str, Any], lp: int) -> GuestResult:
        cond = self._conditions(inputs)
        if call == "guest-interrupt":
            return self.module.guest_interrupt(lp, cond)
        if call == "guest-ept-violation":
            return self.module.guest_ept_violation(lp, _int(inputs["gpa"]), cond)
        if call not in TDCALL_NUMBERS:
            raise MalformedStep(f"unknown call {call!r}")
        regs = {name: _int(inputs[name]) for name in REGISTERS if name in inputs}
        return self.module.tdcall(TDCALL_NUMBERS[call], regs, lp, cond)

    def _preset(self, call: str, inputs: Mapping[str, Any]) -> None:
        td = self.module.td(self.tdr)
        if call == "preset-mng-init":
            initialise(td, _params(inputs))
        elif call == "preset-op-state":
            td.op_state.poke(OpState(inputs["op_state"]))
        elif call == "preset-td-fatal":
            td.fatal.poke(True)
        else:
            raise MalformedStep(f"unknown call {call!r}")


def _guest_out(call: str, result: GuestResult) -> dict[str, Any]:
    out: dict[str, Any] = {"event": result.event}
    names: tuple[str, ...] = ()
    if result.event == "resume":
        names = ("rax", "rcx", "rdx", "r9") if call == "TDG.VP.VEINFO.GET" else ("rax",)
    elif result.event == "td-exit":
        names = ("rax", "rcx", "rdx", "r8")
    elif result.event == "inject":
        out["vector"] = result.vector
    out.update((name, hex(getattr(result, name))) for name in names)
    return out


def check_sequence(sequence: Mapping[str, Any], report: Report, *, keep: int = 20) -> bool:
    """Run one sequence, add to the report; whether it agreed entirely."""
    runner = _Runner(sequence["config"])
    name = str(sequence["id"])
    report.sequences += 1
    agreed = True

    def differ(step: int, call: str, inputs: Mapping[str, Any], seen: Any, model: Any) -> None:
        nonlocal agreed
        if agreed and len(report.disagreements) < keep:
            report.disagreements.append(Disagreement(name, step, call, inputs, seen, model))
        agreed = False

    for i, step in enumerate(sequence["steps"]):
        try:
            recorded, out = step["out"], _out(runner, step)
            same = out == recorded
            report.count(step["call"], _result_name(step["call"], recorded), same)
        except _MALFORMED as error:
            raise MalformedStep(f"step {i}: {_reason(error)}") from None
        if not same:
            differ(i, step["call"], step["in"], recorded, out)
    final = sequence["final"]
    pages = [_int(row["hpa"]) for row in final["pamt"]]
    differences = _compare(final, dump(runner.module, pages, runner.tdr))
    report.finals += 1
    report.finals_agreed += not differences
    if differences:
        recorded = {k: v[0] for k, v in differences.items()}
        differ(-1, "", {}, recorded, {k: v[1] for k, v in differences.items()})
    return agreed


def _out(runner: _Runner, step: Mapping[str, Any]) -> Any:
    """The model's ``out``, also where the model cannot follow."""
    try:
        return runner.run(step)
    except Halt:
        return {"halted": [f.message for f in runner.module.m.findings]}
    except MalformedStep:
        raise
    except ValueError as error:  # the model has no such vCPU, page, ...
        return {"impossible": str(error)}


def _compare(recorded: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs: lists by their differing rows."""
    differences: dict[str, tuple[Any, Any]] = {}
    for key in sorted(recorded.keys() | model.keys()):
        one, other = recorded.get(key), model.get(key)
        if one == other:
            continue
        if isinstance(one, list) and isinstance(other, list) and key != "refcounts":
            differences[key] = _rows(one, other), _rows(other, one)
        else:
            differences[key] = one, other
    return differences


def _rows(some: Iterable[Any], others: Iterable[Any]) -> list[Any]:
    known = list(others)
    return [row for row in some if row not in known]


def _result_name(call: str, out: Mapping[str, Any]) -> str:
    """How by_call names a recorded result."""
    event = out.get("event", "")
    if event == "inject":
        return f"inject vector {out['vector']}"
    rax = out.get("rax")
    if rax is None:
        if "ok" in out:
            return "ok" if out["ok"] else "fails"
        return str(event or "-")
    return f"{event} {decode(int(rax, 16))}".strip()
