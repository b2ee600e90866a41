"""The service's own description: OpenAPI 3.1, with a schema for each key of the workflow.

What travels is described by the models that read and write it (`wire.call`, `wire.value`).
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field, JsonValue
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from ..calls.workflow import CallableWorkflow
from ..version import __version__
from ..wire.call import INLINE_LIMIT, CallAnswer
from ..wire.value import ValueEnvelope
from ..workflow.interface import InterfaceInput, InterfaceOutput

__all__ = ["openapi"]

_PLAIN: dict[str, JsonValue] = {
    "STRING": {"type": "string"},
    "COMBO": {"type": "string"},
    "INT": {"type": "integer"},
    "FLOAT": {"type": "number"},
    "BOOLEAN": {"type": "boolean"},
}
_EXAMPLES: dict[str, JsonValue] = {"STRING": "a cat", "INT": 20, "FLOAT": 0.5, "BOOLEAN": True}
_FILES = {"IMAGE": "image/png", "MASK": "image/png", "AUDIO": "audio/wav", "STRING": "text/plain"}
_JSON = "application/json"


def openapi(served: CallableWorkflow, *, with_token: bool) -> dict[str, JsonValue]:
    """The document."""
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": served.name,
            "version": __version__,
            "description": "A ComfyUI workflow as a service. POST a call; it is answered with its "
            "result, or with `poll_url`, where to ask again until `status` is `completed` or "
            "`failed`.",
        },
        "paths": {
            "/": {"post": _post(served)},
            "/calls/{call}": {
                "parameters": [_CALL],
                "get": _operation(
                    "getCall",
                    "The state of a call, and its results",
                    {"200": _answer("Its state."), **_refusals("404")},
                    parameters=[_WAIT],
                ),
                "delete": _operation(
                    "cancelCall",
                    "Cancel a call",
                    {"200": _answer("Its state now."), **_refusals("404")},
                ),
            },
            "/calls/{call}/results/{key}": {"get": _result(served)},
            "/values/{sha256}": _values(),
        },
        "components": {"schemas": _schemas(served), "securitySchemes": {}},
    }
    if with_token:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return document


def _post(served: CallableWorkflow) -> JsonValue:
    inputs = served.interface.inputs
    example: JsonValue = {
        entry.key: _example(entry) for entry in inputs if entry.required or entry.type in _EXAMPLES
    }
    form: JsonValue = {
        "type": "object",
        "properties": {entry.key: _form_schema(entry) for entry in inputs},
        "additionalProperties": False,
    }
    key = _parameter(
        "Idempotency-Key",
        {"type": "string", "maxLength": 200},
        "A call with the key of one before is that call: nothing runs twice.",
        within="header",
    )
    waiting: JsonValue = {"description": "Seconds.", "schema": {"type": "integer"}}
    return _operation(
        "call",
        f"Run {served.name}",
        {
            "200": _answer("It has ended within the time waited for."),
            "202": {
                **_answer("It is under way: ask at `poll_url`."),
                "headers": {"Retry-After": waiting},
            },
            **_refusals("400", "413", "429", "502"),
        },
        parameters=[_WAIT, key],
        requestBody={
            "required": True,
            "content": {
                _JSON: {"schema": _ref("Call"), "example": {"inputs": example}},
                "multipart/form-data": {"schema": form},
            },
        },
    )


def _result(served: CallableWorkflow) -> JsonValue:
    keys: list[JsonValue] = [output.key for output in served.interface.outputs]
    encodings: list[JsonValue] = ["safetensors", "file"]
    content: JsonValue = {
        "application/octet-stream": {},
        "image/png": {},
        "audio/wav": {},
        "text/plain": {"schema": {"type": "string"}},
        _JSON: {"schema": {}},
    }
    return _operation(
        "getResult",
        "One result as a file",
        {"200": {"description": "The file.", "content": content}, **_refusals("404", "410")},
        parameters=[
            _CALL,
            _parameter("key", {"type": "string", "enum": keys}, within="path"),
            _parameter(
                "encoding",
                {"type": "string", "enum": encodings, "default": "safetensors"},
                "`safetensors`: the value file, exact. `file`: a PNG, WAV or text.",
            ),
            _parameter(
                "index",
                {"type": "integer", "minimum": 0, "default": 0},
                "Which of several, for `file`; `Comfy-Remote-Count` says how many.",
            ),
        ],
    )


def _values() -> JsonValue:
    stored: JsonValue = {
        "type": "object",
        "properties": {"sha256": {"type": "string"}, "size": {"type": "integer"}},
        "required": ["sha256", "size"],
    }
    sha256: JsonValue = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
    return {
        "parameters": [_parameter("sha256", sha256, "Of the file, 64 hex digits.", within="path")],
        "head": _operation(
            "hasValue",
            "Whether a value file is here",
            {"200": {"description": "It is."}, "404": {"description": "It is not."}},
        ),
        "put": _operation(
            "putValue",
            "Send a large value file ahead of the call that names its sha256",
            {
                "200": {"description": "It is here.", "content": {_JSON: {"schema": stored}}},
                **_refusals("400", "413", "507"),
            },
            requestBody={"required": True, "content": {"application/octet-stream": {}}},
        ),
    }


class Value(ValueEnvelope):
    """A value in an envelope (docs/values.md). `identity`: data is the value. `json`: it is JSON
    text. `safetensors`: it is a value file in base64; or the file is at `url`, or was sent before
    (`sha256`). `file`: it is a PNG, JPEG, WebP, WAV or text in base64, with its `media_type`."""


class Error(BaseModel):
    """What went wrong."""

    code: str = Field(examples=["execution_failed", "cancelled"])
    message: str
    advice: str = ""
    details: dict[str, JsonValue] = {}
    hint: dict[str, JsonValue] | None = None


class Answer(CallAnswer):
    """The state of a call."""

    id: str | None = Field(None, json_schema_extra={"format": "uuid"})
    result: Value | None = Field(None, description="The one result, or that of the key `result`.")
    error: Error | None = None  # type: ignore[assignment]  # which the wire reads leniently


class Refusal(BaseModel):
    """A request that was refused."""

    error: str
    comfy_remote: Error | None = None


class _AsSent(GenerateJsonSchema):
    """What is not known is left out of an answer, and never null."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        described = super().default_schema(schema)
        return {key: value for key, value in described.items() if (key, value) != ("default", None)}

    def field_title_should_be_set(self, schema: object) -> bool:
        return False


def _schemas(served: CallableWorkflow) -> dict[str, JsonValue]:
    interface = served.interface
    _, models = models_json_schema(
        [(Answer, "validation"), (Refusal, "validation")],
        ref_template="#/components/schemas/{model}",
        schema_generator=_AsSent,
    )
    schemas: dict[str, Any] = models["$defs"]
    schemas["Answer"]["properties"]["results"] = {
        "type": "object",
        "properties": {one.key: _output_schema(one) for one in interface.outputs},
    }
    inputs: JsonValue = {
        "type": "object",
        "properties": {entry.key: _input_schema(entry) for entry in interface.inputs},
        "required": [entry.key for entry in interface.inputs if entry.required],
        "additionalProperties": False,
    }
    call: JsonValue = {"type": "object", "properties": {"inputs": inputs}, "required": ["inputs"]}
    return {"Call": call, **schemas}


def _input_schema(entry: InterfaceInput) -> JsonValue:
    envelope = _ref("Value")
    plain: list[JsonValue] = [_PLAIN[one] for one in entry.type.split(",") if one in _PLAIN]
    if entry.type == "*":
        return {"title": entry.key, "description": "Any type.", "anyOf": [{}, envelope]}
    schema: dict[str, JsonValue] = {"title": entry.key, "description": entry.type}
    schema["anyOf"] = [*plain, envelope]
    if entry.type in _EXAMPLES:
        schema["examples"] = [_EXAMPLES[entry.type]]
    return schema


def _output_schema(entry: InterfaceOutput) -> JsonValue:
    return {
        "title": entry.key,
        "description": "Any type." if entry.type == "*" else entry.type,
        **_ref("Value"),
    }


def _form_schema(entry: InterfaceInput) -> JsonValue:
    plain = _PLAIN.get(entry.type)
    if plain is not None:
        return plain
    media_type = _FILES.get(entry.type, "application/octet-stream")
    return {"type": "string", "contentMediaType": media_type, "description": entry.type}


def _example(entry: InterfaceInput) -> JsonValue:
    if entry.type in _EXAMPLES:
        return _EXAMPLES[entry.type]
    media_type = _FILES.get(entry.type)
    if media_type is not None:
        return {"type": entry.type, "encoding": "file", "media_type": media_type, "data": "BASE64"}
    return {"type": entry.type, "encoding": "safetensors", "data": "BASE64"}


_STATUSES = {
    "400": "A key is unknown or missing, or a value does not fit.",
    "401": "The token is missing or wrong.",
    "404": "There is no such call here.",
    "410": "There is no such result, or no longer.",
    "413": "It is too large.",
    "429": "The target accepts no more calls for now.",
    "502": "The target could not be reached, or gave an invalid answer.",
    "507": "The service's disk is full.",
}


def _operation(
    name: str, summary: str, responses: dict[str, JsonValue], **more: JsonValue
) -> JsonValue:
    return {"operationId": name, "summary": summary, **more, "responses": responses}


def _answer(description: str) -> dict[str, JsonValue]:
    example: JsonValue = {"status": "running", "id": "…", "progress": {"value": 3, "max": 20}}
    return {
        "description": f"{description} Results above {INLINE_LIMIT} bytes come with a `url`.",
        "content": {_JSON: {"schema": _ref("Answer"), "example": example}},
    }


def _refusals(*statuses: str) -> dict[str, JsonValue]:
    content: JsonValue = {_JSON: {"schema": _ref("Refusal")}}
    return {
        status: {"description": _STATUSES[status], "content": content}
        for status in sorted({*statuses, "401"})
    }


def _parameter(
    name: str, schema: JsonValue, description: str = "", *, within: str = "query"
) -> dict[str, JsonValue]:
    parameter: dict[str, JsonValue] = {"name": name, "in": within, "schema": schema}
    if within == "path":
        parameter["required"] = True
    if description:
        parameter["description"] = description
    return parameter


def _ref(schema: str) -> dict[str, JsonValue]:
    return {"$ref": f"#/components/schemas/{schema}"}


_CALL = _parameter("call", {"type": "string"}, "The call's id.", within="path")
_WAIT = _parameter(
    "wait",
    {"type": "number", "minimum": 0, "default": 0},
    "Seconds to wait for the end before answering, at most 90 (also as the header "
    "`Prefer: wait=30`).",
)
