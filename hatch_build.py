# SPDX-License-Identifier: GPL-2.0-only
"""Build hook: with ``SEPTUM_COMPILE=1``, the hot path is compiled by mypyc.

Which modules that is, is said in pyproject.toml.  The sources stay in the wheel beside the
compiled modules.  Without the variable nothing is compiled and the wheel is pure Python.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

WANTED = os.environ.get("SEPTUM_COMPILE", "") not in ("", "0")


class CompiledBuildHook(BuildHookInterface):
    def dependencies(self) -> list[str]:
        return ["mypy[mypyc]>=1.10", "types-greenlet>=3.0"] if WANTED else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if not WANTED or version == "editable":
            return
        lacking = missing()
        if lacking:
            sys.exit(f"septum: SEPTUM_COMPILE=1 needs {lacking}; without it the wheel is pure")
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        out = Path(self.root) / "build" / "mypyc"  # kept: front ends ask twice for one wheel
        for built in compile_modules(self._modules(), out):
            build_data["force_include"][str(built)] = str(built.relative_to(out / "lib"))

    def _modules(self) -> list[str]:
        package = Path(self.root) / "src" / "septum"

        def names(key: str) -> set[Path]:
            return {path for pattern in self.config[key] for path in package.glob(pattern)}

        return sorted(
            str(path.relative_to(self.root)) for path in names("compiled") - names("interpreted")
        )


def missing() -> str:
    """What it takes to compile and is not here."""
    compiler = os.environ.get("CC", "gcc").split()[0]
    if shutil.which(compiler) is None:
        return f"a C compiler ({compiler}: apt install gcc)"
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").exists():
        return f"Python's headers ({headers}/Python.h: apt install python3-dev)"
    return ""


def compile_modules(modules: list[str], out: Path) -> list[Path]:
    """Compile the modules as one group, in which calls are C calls; the files made."""
    from mypyc.build import mypycify
    from setuptools import Distribution

    extensions = mypycify(
        [*modules, "--strict"],
        opt_level="1",
        debug_level="0",
        group_name="septum",
        target_dir=str(out / "c"),
    )
    build = Distribution({"name": "septum", "ext_modules": extensions}).get_command_obj("build_ext")
    build.build_lib = str(out / "lib")
    build.build_temp = str(out / "temp")
    build.ensure_finalized()
    build.run()
    return [Path(name) for name in build.get_outputs()]
