# SPDX-License-Identifier: GPL-2.0-only
"""A kernel tree as given by the user: what it is, and whether it can be built here."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from septum.native.errors import BuildError

__all__ = ["Tree", "check_tools", "read_tree"]

_TOOLS: Final = (
    ("make", "make"),
    ("gcc", "gcc"),
    ("ld", "binutils"),
    ("objcopy", "binutils"),
    ("nm", "binutils"),
    ("readelf", "binutils"),
    ("addr2line", "binutils"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
)
_NEEDS: Final = ("Makefile", "Kbuild", "arch/x86/Kconfig", "virt/kvm/kvm_main.c")
_TDX: Final = ("arch/x86/kvm/vmx/tdx.c", "arch/x86/virt/vmx/tdx/tdx.c")
_CONTENT: Final = (
    *("arch/x86/kvm", "virt/kvm", "arch/x86/virt/vmx", "arch/x86/include/asm"),
    *("arch/x86/include/uapi", "include/linux", "include/asm-generic", "include/uapi/linux"),
)
_FILES: Final = ("Makefile", "lib/xarray.c", "lib/rbtree.c", "lib/interval_tree.c")
_HOOK: Final = "set_external_spte"


@dataclass(frozen=True, slots=True)
class Tree:
    """A kernel source tree.

    :ivar version: ``7.3.4``, as its Makefile says.
    :ivar dirty: it has an in-tree build, which kbuild does not accept as a source.
    """

    path: Path
    version: str
    dirty: bool

    def digest(self) -> str:
        """What its KVM files and the headers around them hold, wherever the tree lies."""
        digest = hashlib.sha256()
        for path in _files(self.path, _CONTENT):
            digest.update(f"{path.relative_to(self.path)}\0".encode() + path.read_bytes())
        for name in _FILES:
            path = self.path / name
            digest.update(path.read_bytes() if path.is_file() else b"")
        return digest.hexdigest()


def _files(tree: Path, directories: tuple[str, ...]) -> Iterator[Path]:
    for directory in directories:
        for base, folders, names in os.walk(tree / directory):
            folders.sort()
            for name in sorted(names):
                if name.endswith((".c", ".h", ".S")):
                    yield Path(base) / name


def read_tree(path: Path) -> Tree:
    """Look at a directory.

    :raises BuildError: not a kernel tree, too old, or without TDX.
    """
    if path.exists() and not path.is_dir():
        raise BuildError(f"{path}: not a directory: give the top of a kernel source tree")
    if not path.is_dir():
        raise BuildError(f"{path}: no such directory: give the top of a kernel source tree")
    missing = [name for name in _NEEDS if not (path / name).exists()]
    if missing:
        raise BuildError(
            f"{path}: not a kernel source tree ({missing[0]} is missing): give the directory "
            "that holds the kernel's top Makefile"
        )
    version = _version(path)
    lacking = [name for name in _TDX if not (path / name).exists()]
    if lacking:
        raise BuildError(
            f"{path}: Linux {version} cannot host TDs ({lacking[0]} is missing): "
            "6.16 or later is needed"
        )
    if _HOOK not in (path / "arch/x86/include/asm/kvm-x86-ops.h").read_text(errors="replace"):
        raise BuildError(
            f"{path}: Linux {version} is too old: its TDP MMU has no mirror page tables "
            f"(kvm_x86_ops has no {_HOOK}); 6.16 or later is needed"
        )
    return Tree(path.resolve(), version, _has_build(path))


def _version(path: Path) -> str:
    text = (path / "Makefile").read_text(errors="replace")
    names = r"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION) *= *(\S*)"
    found: dict[str, str] = dict(re.findall(names, text, re.M))
    parts = [found.get(k, "") for k in ("VERSION", "PATCHLEVEL", "SUBLEVEL")]
    return ".".join(p for p in parts if p) + found.get("EXTRAVERSION", "")


def _has_build(path: Path) -> bool:
    generated = path / "arch/x86/include/generated"
    return (path / ".config").exists() or (path / "include/config").exists() or generated.exists()


def check_tools() -> None:
    """:raises BuildError: naming each missing tool and the Debian package that has it."""
    missing = [(tool, package) for tool, package in _TOOLS if shutil.which(tool) is None]
    if not Path("/usr/include/gelf.h").exists() and not list(Path("/usr/include").glob("*/gelf.h")):
        missing.append(("gelf.h", "libelf-dev"))
    if missing:
        names = ", ".join(tool for tool, _ in missing)
        packages = " ".join(dict.fromkeys(package for _, package in missing))
        raise BuildError(f"missing build tools: {names}: apt install {packages}")
