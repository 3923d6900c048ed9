# SPDX-License-Identifier: GPL-2.0-only
"""Compiles the user's unmodified files through kbuild, out of tree, with KCSAN.

KCSAN's instrumentation makes every access a call, which the runtime defines; no macro of the
kernel is overridden but those of ``c/relax.h`` and ``c/vm_dead.h``.  Nothing is ever written into
the tree.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Final

from septum.native.errors import BuildError, disk_full
from septum.native.tree import Tree

__all__ = ["CODE", "OBJECTS", "Kbuild", "Progress", "before"]

Progress = Callable[[str], None]

CODE: Final = Path(__file__).parent / "c"
KCFLAGS: Final = "-fno-PIE -mcmodel=small -mpreferred-stack-boundary=4 -g1"
_BEFORE: Final = {
    "mmu/mmu": "relax.h",  # as arch/x86/kvm/Makefile calls them
    "mmu/tdp_mmu": "relax.h",
    "vmx/tdx": "vm_dead.h",
    "kvm_main": "vm_dead.h",
}
"""Headers that come before everything in the file."""

OBJECTS: Final = (
    "arch/x86/kvm/mmu/mmu.o",
    "arch/x86/kvm/mmu/tdp_mmu.o",
    "arch/x86/kvm/mmu/tdp_iter.o",
    "arch/x86/kvm/mmu/spte.o",
    "arch/x86/kvm/mmu/page_track.o",
    "arch/x86/kvm/vmx/tdx.o",
    "arch/x86/kvm/vmx/main.o",
    "arch/x86/virt/vmx/tdx/tdx.o",
    "lib/xarray.o",
    "lib/rbtree.o",
    "lib/interval_tree.o",
)
_KVM_CORE: Final = ("virt/kvm/kvm_main.o", "virt/kvm/guest_memfd.o")
"""Part of arch/x86/kvm's module; asked for by their own names, kbuild would not instrument
them, so they are compiled with the command line of `MODEL`."""
MODEL: Final = "arch/x86/kvm/mmu/tdp_mmu.o"  # whose command line the glue is compiled with


def before(name: str) -> list[str]:
    """The flags that put a header before everything in a file of the kernel."""
    path = Path(name).with_suffix("")
    header = _BEFORE.get(path.name) or _BEFORE.get(f"{path.parent.name}/{path.name}")
    return [f"-include {CODE}/{header}"] if header else []


class Kbuild:
    """One build directory.

    :param work: the build directory, made if needed.
    :param progress: called with what is being done.
    """

    def __init__(self, tree: Tree, work: Path, progress: Progress) -> None:
        self.tree = tree
        self.work = work
        self.progress = progress
        self.seconds: dict[str, float] = {}
        self.source = tree.path

    def run(self, *, compiled: bool = False) -> list[Path]:
        """Configure if needed and compile; the objects.

        :param compiled: the tree is as it was when the objects were made.
        :raises BuildError: with the compiler's own message.
        """
        self._make_directory()
        objects = [self.work / name for name in (*OBJECTS, *_KVM_CORE)]
        if compiled and all(path.exists() for path in objects):
            return objects
        if self.tree.dirty:
            self.source = self._farm()
        if not (self.work / ".config").exists():
            self._step("configure", ["allnoconfig"], f"KCONFIG_ALLCONFIG={CODE}/fragment.config")
            self._check_config()
        if not (self.work / "include/generated/asm-offsets.h").exists():
            self._step("prepare", ["prepare"])
        flags = [f"CFLAGS_{n}.o=-include {CODE}/{header}" for n, header in _BEFORE.items()]
        self._step("compile", list(OBJECTS), *flags)
        self._core()
        return objects

    def _core(self) -> None:
        begun = perf_counter()
        (self.work / "virt/kvm").mkdir(parents=True, exist_ok=True)
        for name in _KVM_CORE:
            self.progress(f"compile: {name}")
            source = self.source / name.replace(".o", ".c")
            problem = self.compile(source, self.work / name, *before(name))
            if problem:
                raise BuildError(self._failure("compile", problem.splitlines(keepends=True)))
        self.seconds["compile"] += perf_counter() - begun

    def _make_directory(self) -> None:
        try:
            self.work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BuildError(f"{self.work}: cannot be made: {error.strerror}") from None

    def _check_config(self) -> None:
        config = (self.work / ".config").read_text()
        for option in ("CONFIG_KVM_INTEL_TDX", "CONFIG_KCSAN", "CONFIG_PROVE_LOCKING"):
            if f"{option}=y" not in config:
                (self.work / ".config").unlink()
                raise BuildError(
                    f"{self.tree.path}: {option} cannot be set in Linux {self.tree.version} with "
                    "this compiler: KCSAN needs gcc 11 or later, TDX needs 6.16 or later"
                )

    def _farm(self) -> Path:
        """Symbolic links to a tree that has an in-tree build, without what was generated."""
        farm = self.work.parent / "farm"
        if farm.exists():
            shutil.rmtree(farm)
        self.progress("linking a tree that has an in-tree build (left alone)")
        begun = perf_counter()
        result = subprocess.run(
            ["cp", "-as", str(self.tree.path), str(farm)], capture_output=True, text=True
        )
        if result.returncode:
            said = result.stderr.strip().splitlines()[-1]
            raise BuildError(disk_full(said, farm) or f"{farm}: {said}")
        for name in (".config", "include/config", "include/generated"):
            path = farm / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        for generated in farm.glob("arch/*/include/generated"):
            shutil.rmtree(generated)
        self.seconds["farm"] = perf_counter() - begun
        return farm

    def _step(self, what: str, targets: Sequence[str], *variables: str) -> None:
        self.progress(f"{what}: Linux {self.tree.version}")
        begun = perf_counter()
        jobs = len(os.sched_getaffinity(0))
        command = ["make", "-C", str(self.source), f"O={self.work}", f"KCFLAGS={KCFLAGS}"]
        command += ["ARCH=x86_64", f"-j{jobs}", *variables, *targets]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("KBUILD", "MAKE"))}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        assert process.stdout is not None
        output: list[str] = []
        for line in process.stdout:
            output.append(line)
            found = re.match(r"\s+(CC|AS|HOSTCC)\s+(\S+)", line)
            if found:
                self.progress(f"{what}: {found[2]}")
        if process.wait():
            raise BuildError(self._failure(what, output))
        self.seconds[what] = perf_counter() - begun

    def _failure(self, what: str, output: Sequence[str]) -> str:
        text = "".join(output)
        full = disk_full(text, self.work)
        if full:
            return full
        errors = [
            i for i, line in enumerate(output) if re.search(r"(error|Error \d|\*\*\*):?", line)
        ]
        compiler = [i for i in errors if " error: " in output[i]]
        first = (compiler or errors or [len(output) - 1])[0]
        shown = "".join(output[first : first + 4]).replace(f"{self.tree.path}/", "").rstrip()
        return f"{self.tree.path}: {what} failed:\n{shown}"

    # --- the glue ----------------------------------------------------------------------------

    def command(self, source: Path, target: Path, *flags: str, assembler: bool = False) -> str:
        """The command that kbuild compiled `MODEL` with, for another file."""
        saved = self.work / f"{Path(MODEL).parent}/.{Path(MODEL).name}.cmd"
        line = saved.read_text().splitlines()[0].split(":=", 1)[1].split(";")[0].strip()
        line = re.sub(r"-Wp,-MMD,\S+", "", line)
        line = re.sub(r"-include \S+/(relax|vm_dead)\.h", "", line)
        line = re.sub(r"-DKBUILD_BASENAME='\S+'", "-DKBUILD_BASENAME='\"septum\"'", line)
        quiet = "-Wno-missing-prototypes -Wno-missing-declarations -Wno-unused"
        mode = "-S" if assembler else "-c"
        ending = f"{quiet} -I{CODE} {' '.join(flags)} {mode} -o {target} {source}"
        return re.sub(r"-c -o \S+ \S+$", lambda _: ending, line)

    def compile(self, source: Path, target: Path, *flags: str, assembler: bool = False) -> str:
        """Compile a file of the glue; the compiler's messages, empty if it worked."""
        command = self.command(source, target, *flags, assembler=assembler)
        result = subprocess.run(command, shell=True, cwd=self.work, capture_output=True, text=True)
        return result.stderr if result.returncode else ""
