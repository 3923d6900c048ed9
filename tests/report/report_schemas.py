# SPDX-License-Identifier: GPL-2.0-only
"""Validation against docs/schemas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"


def _read(name: str) -> Any:
    return json.loads((SCHEMAS / f"{name}.json").read_text())


def validate(name: str, document: Any) -> None:
    """``document`` follows docs/schemas/NAME.json."""
    resources = [Resource.from_contents(_read(path.stem)) for path in SCHEMAS.glob("*.json")]
    registry: Registry[Any] = Registry().with_resources(
        [(resource.contents["$id"], resource) for resource in resources]
    )
    schema = _read(name)
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema, registry=registry).validate(document)
