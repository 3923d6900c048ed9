# SPDX-License-Identifier: GPL-2.0-only
"""From a tree to an image, cached by content."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from septum.native.code import Code
from septum.native.errors import BuildError
from septum.native.kbuild import CODE, Kbuild
from septum.native.link import link
from septum.native.tree import Tree, check_tools, read_tree

__all__ = ["Built", "build", "default_cache", "find_built", "own_digest"]


@dataclass(frozen=True, slots=True)
class Built:
    """An image that is ready to be loaded.

    :ivar seconds: what each stage took; empty if the image was there already.
    """

    code: Code
    seconds: dict[str, float]


def default_cache() -> Path:
    """Where builds are kept: the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "septum" / "kernel"


def own_digest() -> str:
    """Of the runtime, the glue, and what builds them."""
    digest = hashlib.sha256()
    for path in sorted([*CODE.iterdir(), *Path(__file__).parent.glob("*.py")]):
        if path.name in ("kbuild.py", "link.py", "stubs.py", "probes.py") or path.parent == CODE:
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def build(
    path: Path,
    *,
    cache: Path | None = None,
    clean: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Built:
    """Build, or find what was built.  Nothing is written into the tree.

    :param cache: directory of all builds (default: the user's cache).
    :param clean: forget what was built before.
    :raises BuildError: one clear message.
    """
    tree = read_tree(path)
    name = hashlib.sha256(str(tree.path).encode()).hexdigest()[:12]
    home = (cache or default_cache()) / f"{tree.version}-{name}"
    if clean and home.exists():
        check_tools()  # or there would be nothing left to run
        shutil.rmtree(home)
    record = home / "built.json"
    image = home / "image" / "image.elf"
    key = {"tree": tree.digest(), "septum": own_digest()}
    code = Code(f"linux-{tree.version}", image, tree.path, str(path), tree.version, key["tree"])
    known = _read(record)
    if image.exists() and all(known.get(k) == v for k, v in key.items()):
        return Built(code, {})
    check_tools()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with _alone(home, progress):
            return Built(code, _make(tree, home, key, progress))
    except OSError as error:
        raise BuildError(
            f"{home}: {error.strerror}: free some space or set XDG_CACHE_HOME"
        ) from None


def _make(
    tree: Tree, home: Path, key: Mapping[str, str], progress: Callable[[str], None]
) -> dict[str, float]:
    """Compile and link in ``home``; what each stage took."""
    record, fragment = home / "built.json", _fragment()
    known = _read(record)
    image = home / "image" / "image.elf"
    if image.exists() and all(known.get(k) == v for k, v in key.items()):
        return {}  # somebody else has made it meanwhile
    if known.get("fragment") != fragment and (home / "o").exists():
        shutil.rmtree(home / "o")
    work = Kbuild(tree, home / "o", progress)
    objects = work.run(compiled=known.get("compiled") == key["tree"])
    record.write_text(json.dumps({"fragment": fragment, "compiled": key["tree"]}))
    progress("link")
    begun = perf_counter()
    link(work, objects, home / "image")
    work.seconds["link"] = perf_counter() - begun
    about = {"path": str(tree.path), "version": tree.version, "fragment": fragment}
    record.write_text(json.dumps({**key, **about, "compiled": key["tree"]}))
    return work.seconds


@contextmanager
def _alone(home: Path, progress: Callable[[str], None]) -> Iterator[None]:
    """One process at a time builds there."""
    with (home / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("another process builds this tree: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def find_built(content: str, *, cache: Path | None = None) -> Code | None:
    """The image that was built from what a tree once held; None if it is not there, or was
    built by another septum.  Its ``tree`` is empty: nobody has named one.

    :param content: `Code.content`.
    """
    for record in sorted((cache or default_cache()).glob("*/built.json")):
        known = _read(record)
        image = record.parent / "image" / "image.elf"
        same = known.get("tree") == content and known.get("septum") == own_digest()
        if same and image.exists() and "path" in known:
            version = known.get("version", "")
            return Code(f"linux-{version}", image, Path(known["path"]), "", version, content)
    return None


def _fragment() -> str:
    names = ("fragment.config", "relax.h", "vm_dead.h")
    parts = (*(CODE / name for name in names), CODE.parent / "kbuild.py")
    return hashlib.sha256(b"".join(p.read_bytes() for p in parts)).hexdigest()


def _read(record: Path) -> dict[str, str]:
    try:
        data = json.loads(record.read_text())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
