# SPDX-License-Identifier: GPL-2.0-only
"""Trees that cannot be built, and what needs no kernel tree to be tested."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from septum.cli import main
from septum.machine.geometry import Geometry
from septum.native.build import build, find_built, own_digest
from septum.native.diff_operations import _difference, start_trees
from septum.native.errors import BuildError
from septum.native.kbuild import Kbuild, before
from septum.native.link import _run
from septum.native.operations import EVERYTHING, bind, real_end, real_gfn, removals, unsupported
from septum.native.stubs import assembler, rename_table
from septum.native.tree import check_tools, read_tree
from septum.scenarios.model import Op, TaskSpec, op, run_vcpu
from septum.scenarios.suite import SCENARIOS, find

KERNEL = ("Kbuild", "arch/x86/Kconfig", "virt/kvm/kvm_main.c")
TDX = ("arch/x86/kvm/vmx/tdx.c", "arch/x86/virt/vmx/tdx/tdx.c")
OPS = "arch/x86/include/asm/kvm-x86-ops.h"


def make_tree(at: Path, *files: str, ops: str = "set_external_spte") -> Path:
    for name in files:
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        (at / name).write_text("")
    if OPS in files:
        (at / OPS).write_text(ops)
    (at / "Makefile").write_text("VERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 4\nEXTRAVERSION = -rc1\n")
    return at


def test_a_good_tree(tmp_path: Path) -> None:
    tree = read_tree(make_tree(tmp_path, *KERNEL, *TDX, OPS))
    assert (tree.version, tree.dirty) == ("7.3.4-rc1", False)
    before = tree.digest()
    (tmp_path / TDX[0]).write_text("int changed;")
    assert tree.digest() != before
    (tmp_path / ".config").write_text("")
    assert read_tree(tmp_path).dirty


@pytest.mark.parametrize(
    ("files", "ops", "message"),
    [
        ((), "", "not a kernel source tree"),
        (KERNEL, "", "cannot host TDs"),
        ((*KERNEL, *TDX, OPS), "KVM_X86_OP(vcpu_run)", "is too old"),
    ],
)
def test_bad_trees(tmp_path: Path, files: tuple[str, ...], ops: str, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        read_tree(make_tree(tmp_path, *files, ops=ops))


def test_missing_tools_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(BuildError, match=r"missing build tools: make, gcc.*apt install make gcc"):
        check_tools()


def test_the_command_says_it_in_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["kernel", "build", "--linux", str(tmp_path / "no")])
    assert result.exit_code == 2
    assert "no such directory" in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_gfns_share_tables_as_in_the_scenario() -> None:
    small = Geometry(bits=1, levels=3)
    assert [real_gfn(small, g) for g in range(4)] == [0, 1, 0x200, 0x201]
    assert real_end(small, 4) == 0x202
    for one in range(8):
        for other in range(8):
            for level in (1, 2, 3):
                together = one >> level == other >> level
                real = real_gfn(small, one) >> 9 * level == real_gfn(small, other) >> 9 * level
                assert together == real


def test_operations_become_calls() -> None:
    small = Geometry(bits=1, levels=3)
    assert bind(small, 1, op("fault", 2)) == ("septum_op_fault", (1, 0x200), ())
    assert bind(small, -1, op("punch_hole", 0, 3)) == ("septum_op_punch_hole", (0, 0x201), ())
    _, arguments, program = bind(small, 0, run_vcpu(op("accept", 3)))
    assert arguments == (0,)
    assert [(g.op, g.gfn) for g in program] == [("accept", 0x201)]


@pytest.mark.parametrize(
    ("ops", "ranges"),
    [
        ((op("fault", 0),), ()),
        ((op("zap_leafs", 0, 1), op("punch_hole", 2, 4)), ((0, 1), (0x200, 0x202))),
        ((op("set_attributes", 0, 1, 0),), ((0, 1),)),
        ((op("set_attributes", 0, 1, 1),), ()),
        ((op("fault", 0), op("delete_slot", 0)), (EVERYTHING,)),
    ],
)
def test_what_a_task_is_there_to_remove(
    ops: tuple[Op, ...], ranges: tuple[tuple[int, int], ...]
) -> None:
    assert removals(Geometry(bits=1, levels=3), ops) == ranges


def test_what_is_not_offered_says_so() -> None:
    assert not unsupported(find("fault-fault"))
    merging = replace(find("fault-fault"), tasks=(TaskSpec("host", (op("merge", 0),)),))
    assert "operation merge" in unsupported(merging)
    offered = [s.name for s in SCENARIOS.values() if not unsupported(s)]
    assert {"fault-punch", "install-accept", "zap-accept", "vm-dies"} <= set(offered)


def test_stubs() -> None:
    text = assembler(
        ["__SCT__kvm_x86_get_mt_mask", "finish_me", "put_pid", "__kmalloc_noprof"],
        ["nr_things"],
        {"get_mt_mask": 64},
    )
    assert "jmp *kvm_x86_ops+64" in text
    assert '.asciz "finish_me"' in text
    assert "jmp septum_kmalloc" in text
    assert "nr_things: .skip 4096" in text
    assert '"put_pid"' not in text  # quiet: no report
    assert rename_table(["septum_m_kfree", "septum_cpu"]) == {"septum_m_kfree": "kfree"}


# --- builds that fail ------------------------------------------------------------------------


def good_tree(at: Path) -> Path:
    return make_tree(at, *KERNEL, *TDX, OPS)


def test_a_file_is_no_tree(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match="not a directory: give the top"):
        read_tree(tmp_path / "file")


COMPILER = """\
  CC      arch/x86/kvm/mmu/tdp_mmu.o
{tree}/arch/x86/kvm/mmu/tdp_mmu.c: In function 'f':
{tree}/arch/x86/kvm/mmu/tdp_mmu.c:655:3: error: expected ';' before 'return'
  655 |   return 0
      |   ^~~~~~
make[3]: *** [scripts/Makefile.build:287: arch/x86/kvm/mmu/tdp_mmu.o] Error 1
"""


def test_a_patch_that_does_not_compile_gives_the_compilers_own_message(tmp_path: Path) -> None:
    tree = read_tree(good_tree(tmp_path))
    build = Kbuild(tree, tmp_path / "o", lambda _: None)
    said = build._failure("compile", COMPILER.format(tree=tree.path).splitlines(keepends=True))
    assert said.splitlines()[:3] == [
        f"{tree.path}: compile failed:",
        "arch/x86/kvm/mmu/tdp_mmu.c:655:3: error: expected ';' before 'return'",
        "  655 |   return 0",
    ]


@pytest.mark.parametrize("words", ["No space left on device", "Disk quota exceeded"])
def test_the_disk_is_full(tmp_path: Path, words: str) -> None:
    tree = read_tree(good_tree(tmp_path / "tree"))
    build = Kbuild(tree, tmp_path / "o", lambda _: None)
    full = "the disk is full; a build needs about 150 MB"
    assert full in build._failure("compile", [f"cc1: error: tdp_mmu.o: {words}\n"])
    tool = tmp_path / "tool"
    tool.write_text(f"#!/bin/sh\necho ld: final link failed: {words} >&2; exit 1\n")
    tool.chmod(0o755)
    with pytest.raises(BuildError, match=full):
        _run([str(tool), "-o", str(tmp_path / "image.elf")])


def test_a_full_cache_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: Kbuild, *, compiled: bool) -> list[Path]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Kbuild, "run", run)
    monkeypatch.setattr("septum.native.build.check_tools", lambda: None)
    with pytest.raises(BuildError, match="No space left on device: free some space"):
        build(good_tree(tmp_path / "tree"), cache=tmp_path / "cache")


def test_clean_leaves_a_build_that_could_not_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = good_tree(tmp_path / "tree")
    name = hashlib.sha256(str(tree.resolve()).encode()).hexdigest()[:12]
    kept = tmp_path / "cache" / f"7.3.4-rc1-{name}" / "image"
    kept.mkdir(parents=True)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(BuildError, match="missing build tools"):
        build(tree, cache=tmp_path / "cache", clean=True)
    assert kept.exists()


def test_a_tree_with_an_in_tree_build_is_linked_to_without_what_was_generated(
    tmp_path: Path,
) -> None:
    at = good_tree(tmp_path / "tree")
    made = (".config", "include/config/KVM", "arch/x86/include/generated/asm/x.h")
    for name in made:
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        (at / name).write_text("made by a build")
    tree = read_tree(at)
    assert tree.dirty
    farm = Kbuild(tree, tmp_path / "o", lambda _: None)._farm()
    assert (farm / TDX[0]).is_symlink()
    assert not any((farm / name).exists() for name in made)
    assert all((at / name).read_text() == "made by a build" for name in made)


def test_an_image_is_found_by_what_its_tree_held(tmp_path: Path) -> None:
    home = tmp_path / "7.3.4-abc"
    (home / "image").mkdir(parents=True)
    (home / "image" / "image.elf").write_text("")
    record = {"tree": "c0ffee", "septum": own_digest(), "path": "/linux", "version": "7.3.4"}
    (home / "built.json").write_text(json.dumps(record))
    found = find_built("c0ffee", cache=tmp_path)
    assert found is not None
    assert (found.name, found.source) == ("linux-7.3.4", Path("/linux"))
    assert find_built("decaf", cache=tmp_path) is None
    (home / "built.json").write_text(json.dumps(record | {"septum": "another"}))
    assert find_built("c0ffee", cache=tmp_path) is None


def test_content_does_not_depend_on_where_a_tree_lies(tmp_path: Path) -> None:
    one, other = good_tree(tmp_path / "one"), good_tree(tmp_path / "other")
    assert read_tree(one).digest() == read_tree(other).digest()
    (other / OPS).write_text("set_external_spte /* edited */")
    assert read_tree(one).digest() != read_tree(other).digest()


@pytest.mark.parametrize(
    ("file", "header"),
    [
        ("arch/x86/kvm/mmu/tdp_mmu.c", "relax.h"),
        ("arch/x86/kvm/mmu/mmu.o", "relax.h"),
        ("arch/x86/kvm/vmx/tdx.c", "vm_dead.h"),
        ("virt/kvm/kvm_main.c", "vm_dead.h"),
        ("arch/x86/virt/vmx/tdx/tdx.c", ""),
        ("arch/x86/kvm/mmu/spte.c", ""),
    ],
)
def test_what_comes_before_a_file_of_the_kernel(file: str, header: str) -> None:
    assert [flag.rpartition("/")[2] for flag in before(file)] == ([header] if header else [])


def test_small_start_trees_are_enumerated() -> None:
    """Three states of four pages; before finalization, two."""
    trees = start_trees()
    assert len(trees) == len(set(trees)) == 3**4 + 2**4
    assert all(set(tree.accepted) <= set(tree.mapped) for tree in trees)


def test_the_first_difference_is_told_with_what_led_to_it() -> None:
    same = [("SPTE", 1, 0, "none", "frozen"), ("SEAMCALL", "TDH.MEM.PAGE.AUG", "TDX_SUCCESS")]
    assert _difference(("v7.3", "linux"), same, list(same)) == ""
    told = _difference(("v7.3", "linux"), [*same, ("RETURN", "ok")], same)
    assert told.splitlines() == [
        "step 2: v7.3: RETURN ok; linux: nothing more",
        "  after:",
        "  SPTE 1 0 none frozen",
        "  SEAMCALL TDH.MEM.PAGE.AUG TDX_SUCCESS",
    ]
