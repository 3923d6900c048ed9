# SPDX-License-Identifier: GPL-2.0-only
"""Links the kernel's objects, the glue and the runtime into an image."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from septum.native.errors import BuildError, disk_full
from septum.native.kbuild import CODE, Kbuild
from septum.native.probes import probe, probe_calls
from septum.native.stubs import assembler, rename_table

__all__ = ["GLOBAL", "RUNTIME_FLAGS", "compile_runtime", "link"]

RUNTIME_FLAGS: Final = (
    *("-c", "-g1", "-O2", "-ffreestanding", "-fno-builtin"),
    *("-fno-pie", "-mcmodel=small", "-mno-sse", "-mfsgsbase", "-mpreferred-stack-boundary=4"),
    *("-fno-stack-protector", "-fcf-protection=none", "-fomit-frame-pointer"),
    *("-Wall", "-Wextra", "-Wno-unused-parameter"),
)
_RUNTIME: Final = (
    *("runtime.c", "memory.c", "pages.c", "locks.c", "traps.c"),
    *("ledger.c", "answers.c", "engine.c", "batch.c", "snapshots.c", "states.c"),
)
_GLUE: Final = (
    *("kernel", "files", "host", "arch", "slots", "vcpu", "guest", "setup"),
    *("operations", "fields", "monitors"),
)
_WRAPPED: Final = (
    "tdx_enable",
    "tdx_get_sysinfo",
    "tdx_guest_keyid_alloc",
    "tdx_guest_keyid_free",
    "tdx_get_nr_guest_keyids",
)
GLOBAL: Final = {
    "kvm_main.o": ("kvm_dev_ioctl", "kvm_vm_ioctl", "kvm_vcpu_ioctl"),
    "mmu.o": ("nx_huge_pages_ops",),
    "tdp_mmu.o": ("tdp_mmu_zap_root",),
}
"""Static symbols that the glue uses."""
_LINKER_SYMBOLS: Final = ("septum_text", "septum_bugs", "septum_bugs_end")


def _run(command: Sequence[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        lines = [s for s in result.stderr.splitlines() if "warning" not in s] or ["no message"]
        full = disk_full(result.stderr, Path(command[-1]).parent)
        raise BuildError(full or f"{command[0]} failed: {lines[0]}")
    return result.stdout


def compile_runtime(out: Path) -> list[Path]:
    """The runtime's objects; gcc alone is needed."""
    objects = []
    for name in _RUNTIME:
        target = out / f"{Path(name).stem}.o"
        _run(["gcc", *RUNTIME_FLAGS, str(CODE / name), "-o", str(target)])
        objects.append(target)
    return objects


def link(build: Kbuild, objects: Sequence[Path], out: Path) -> Path:
    """The image.

    :raises BuildError: a tool failed, or the glue does not fit this kernel.
    """
    out.mkdir(parents=True, exist_ok=True)
    pieces = []
    for item in objects:
        target = out / "-".join(item.relative_to(build.work).parts)
        exported = [f"--globalize-symbol={name}" for name in GLOBAL.get(item.name, ())]
        _run(["objcopy", *exported, str(item), str(target)])
        pieces.append(target)
    pieces += _glue(build, out, probe(build, out) + probe_calls(build.work, objects))
    pieces += compile_runtime(out)
    stubs = _stubs(build, pieces, out)
    image = out / "image.elf"
    wrapped = [f"--wrap={name}" for name in _WRAPPED]
    options = ["-static", "-z", "muldefs", "-z", "noexecstack", "--no-warn-rwx-segments"]
    script = ["-T", str(CODE / "image.lds")]
    files = [str(p) for p in (*pieces, stubs)]
    command = ["ld", *options, *script, *wrapped, "-o", str(image), *files]
    _run(command)
    (out / "link.json").write_text(json.dumps(command))
    return image


def _glue(build: Kbuild, out: Path, flags: Sequence[str]) -> list[Path]:
    made = []
    names = _GLUE
    with ThreadPoolExecutor(len(names)) as pool:
        problems = pool.map(
            lambda n: build.compile(CODE / f"{n}.c", out / f"{n}.raw.o", *flags), names
        )
    for name, problem in zip(names, problems, strict=True):
        raw, final = out / f"{name}.raw.o", out / f"{name}.o"
        if problem:
            full = disk_full(problem, out)
            if full:
                raise BuildError(full)
            first = next((s for s in problem.splitlines() if "error" in s), problem.splitlines()[0])
            raise BuildError(
                f"{build.tree.path}: the glue does not fit Linux {build.tree.version}: {first}\n"
                '(docs/kernel.md, "Versions", says which were tried and what to do)'
            )
        table = rename_table(_symbols(raw))
        listing = out / f"{name}.names"
        listing.write_text("".join(f"{old} {new}\n" for old, new in table.items()))
        _run(["objcopy", f"--redefine-syms={listing}", str(raw), str(final)])
        made.append(final)
    return made


def _symbols(path: Path) -> list[str]:
    return [line.split()[-1] for line in _run(["nm", str(path)]).splitlines()]


def _stubs(build: Kbuild, pieces: Sequence[Path], out: Path) -> Path:
    whole = out / "whole.o"
    wrapped = [f"--wrap={name}" for name in _WRAPPED]
    files = [str(p) for p in pieces]
    _run(["ld", "-r", "-z", "muldefs", *wrapped, "-o", str(whole), *files])
    undefined = {line.split()[-1] for line in _run(["nm", "-u", str(whole)]).splitlines()}
    undefined -= set(_LINKER_SYMBOLS)
    # What is only ever called is a function; a name that is also taken as data is memory.
    called = set()
    for line in _run(["readelf", "-rW", str(whole)]).splitlines():
        fields = line.split()
        if len(fields) >= 5 and fields[2] == "R_X86_64_PLT32":
            called.add(fields[4])
    ops = _ops(build, undefined, out)
    text = out / "stubs.s"
    text.write_text(assembler(undefined & called, undefined - called, ops))
    target = out / "stubs.o"
    _run(["gcc", "-c", str(text), "-o", str(target)])
    whole.unlink()
    return target


def _ops(build: Kbuild, undefined: set[str], out: Path) -> dict[str, int]:
    """Offsets of the members of kvm_x86_ops that are called through static calls."""
    prefix = "__SCT__kvm_x86_"
    names = sorted(
        s.removeprefix(prefix) for s in undefined if s.startswith(prefix) and "nested_" not in s
    )
    source, target = out / "ops.c", out / "ops.s"
    lines = [
        f'asm volatile("#OFFSET {n} %c0"::"i"(offsetof(struct kvm_x86_ops,{n})));' for n in names
    ]
    body = "\n".join(lines)
    source.write_text(f"#include <linux/kvm_host.h>\nvoid septum_ops(void)\n{{\n{body}\n}}\n")
    problem = build.compile(source, target, assembler=True)
    if problem:
        raise BuildError(f"{build.tree.path}: kvm_x86_ops: {problem.splitlines()[0]}")
    return {n: int(v) for n, v in re.findall(r"#OFFSET (\w+) (\d+)", target.read_text())}
