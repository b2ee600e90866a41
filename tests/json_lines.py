"""The published schema of the lines of ``--json``, as tests hold output to it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

__all__ = ["SCHEMA", "check_lines", "events_of_schema"]

_FILE = Path(__file__).parents[1] / "comfy_remote" / "cli" / "json_lines.schema.json"
SCHEMA: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))


def events_of_schema() -> set[str]:
    """The names of all events in it."""
    kinds = [one for one in SCHEMA["$defs"].values() if "properties" in one]
    return {k["properties"]["event"]["const"] for k in kinds if "event" in k["properties"]}


def _strict(node: Any) -> Any:
    """The same schema, which allows no key that it does not name."""
    if isinstance(node, list):
        return [_strict(one) for one in node]
    if not isinstance(node, dict):
        return node
    made = {key: _strict(value) for key, value in node.items()}
    if isinstance(node.get("properties"), dict) and node.get("type") == "object":
        made.setdefault("additionalProperties", False)
    return made


_VALIDATOR = Draft202012Validator(_strict(SCHEMA))
_BY_EVENT = {
    kind["properties"]["event"]["const"]: Draft202012Validator(
        {"$ref": f"#/$defs/{name}", "$defs": _strict(SCHEMA)["$defs"]}
    )
    for name, kind in SCHEMA["$defs"].items()
    if "event" in kind.get("properties", {})
}


def check_lines(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The lines, each of which is in the schema, with no key more than that.

    Documents of other commands have no ``event``, and pass.
    """
    read = [json.loads(line) for line in lines]
    for line in [one for one in read if "event" in one]:
        _BY_EVENT[line["event"]].validate(line)  # says what is wrong
        _VALIDATOR.validate(line)
    return read
