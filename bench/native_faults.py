# SPDX-License-Identifier: GPL-2.0-only
"""Seeded faults in a kernel tree's C code: is each of them found?

Edits a scratch copy of one file (never the tree), compiles it with the build's own command,
links it in the place of the original, and runs ``septum kernel check``'s search in the
scenarios named, until the first finding.

Usage: native_faults.py TREE [SECONDS] [NAME...] [--stateful]
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from native_faults_direct import DIRECT

from septum.explore import Options
from septum.native.build import build
from septum.native.code import Code
from septum.native.errors import BuildError
from septum.native.kbuild import Kbuild
from septum.native.link import GLOBAL
from septum.native.subject import KernelSubject
from septum.native.tree import read_tree
from septum.scenarios.result import CheckResult
from septum.scenarios.rows import make
from septum.scenarios.scheduling import run_rows
from septum.scenarios.suite import find

TDP = "arch/x86/kvm/mmu/tdp_mmu.c"
MMU = "arch/x86/kvm/mmu/mmu.c"
TDX = "arch/x86/kvm/vmx/tdx.c"
MAIN = "virt/kvm/kvm_main.c"
INSTALL = ("install-leaf-fails", "install-table-fails")
ZAP = ("zap-accept", "zap-running", "zap-zero-step")


class Fault(NamedTuple):
    """``old`` is a regular expression that must occur in the file; all of it becomes ``new``.
    ``rule``: who has to find it; anybody may if it is empty."""

    name: str
    file: str
    old: str
    new: str
    scenarios: tuple[str, ...]
    rule: str = ""


FAULTS = (
    Fault("drop-freeze", TDP, r"(set_spte_atomic\(kvm, iter, )FROZEN_SPTE\)", r"\1new_spte)",
          ("fault-fault", "fault-neighbours")),
    Fault("unfreeze-before-hook", TDP,
          r"(\tret = __handle_changed_spte\(kvm, sp, iter->gfn, iter->old_spte,\s+new_spte,"
          r" iter->level, true\);)",
          r"\t__kvm_tdp_mmu_write_spte(iter->sptep, new_spte);\n\1",
          ("fault-fault", "fault-neighbours")),
    Fault("ignore-hook-error", TDP,
          r"\t\tif \(ret\)\n\t\t\t__kvm_tdp_mmu_write_spte\(iter->sptep, iter->old_spte\);\n"
          r"\t\telse\n", "", INSTALL),
    Fault("stay-frozen-on-error", TDP, r"__kvm_tdp_mmu_write_spte\(iter->sptep, iter->old_spte\);",
          ";", INSTALL),
    Fault("stats-on-failure", TDP, r"\t\tif \(r\)\n\t\t\treturn r;",
          "\t\tif (r) {\n\t\t\tkvm_update_page_stats(kvm, level, 1);\n\t\t\treturn r;\n\t\t}",
          INSTALL),
    Fault("missing-put", TDP, r"\tif \(prev_root\)\n\t\tkvm_tdp_mmu_put_root\(kvm, prev_root\);",
          "", ("fault-punch",)),
    Fault("table-not-accounted", TDP, r"\n\ttdp_account_mmu_page\(kvm, sp\);", "\n\t;",
          ("fault-fault",)),
    Fault("stale-fault-goes-on", MMU,
          r"(kvm_tdp_mmu_page_fault[^}]*?)if \(is_page_fault_stale\(vcpu, fault\)\)", r"\1if (0)",
          ("fault-punch",)),
    Fault("seq-not-bumped", MAIN, r"kvm->mmu_invalidate_seq\+\+;", ";", ("fault-punch",)),
    Fault("no-block", TDX,
          r"err = tdh_do_no_vcpus\(tdh_mem_range_block, kvm, &kvm_tdx->td, gpa,\s+level, &entry,"
          r" &level_state\);", "err = entry = level_state = 0;", ZAP),
    Fault("track-before-block", TDX,
          r"(\terr = tdh_do_no_vcpus\(tdh_mem_range_block.*?\n\t\treturn -EIO;\n)(.*?)"
          r"\ttdx_track\(kvm\);\n", r"\ttdx_track(kvm);\n\1\2", ZAP),
    Fault("no-track", TDX, r"\ttdx_track\(kvm\);\n", "", ZAP),
    Fault("missing-kick-after-track", TDX,
          r"(TDX_BUG_ON\(err, TDH_MEM_TRACK, kvm\);\n\n)"
          r"\tkvm_make_all_cpus_request\(kvm, KVM_REQ_OUTSIDE_GUEST_MODE\);", r"\1", ZAP),
    Fault("missing-kick-of-no-vcpus", TDX,
          r"\t\tkvm_make_all_cpus_request\(kvm, KVM_REQ_OUTSIDE_GUEST_MODE\);\t*\\\n", "", ZAP),
    Fault("vcpus-not-kept-out", TDX, r"WRITE_ONCE\(__kvm_tdx->wait_for_sept_zap, true\);", ";",
          ZAP),
    Fault("vcpus-kept-out-for-ever", TDX, r"WRITE_ONCE\(__kvm_tdx->wait_for_sept_zap, false\);",
          ";", ZAP),
    Fault("aug-busy-is-fatal", TDX,
          r"(tdh_mem_page_aug\([^;]*;\n)\tif \(unlikely\(tdx_operand_busy\(err\)\)\)\n"
          r"\t\treturn -EBUSY;\n", r"\1", ("install-accept",)),
    Fault("sept-add-busy-is-fatal", TDX,
          r"(tdh_mem_sept_add\([^;]*;\n)\tif \(unlikely\(tdx_operand_busy\(err\)\)\)\n"
          r"\t\treturn -EBUSY;\n", r"\1", ("install-zero-step",)),
    Fault("no-remove", TDX,
          r"err = tdh_do_no_vcpus\(tdh_mem_page_remove, kvm, &kvm_tdx->td, gpa,\s+level, &entry,"
          r" &level_state\);", "err = entry = level_state = 0;", ("fault-punch", *ZAP)),
    Fault("busy-not-retried", TDX, r"if \(unlikely\(tdx_operand_busy\(__err\)\)\) \{", "if (0) {",
          ZAP),
    Fault("zap-one-page-more", TDP,
          r"(for_each_tdp_pte_min_level\(iter, kvm, root, PG_LEVEL_4K, start, end)\)", r"\1 + 1)",
          ("convert-fault",), "I21"),
    Fault("lost-table-not-freed", TDP, r"\t\t\ttdp_mmu_free_unused_sp\(sp\);", ";",
          ("fault-fault", "fault-neighbours"), "I6"),
    *(Fault(*fields) for fields in DIRECT),
)  # fmt: skip


def seed(fault: Fault, work: Kbuild, image: Path, scratch: Path) -> Path:
    """The image with the fault.

    :raises BuildError: the text to edit is not there, or the edit does not compile.
    """
    source = work.tree.path / fault.file
    text, count = re.subn(fault.old, fault.new, source.read_text(), flags=re.S)
    if not count:
        raise BuildError("the text that it edits is not in this tree")
    edited = scratch / source.name
    edited.write_text(text)
    target = scratch / f"{source.stem}.o"
    problem = work.compile(edited, target, f"-iquote {source.parent}", "-Wno-error")
    if problem:
        raise BuildError(next(s for s in problem.splitlines() if "error" in s))
    original = "-".join(Path(fault.file).with_suffix(".o").parts)
    command: list[str] = json.loads((image.parent / "link.json").read_text())
    exported = [f"--globalize-symbol={s}" for s in GLOBAL.get(target.name, ())]
    subprocess.run(["objcopy", *exported, str(target)], check=True)
    out = scratch / "image.elf"
    swapped = [str(target) if Path(word).name == original else word for word in command]
    swapped[swapped.index("-o") + 1] = str(out)
    subprocess.run(swapped, check=True, capture_output=True)
    return out


def check(code: Code, scenario: str, options: Options) -> CheckResult:
    """One row, until its first finding."""
    row = make(code.name, find(scenario), options, subject=KernelSubject(code))
    ((_, result),) = run_rows([row])
    return result


def main(arguments: Sequence[str]) -> int:
    strategy = "stateful" if "--stateful" in arguments else "optimal"
    arguments = [word for word in arguments if word != "--stateful"]
    tree = Path(arguments[0])
    seconds = float(arguments[1]) if len(arguments) > 1 else 20.0
    wanted = set(arguments[2:])
    made = build(tree).code
    work = Kbuild(read_tree(tree), made.image.parent.parent / "o", lambda _: None)
    found = total = 0
    for fault in FAULTS:
        if wanted and fault.name not in wanted:
            continue
        total += 1
        with tempfile.TemporaryDirectory() as scratch:
            try:
                image = seed(fault, work, made.image, Path(scratch))
            except BuildError as error:
                print(f"{fault.name:26} not seeded: {error}", flush=True)
                continue
            said = "MISSED"
            for name in fault.scenarios:
                options = Options(strategy, budget_s=seconds, first=not fault.rule)
                result = check(replace(made, name=fault.name, image=image), name, options)
                rule = result.finding.rule if result.finding else result.note[:80]
                rules = (rule, *result.other_findings)
                if result.verdict in ("violated", "error") and (fault.rule or rule) in rules:
                    runs = f"{result.executions} executions"
                    if result.states:
                        runs = f"{result.states} states"
                    said = f"found: {fault.rule or rule} in {name}, {runs}"
                    found += 1
                    break
        print(f"{fault.name:26} {said}", flush=True)
    print(f"{found} of {total} faults found, Linux {made.version}")
    return 0 if found == total else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
