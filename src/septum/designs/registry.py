# SPDX-License-Identifier: GPL-2.0-only
"""Finding designs: by name, with toggles, from a file or from a class.

* ``v7.3``: a design of this package (a module with ``NAME``).
* ``v7.3+shared-param``: toggles on any base, applied from left to right.
* ``path/to/mine.py``: module-level functions, and optionally ``NAME``, ``PREDECESSOR``
  (default ``v7.3``) and ``CAPABILITIES``.
* ``package.module:Class``: the same as static methods and attributes of a class.

A module that takes functions over unchanged, from the floor or from another design, names
them in ``ALSO``; names that its patch removes are in ``DROPS``.

A toggle is a function from the base's functions to those it replaces, so it may wrap
them; modules of this package list theirs in ``TOGGLES``.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Final

from septum.designs.calls import check_calls, nearest
from septum.kvm.functions import FUNCTIONS

__all__ = [
    "Design",
    "DesignError",
    "Toggle",
    "design_names",
    "diff",
    "load_file",
    "lookup",
    "toggle_names",
]

Function = Callable[..., Any]

DEFAULT_PREDECESSOR: Final = "v7.3"


class DesignError(Exception):
    """No such design, or one that cannot be used; the message says what to do next."""


@dataclass(frozen=True, slots=True)
class Toggle:
    """One suggestion or mutation, applicable to any design.

    :param apply: from the functions of the base to the replacements.
    :param kind: ``toggle`` (facts 6.9) or ``mutant``.
    :param capabilities: what designs with it can do in addition.
    """

    name: str
    apply: Callable[[Mapping[str, Function]], Mapping[str, Function]]
    doc: str
    kind: str = "toggle"
    capabilities: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Design:
    """A protocol: what differs from its predecessor, and what it can do.

    :ivar own: the functions that its own patch touches.
    """

    name: str
    predecessor: Design | None
    own: Mapping[str, Function]
    capabilities: frozenset[str]
    doc: str
    toggles: tuple[Toggle, ...] = ()
    chain: Mapping[str, Function] = field(default_factory=dict)

    @property
    def functions(self) -> dict[str, Function]:
        """Every kernel function as this design has it: `septum.kvm.structs.Kvm`'s."""
        return {**FUNCTIONS, **self.chain}


# --- what this package holds ------------------------------------------------------------


@cache
def _modules() -> dict[str, ModuleType]:
    import septum.designs as package

    found = {}
    for info in pkgutil.iter_modules(package.__path__):
        if info.name != "registry":
            found[info.name] = importlib.import_module(f"{package.__name__}.{info.name}")
    return found


@cache
def _builtin() -> dict[str, ModuleType]:
    return {m.NAME: m for m in _modules().values() if isinstance(getattr(m, "NAME", None), str)}


@cache
def _toggles() -> dict[str, Toggle]:
    return {t.name: t for m in _modules().values() for t in getattr(m, "TOGGLES", ())}


def design_names() -> list[str]:
    return sorted(_builtin())


def toggle_names(kind: str = "toggle") -> list[str]:
    return sorted(name for name, t in _toggles().items() if t.kind == kind)


# --- lookup -------------------------------------------------------------------------------


def lookup(spec: str) -> Design:
    """The design that ``spec`` names (see the module's docstring)."""
    base, *toggles = spec.split("+")
    if base.endswith(".py"):
        design = _from_file(Path(base))
    elif ":" in base:
        design = _from_class(base)
    else:
        design = _named(base)
    for name in toggles:
        design = _toggled(design, name)
    return design


@cache
def _named(name: str) -> Design:
    module = _builtin().get(name)
    if module is None and name and Path(name).exists():
        raise DesignError(f"{name}: no design: the name of a design's file ends in .py")
    if module is None:
        raise DesignError(
            f"no design {name!r}{nearest(name, design_names())}; `septum designs` lists them"
        )
    return _make(name, module.PREDECESSOR, _functions_of(module), vars(module))


def _make(
    name: str, predecessor: str | None, own: dict[str, Function], meta: Mapping[str, Any]
) -> Design:
    base = lookup(predecessor) if predecessor is not None else None
    inherited: Mapping[str, Function] = base.chain if base is not None else {}
    own = {**{f.__name__: f for f in meta.get("ALSO", ())}, **own}
    drops = frozenset(meta.get("DROPS", ()))
    capabilities = meta.get("CAPABILITIES")
    if capabilities is None:
        capabilities = base.capabilities if base is not None else ()
    return Design(
        name=name,
        predecessor=base,
        own=own,
        capabilities=frozenset(capabilities),
        doc=inspect.cleandoc(meta.get("__doc__") or ""),
        chain={**{n: f for n, f in inherited.items() if n not in drops}, **own},
    )


def _toggled(base: Design, name: str) -> Design:
    toggle = _toggles().get(name)
    if toggle is None:
        raise DesignError(
            f"no toggle {name!r}{nearest(name, [*_toggles()])}; `septum designs` lists them"
        )
    own = dict(toggle.apply(base.functions))
    return Design(
        name=f"{base.name}+{name}",
        predecessor=base,
        own=own,
        capabilities=base.capabilities | toggle.capabilities,
        doc=toggle.doc,
        toggles=(*base.toggles, toggle),
        chain={**base.chain, **own},
    )


def _functions_of(module: ModuleType) -> dict[str, Function]:
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, FunctionType) and value.__module__ == module.__name__
    }


# --- the user's own -------------------------------------------------------------------------


def load_file(path: Path) -> ModuleType:
    """Import a user's file.

    :raises DesignError: where and why that fails.
    """
    if not path.is_file():
        raise DesignError(f"{path}: no such file")
    name = re.sub(r"\W", "_", path.stem)
    module_spec = importlib.util.spec_from_file_location(f"septum_user_design_{name}", path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        line = _line_of(error, module_spec.origin or "")
        raise DesignError(
            f"{path}{f':{line}' if line else ''}: cannot be imported: {_what_failed(error)}"
        ) from error
    return module


def _from_file(path: Path) -> Design:
    module = load_file(path)
    return _users(str(path), path.stem, _functions_of(module), vars(module))


def _line_of(error: Exception, filename: str) -> int | None:
    """The line of the file at which importing it failed."""
    if isinstance(error, SyntaxError) and error.filename == filename:
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((f.lineno for f in reversed(frames) if f.filename == filename), None)


def _what_failed(error: Exception) -> str:
    kind = type(error).__name__
    if isinstance(error, SyntaxError):
        return f"{kind}: {error.msg}; a design file is Python with functions named as in the kernel"
    if isinstance(error, ModuleNotFoundError):
        return f"{kind}: {error}; install that module, or do without it"
    found = re.fullmatch(r"cannot import name '(\w+)' from '([\w.]+)'.*", str(error))
    if isinstance(error, ImportError) and found:
        near = nearest(found[1], dir(sys.modules.get(found[2])))
        return f"{kind}: {found[2]} has no {found[1]!r}{near}"
    return f"{kind}: {error}; what stands outside functions runs when the file is read"


def _from_class(spec: str) -> Design:
    module_name, _, class_name = spec.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise DesignError(
            f"{spec}: {error}; expected an importable package.module:Class"
        ) from error
    except Exception as error:
        raise DesignError(f"{spec}: cannot be imported: {_what_failed(error)}") from error
    cls = getattr(module, class_name, None)
    if not isinstance(cls, type):
        classes = [n for n, v in vars(module).items() if isinstance(v, type)]
        raise DesignError(
            f"{spec}: {module_name} has no class {class_name!r}{nearest(class_name, classes)}"
        )
    prefix = f"_{class_name.lstrip('_')}__"
    own: dict[str, Function] = {}
    meta: dict[str, Any] = {}
    for name, value in vars(cls).items():
        function = value.__func__ if isinstance(value, staticmethod) else value
        if isinstance(function, FunctionType):
            # Python mangles __handle_changed_spte inside a class body.
            own[f"__{name.removeprefix(prefix)}" if name.startswith(prefix) else name] = function
        else:
            meta[name] = value
    return _users(spec, class_name, own, meta)


def _users(
    where: str, default_name: str, own: dict[str, Function], meta: Mapping[str, Any]
) -> Design:
    predecessor = meta.get("PREDECESSOR", DEFAULT_PREDECESSOR)
    name = meta.get("NAME", default_name)
    if not isinstance(predecessor, str) or not isinstance(name, str):
        raise DesignError(f"{where}: NAME and PREDECESSOR must be strings")
    try:
        known = lookup(predecessor).functions
    except DesignError as error:
        raise DesignError(f"{where}: PREDECESSOR: {error}") from error
    if not any(function in known for function in own):
        near = nearest(next(iter(own), ""), list(known))
        raise DesignError(
            f"{where}: replaces no function of {predecessor}{near}; "
            f"define a function named as one of its, e.g. tdp_mmu_set_spte_atomic"
        )
    wrong = check_calls(own, known, predecessor)
    if wrong is not None:
        raise DesignError(f"{where}:{wrong[0]}: {wrong[1]}")
    return _make(name, predecessor, own, meta)


# --- comparing ------------------------------------------------------------------------------


def diff(a: Design, b: Design) -> Iterator[str]:
    """Unified diff of every function in which the two differ."""
    of_a, of_b = a.functions, b.functions
    for name in sorted(of_a.keys() | of_b.keys()):
        if of_a.get(name) is not of_b.get(name):
            yield from difflib.unified_diff(
                _source(of_a.get(name)),
                _source(of_b.get(name)),
                f"{a.name}/{name}",
                f"{b.name}/{name}",
                lineterm="",
            )


def _source(function: Function | None) -> list[str]:
    return inspect.getsource(function).splitlines() if function is not None else []
