"""Comfy API v2's own description (``openapi-v2.yaml`` of github.com/Comfy-Org/docs), for tests.

``COMFY_API_DOCUMENT`` names a copy. Without it, what needs it is skipped, with the reason
``skipped: no COMFY_API_DOCUMENT``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

Schema = dict[str, Any]

BEYOND = {"Job": {"metadata"}}
"""Keys of answers that only comfy-sdk 0.5.0 reads, by schema."""


class Document:
    """The description, with its references resolved where it is asked.

    Raises `pytest.skip.Exception` if no copy is named.
    """

    def __init__(self) -> None:
        named = os.environ.get("COMFY_API_DOCUMENT")
        if named is None:
            pytest.skip("skipped: no COMFY_API_DOCUMENT")
        yaml = pytest.importorskip("yaml")
        self.content: Schema = yaml.safe_load(Path(named).read_text(encoding="utf-8"))

    @property
    def schemas(self) -> dict[str, Schema]:
        """By name."""
        return self.content["components"]["schemas"]

    def resolved(self, found: Schema) -> Schema:
        """What a reference leads to; anything else as it is."""
        if "$ref" not in found:
            return found
        target: Any = self.content
        for part in found["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return self.resolved(target)

    def json_schema(self, schema: Schema) -> Schema:
        """A schema of OpenAPI 3.0 as one of JSON Schema: closed, without references.

        It is closed (no other keys than those named, unless it says that there may be) so that a
        key of ours that clients do not know is found.
        """
        name = schema.get("$ref", "").rpartition("/")[2]
        schema = dict(self.resolved(schema))
        nullable = schema.pop("nullable", False)
        for ignored in ("description", "example"):
            schema.pop(ignored, None)
        if "allOf" in schema:
            (only,) = schema.pop("allOf")
            schema = self.json_schema(only)
        if "properties" in schema:
            schema["properties"] = {
                key: self.json_schema(value) for key, value in schema["properties"].items()
            } | {key: {} for key in BEYOND.get(name, ())}
            schema.setdefault("additionalProperties", False)
        if isinstance(schema.get("additionalProperties"), dict):
            schema["additionalProperties"] = self.json_schema(schema["additionalProperties"])
        if "items" in schema:
            schema["items"] = self.json_schema(schema["items"])
        return {"anyOf": [schema, {"type": "null"}]} if nullable else schema

    @cached_property
    def operations(self) -> dict[tuple[str, str], Schema]:
        """By method (``POST``) and path (``/api/v2/jobs/{id}``)."""
        methods = {"get", "head", "post", "put", "delete", "patch"}
        return {
            (method.upper(), path): operation
            for path, item in self.content["paths"].items()
            for method, operation in item.items()
            if method in methods
        }

    def operation(self, method: str, path: str) -> tuple[str, Schema]:
        """The path of a request as the document writes it, and what may be done there."""
        found = [
            (known, operation)
            for (known_method, known), operation in self.operations.items()
            if known_method == method
            and re.fullmatch(re.sub(r"\{[a-z]+\}", "[^/]+", known), path) is not None
        ]
        exact = [each for each in found if each[0] == path]
        assert len(exact or found) == 1, f"{method} {path}: {[known for known, _ in found]}"
        return (exact or found)[0]

    def response(self, method: str, path: str, status: int) -> Schema:
        """What the document says of an answer with this status."""
        known, operation = self.operation(method, path)
        answer = operation["responses"].get(str(status))
        assert answer is not None, f"{method} {known} does not answer {status}"
        return self.resolved(answer)

    def codes(self, response: Schema) -> set[str]:
        """The error codes that the description of a response names."""
        found = set(re.findall(r"`([a-z]+(?:_[a-z0-9]+)*)`", response["description"]))
        # It has no code for a request that does not fit; this is comfy-api-proxy's.
        return found | ({"invalid_request"} if "validation failure" in str(response) else set())

    @cached_property
    def status_of(self) -> dict[str, set[int]]:
        """The statuses with which each error code comes, by the text of the error envelope and by
        the responses of all operations."""
        found: dict[str, set[int]] = {}
        envelope = self.schemas["ErrorEnvelope"]["description"]
        for code, status in re.findall(r"`([a-z_]+)`\s*\((\d{3})", envelope):
            found.setdefault(code, set()).add(int(status))
        for operation in self.operations.values():
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    for code in self.codes(self.resolved(answer)) - {"invalid_request"}:
                        found.setdefault(code, set()).add(int(status))
        return found

    def check_value(self, name: str, value: object) -> None:
        """Fail unless a value fits the schema of that name."""
        self._check({"$ref": f"#/components/schemas/{name}"}, value, name)

    def check_answer(
        self, method: str, path: str, status: int, headers: Mapping[str, str], body: object
    ) -> None:
        """Fail unless an answer is one of those that the document allows.

        Args:
            path: Without the origin, from ``/api/v2`` on.
            body: Parsed, where it is JSON; otherwise whatever it is.
        """
        where = f"{method} {path} {status}"
        response = self.response(method, path, status)
        if status == 429:
            assert headers.get("Retry-After", "").isdecimal(), f"{where} has no Retry-After"
        content = response.get("content")
        kind = headers.get("Content-Type", "").partition(";")[0]
        if content is None or method == "HEAD":
            if body and status >= 400:  # it need not have one
                self.check_value("ErrorEnvelope", body)
            else:
                assert not body, f"{where} has a body: {body!r}"
        elif "application/json" in content:
            assert kind == "application/json", f"{where} is {kind!r}"
            self._check(content["application/json"]["schema"], body, where)
            if status >= 400:
                assert isinstance(body, dict)
                named = self.codes(response)
                assert body["error"]["code"] in named, f"{where}: {body} is none of {named}"
        elif "text/event-stream" in content:
            assert kind == "text/event-stream", f"{where} is {kind!r}"

    def _check(self, schema: Schema, value: object, where: str) -> None:
        jsonschema = pytest.importorskip("jsonschema")
        validator = jsonschema.Draft202012Validator(
            self.json_schema(schema), format_checker=jsonschema.FormatChecker()
        )
        problems = [f"{each.json_path}: {each.message}" for each in validator.iter_errors(value)]
        assert not problems, f"{where}: {problems}"

    def event_schemas(self) -> Iterator[tuple[str, str]]:
        """The name of each event of a stream, and the name of its data's schema."""
        events = self.content["paths"]["/api/v2/jobs/{id}/events"]["get"]["x-sse-events"]
        for name, event in events.items():
            yield name, event["schema"].rpartition("/")[2]
