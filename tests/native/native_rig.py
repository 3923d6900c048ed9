# SPDX-License-Identifier: GPL-2.0-only
"""The fixture's image, loaded once, and programs made of its functions."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from septum.explore import Options, SearchResult, search
from septum.machine import Task
from septum.native.answers import NativeMachine
from septum.native.driver import Driver
from septum.native.engine import Plan
from septum.native.image import Image
from septum.native.kbuild import CODE
from septum.native.kernel import Kernel
from septum.native.link import compile_runtime
from septum.native.program import NativeProgram, SharingGrew
from septum.native.symbols import Lines, read_symbols
from septum.tdx.profiles import PROFILES

HERE = Path(__file__).parent


def compile_fixture(out: Path) -> Path:
    """gcc and binutils are all that is needed."""
    target = out / "fixture.o"
    flags = "-g1 -O1 -fsanitize=thread --param tsan-distinguish-volatile=1 "
    flags += "--param tsan-instrument-func-entry-exit=0 -fno-pie -mcmodel=small -mno-sse "
    flags += "-fno-stack-protector -ffreestanding -fcf-protection=none -Wno-tsan"
    command = ["gcc", "-c", *flags.split(), f"-I{CODE}", str(HERE / "fixture.c"), "-o", str(target)]
    subprocess.run(command, check=True, capture_output=True)
    image = out / "image.elf"
    objects = [str(target), *map(str, compile_runtime(out))]
    script = ["-T", str(CODE / "image.lds")]
    subprocess.run(
        ["ld", "-static", "-z", "noexecstack", *script, "-o", str(image), *objects],
        check=True,
        capture_output=True,
    )
    return image


class Rig:
    """The loaded image; one machine and driver per program."""

    def __init__(self, image: Path) -> None:
        self.image = Image(image, read_symbols(image))
        self.lines = Lines(image)
        driver = self.driver()
        driver.sequential("setup")
        self.image.save()

    def driver(self) -> Driver:
        kernel = Kernel(self.image, self.lines, NativeMachine(), PROFILES["linux-7.3"], False)
        return Driver(kernel)

    def value(self, symbol: str) -> int:
        return self.image.u64(self.image.symbols[symbol])

    def program(
        self, *functions: str, final: tuple[str, ...] = (), engine: bool = False
    ) -> NativeProgram:
        """One task per function; ``final`` variables are noted in `reached` when settled.
        ``engine``: C runs executions, where it can."""
        self.image.restore()
        self.image.answers = None
        driver = self.driver()
        results: dict[int, int] = {}

        def body(number: int, function: str) -> Callable[[], None]:
            def run() -> None:
                results[number] = driver.call(function, cpu=number)

            return run

        bodies = [(f"t{n}", body(n, f)) for n, f in enumerate(functions)]
        program = NativeProgram(driver, bodies, "fixture")

        def settle() -> None:
            if final:
                driver.m.reach(" ".join(f"{v}={self.value(v)}" for v in final))
            driver.m.reach(f"results {[results[n] for n in sorted(results)]}")

        program.settle = settle
        if engine:
            program.settle = None
            plans = [[Plan(function, (), n)] for n, function in enumerate(functions)]
            program.use_engine(plans)
        driver.m.sequential = Task(-1, "sequential", None)
        return program

    def explore(self, program: NativeProgram, options: Options | None = None) -> SearchResult:
        program.warm_up()
        for _ in range(20):
            try:
                return search(program, options or Options())
            except SharingGrew:
                continue
        raise AssertionError("sharing grows for ever")
