# SPDX-License-Identifier: GPL-2.0-only
"""Looking designs up: names, toggles, files, classes, and what is said when it fails."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from septum.designs import DesignError, design_names, diff, lookup, registry
from septum.designs.calls import check_calls
from septum.designs.registry import Toggle
from septum.designs.v7_3 import handle_removed_pt
from septum.kvm.structs import Functions
from septum.kvm.tdx_sept import tdx_track

MINE = """
NAME = "mine"

def __handle_changed_spte(kvm, sp, gfn, old_spte, new_spte, level, shared):
    return helper()

def helper():
    return 7
"""

CLASS = '''
class Mine:
    """As a class."""

    PREDECESSOR = "v7.3"

    @staticmethod
    def __handle_changed_spte(kvm, *args):
        return 7

    @staticmethod
    def handle_changed_spte(kvm, *args):
        return kvm.fn.__handle_changed_spte(kvm, *args)
'''


def test_the_chain_ends_in_v7_3() -> None:
    assert "v7.3" in design_names()
    design = lookup("v7.3")
    names, base = [], design.predecessor
    while base is not None:
        names.append(base.name)
        base = base.predecessor
    assert names == ["feb10-sp", "feb06", "rfc-v5", "rfc-v5-08", "v6.16"]
    assert lookup("void-callback").predecessor is None
    assert "link_external_spt" in lookup("v6.16").functions
    assert "link_external_spt" not in design.functions  # DROPS of rfc-v5-08
    assert design.functions["tdx_track"] is tdx_track  # ALSO of rfc-v5-08
    assert design.functions["handle_removed_pt"] is handle_removed_pt
    assert "__handle_changed_spte" in design.own
    assert "kvm_tdp_mmu_map" in design.functions and "kvm_tdp_mmu_map" not in design.own


def test_design_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    design = lookup(str(path))
    assert (design.name, design.predecessor.name if design.predecessor else "") == ("mine", "v7.3")
    assert design.functions["__handle_changed_spte"](*[None] * 7) == 7
    assert design.functions["handle_removed_pt"] is handle_removed_pt
    assert design.capabilities == lookup("v7.3").capabilities
    assert any("+    return helper()" in line for line in diff(lookup("v7.3"), design))


def test_design_from_a_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_designs.py").write_text(CLASS)
    monkeypatch.syspath_prepend(str(tmp_path))
    design = lookup("my_designs:Mine")
    sys.modules.pop("my_designs")
    kvm = type("Kvm", (), {"fn": Functions(design.functions)})()
    assert design.functions["handle_changed_spte"](kvm) == 7
    assert design.doc == "As a class."


def test_toggles_compose_from_left_to_right(monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(by: int) -> Toggle:
        def apply(base: Mapping[str, Any]) -> dict[str, Any]:
            inner = base.get("count", lambda: 1)
            return {"count": lambda: inner() * 10 + by}

        return Toggle(f"times-{by}", apply, "test")

    toggles = {t.name: t for t in (counted(2), counted(5))}
    monkeypatch.setattr(registry, "_toggles", lambda: toggles)
    design = lookup("v7.3+times-2+times-5")
    assert design.name == "v7.3+times-2+times-5"
    assert design.functions["count"]() == 125
    assert [t.name for t in design.toggles] == ["times-2", "times-5"]
    with pytest.raises(DesignError, match=r"no toggle 'time-2' \(nearest: times-2"):
        lookup("v7.3+time-2")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("v7.2", r"no design 'v7.2' \(nearest: v7.3"),
        ("nowhere.py", "nowhere.py: no such file"),
        ("no_such_module:Mine", "expected an importable package.module:Class"),
        ("septum.kvm.structs:Kvn", r"no class 'Kvn' \(nearest: Kvm"),
    ],
)
def test_errors_name_what_is_near(spec: str, message: str) -> None:
    with pytest.raises(DesignError, match=message):
        lookup(spec)


def test_a_file_that_replaces_nothing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "typo.py"
    path.write_text("def handle_change_spte(kvm):\n    pass\n")
    with pytest.raises(DesignError, match="nearest: handle_changed_spte"):
        lookup(str(path))
    path.write_text("def f(:\n")
    with pytest.raises(DesignError, match="cannot be imported: SyntaxError"):
        lookup(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "def tdp_mmu_set_spte_atomic(kvm, iter):\n    return 0\n",
            r"mine.py:1: tdp_mmu_set_spte_atomic\(kvm, iter\) does not fit the call in "
            r"\w+\(\): too many.*; take \(kvm, iter, new_spte\) as in v7.3",
        ),
        (
            "import os\n\n\ndef tdx_track(kvm):\n    return kvm.fn.tdx_trac(kvm)\n",
            r"mine.py:5: there is no kernel function 'tdx_trac' \(nearest: tdx_track",
        ),
        (
            "def tdx_track(kvm):\n    fn = kvm.fn\n    return fn.handle_removed_pt(kvm)\n",
            r"mine.py:3: handle_removed_pt\(kvm, pt, shared\) is called wrongly: missing",
        ),
        (
            "def kvm_unmap_gfn_range(kvm):\n    return 0\n",
            r"mine.py:1: kvm_unmap_gfn_range\(kvm\) does not fit ",
        ),
        ("x = 1\ndef f(:\n", "mine.py:2: cannot be imported: SyntaxError"),
        ("\n\nimport nowhere_at_all\n", "mine.py:3: .*No module named .* install that module"),
        (
            "\nfrom septum.kvm.spte import is_frozen_sptes\n",
            r"mine.py:2: .*septum.kvm.spte has no 'is_frozen_sptes' \(nearest: is_frozen_spte",
        ),
        ("x = {}\nx['y']\n", "mine.py:2: cannot be imported: KeyError: 'y'"),
        ("PREDECESSOR = 'v9'\n", "mine.py: PREDECESSOR: no design 'v9'"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(DesignError, match=message):
        lookup(str(path))


def test_a_signature_may_change_with_all_its_callers(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "def __tdp_mmu_set_spte_atomic(kvm, iter, new_spte, why='', *rest):\n    return 0\n"
    )
    assert "__tdp_mmu_set_spte_atomic" in lookup(str(path)).own


@pytest.mark.parametrize("name", design_names())
def test_the_calls_of_this_package_are_found_right(name: str) -> None:
    whole = lookup(name).functions
    assert check_calls(whole, {}, "") is None


TREE = Path(os.environ.get("SEPTUM_LINUX") or "/nowhere")
DOCS = Path(__file__).parents[2] / "docs"


def own_names() -> set[str]:
    """Functions that docs/model.md says the kernel has inline."""
    text = (DOCS / "model.md").read_text()
    section = text.split("\n## Names\n")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `(\w+)\(\)` \|", section, re.M))


def test_names_of_our_own_are_functions_of_the_model() -> None:
    assert own_names() and own_names() <= set(lookup("v7.3").functions)


@pytest.mark.skipif(not TREE.is_dir(), reason="no kernel tree: set SEPTUM_LINUX to one")
def test_every_other_function_of_v7_3_is_one_of_the_kernel() -> None:
    below = ("arch/x86/kvm", "virt/kvm", "arch/x86/virt/vmx/tdx", "arch/x86/include/asm")
    files = [f for d in below for f in (TREE / d).rglob("*.[ch]")]
    files += (TREE / "include/linux").glob("kvm*.h")
    words = {w for f in files for w in re.findall(r"\w+", f.read_text(errors="replace"))}
    assert {name for name in lookup("v7.3").functions if name not in words} == own_names()
