"""RunPod's own description of its REST API v2 (``api-reference-v2/openapi.json`` of
github.com/runpod/docs), for tests.

``RUNPOD_API_DOCUMENT`` names a copy. Without it, what needs it is skipped, with the reason
``skipped: no RUNPOD_API_DOCUMENT``.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

Schema = dict[str, Any]


class RunPodDocument:
    """The description, whose schemas are JSON Schema as they are (OpenAPI 3.1).

    Raises `pytest.skip.Exception` if no copy is named.
    """

    def __init__(self) -> None:
        named = os.environ.get("RUNPOD_API_DOCUMENT")
        if named is None:
            pytest.skip("skipped: no RUNPOD_API_DOCUMENT")
        self.content: Schema = json.loads(Path(named).read_text(encoding="utf-8"))

    @classmethod
    def if_named(cls) -> RunPodDocument | None:
        """It, or ``None`` without a copy."""
        return cls() if "RUNPOD_API_DOCUMENT" in os.environ else None

    def fields(self, name: str) -> set[str]:
        """The keys that a schema knows, with those of the schemas that it is made of."""
        return self._fields({"$ref": f"#/components/schemas/{name}"})

    def _fields(self, schema: Schema) -> set[str]:
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            return self._fields(self.content["components"]["schemas"][name])
        found = set(schema.get("properties", {}))
        for part in schema.get("allOf", []):
            found |= self._fields(part)
        return found

    def problems(self, name: str, value: object, *, closed: bool = True) -> list[str]:
        """Why a value is none of a schema's, a line each.

        Args:
            closed: Whether keys that the schema does not name are a problem as well.
        """
        schema: Schema = {"$ref": f"#/components/schemas/{name}"}
        if closed:
            schema["unevaluatedProperties"] = False
        return self._problems(schema, value)

    def problems_of_request(self, method: str, path: str, body: object) -> list[str]:
        """Why the body of a request is not one that its operation takes."""
        content = self._operation(method, path)["requestBody"]["content"]
        return self._problems(content["application/json"]["schema"], body)

    def problems_of_answer(self, method: str, path: str, status: int, body: object) -> list[str]:
        """Why an answer is none of those that its operation gives."""
        responses = self._operation(method, path)["responses"]
        answer = responses.get(str(status), responses["default"])
        if "$ref" in answer:
            answer = self.content["components"]["responses"][answer["$ref"].rpartition("/")[2]]
        if "content" not in answer:
            return [] if body is None else [f"{method} {path} {status} has no body"]
        (content,) = answer["content"].values()
        return self._problems({**content["schema"], "unevaluatedProperties": False}, body)

    def _operation(self, method: str, path: str) -> Schema:
        for known, item in self.content["paths"].items():
            if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", known), path) and method.lower() in item:
                found: Schema = item[method.lower()]
                return found
        raise AssertionError(f"the document has no {method} {path}")

    def _problems(self, schema: Schema, value: object) -> list[str]:
        jsonschema = pytest.importorskip("jsonschema")
        validator = jsonschema.Draft202012Validator(
            {**schema, "components": self.content["components"]}
        )
        return [f"{each.json_path}: {each.message}" for each in validator.iter_errors(value)]
