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
_EXAMPLES: dict[str, JsonValue] = {
    "STRING": "a cat",
    "INT": 20,
    "FLOAT": 0.5,
    "BOOLEAN": True,
}
_FILES = {"IMAGE": "image/png", "MASK": "image/png", "AUDIO": "audio/wav", "STRING": "text/plain"}
_JSON = "application/json"


def openapi(served: CallableWorkflow, *, with_token: bool) -> dict[str, JsonValue]:
    """The document.

    Args:
        with_token: Whether callers need the bearer token.
    """
    document: dict[str, JsonValue] = {
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
                "parameters": [_path_parameter("call", "The call's id.")],
                "get": {
                    "operationId": "getCall",
                    "summary": "How a call is, and its results",
                    "parameters": [_WAIT],
                    "responses": {"200": _call_response("How it is."), **_errors("404")},
                },
                "delete": {
                    "operationId": "cancelCall",
                    "summary": "Cancel a call",
                    "responses": {"200": _call_response("How it is now."), **_errors("404")},
                },
            },
            "/calls/{call}/results/{key}": {"get": _result(served)},
            "/values/{sha256}": _values(),
        },
        "components": {"schemas": _schemas(served), "securitySchemes": _security(with_token)},
    }
    if with_token:
        document["security"] = [{"token": []}]
    return document


def _post(served: CallableWorkflow) -> JsonValue:
    inputs = served.interface.inputs
    example: dict[str, JsonValue] = {
        entry.key: _example(entry) for entry in inputs if entry.required or entry.type in _EXAMPLES
    }
    return {
        "operationId": "call",
        "summary": f"Run {served.name}",
        "parameters": [
            _WAIT,
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "A call with the key of one before is that call: nothing runs "
                "twice.",
                "schema": {"type": "string", "maxLength": 200},
            },
        ],
        "requestBody": {
            "required": True,
            "content": {
                _JSON: {
                    "schema": {"$ref": "#/components/schemas/Call"},
                    "example": {"inputs": example},
                },
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {entry.key: _form_schema(entry) for entry in inputs},
                        "additionalProperties": False,
                    }
                },
            },
        },
        "responses": {
            "200": _call_response("It has ended within the time waited for."),
            "202": _call_response("It is under way: ask at `poll_url`.", with_wait=True),
            **_errors("400", "413", "429", "502"),
        },
    }


def _result(served: CallableWorkflow) -> JsonValue:
    keys: list[JsonValue] = [output.key for output in served.interface.outputs]
    return {
        "operationId": "getResult",
        "summary": "One result as a file",
        "parameters": [
            _path_parameter("call", "The call's id."),
            {
                "name": "key",
                "in": "path",
                "required": True,
                "schema": {"type": "string", "enum": keys},
            },
            {
                "name": "encoding",
                "in": "query",
                "description": "`safetensors`: the value file, exact. `file`: a PNG, WAV or text.",
                "schema": {
                    "type": "string",
                    "enum": ["safetensors", "file"],
                    "default": "safetensors",
                },
            },
            {
                "name": "index",
                "in": "query",
                "description": "Which of several, for `file`; `Comfy-Remote-Count` says how many.",
                "schema": {"type": "integer", "minimum": 0, "default": 0},
            },
        ],
        "responses": {
            "200": {
                "description": "The file.",
                "content": {
                    "application/octet-stream": {},
                    "image/png": {},
                    "audio/wav": {},
                    "text/plain": {"schema": {"type": "string"}},
                    _JSON: {"schema": {}},
                },
            },
            **_errors("404", "410"),
        },
    }


def _values() -> JsonValue:
    sha256 = _path_parameter("sha256", "Of the file, 64 hex digits.")
    sha256["schema"] = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
    return {
        "parameters": [sha256],
        "head": {
            "operationId": "hasValue",
            "summary": "Whether a value file is here",
            "responses": {"200": {"description": "It is."}, "404": {"description": "It is not."}},
        },
        "put": {
            "operationId": "putValue",
            "summary": "Send a large value file ahead of the call that names its sha256",
            "requestBody": {"required": True, "content": {"application/octet-stream": {}}},
            "responses": {
                "200": {
                    "description": "It is here.",
                    "content": {
                        _JSON: {
                            "schema": {
                                "type": "object",
                                "properties": {
                                    "sha256": {"type": "string"},
                                    "size": {"type": "integer"},
                                },
                                "required": ["sha256", "size"],
                            }
                        }
                    },
                },
                **_errors("400", "413", "507"),
            },
        },
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
    """How a call is."""

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
        del schema
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
    envelope: JsonValue = {"$ref": "#/components/schemas/Value"}
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
        "$ref": "#/components/schemas/Value",
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
        return {
            "type": entry.type,
            "encoding": "file",
            "media_type": media_type,
            "data": "BASE64",
        }
    return {"type": entry.type, "encoding": "safetensors", "data": "BASE64"}


def _call_response(description: str, *, with_wait: bool = False) -> JsonValue:
    response: dict[str, JsonValue] = {
        "description": f"{description} Results above {INLINE_LIMIT} bytes come with a `url`.",
        "content": {
            _JSON: {
                "schema": {"$ref": "#/components/schemas/Answer"},
                "example": {"status": "running", "id": "…", "progress": {"value": 3, "max": 20}},
            }
        },
    }
    if with_wait:
        response["headers"] = {
            "Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}
        }
    return response


_REFUSALS = {
    "400": "A key is unknown or missing, or a value does not fit.",
    "401": "The token is missing or wrong.",
    "404": "There is no such call here.",
    "410": "There is no such result (any more).",
    "413": "It is too large.",
    "429": "The target takes no more for now.",
    "502": "The target could not be reached, or did not understand.",
    "507": "The service's disk is full.",
}


def _errors(*statuses: str) -> dict[str, JsonValue]:
    return {
        status: {
            "description": _REFUSALS[status],
            "content": {_JSON: {"schema": {"$ref": "#/components/schemas/Refusal"}}},
        }
        for status in sorted({*statuses, "401"})
    }


def _path_parameter(name: str, description: str) -> dict[str, JsonValue]:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": {"type": "string"},
    }


_WAIT: JsonValue = {
    "name": "wait",
    "in": "query",
    "description": "Seconds to wait for the end before answering, at most 90 (also as the header "
    "`Prefer: wait=30`).",
    "schema": {"type": "number", "minimum": 0, "default": 0},
}


def _security(with_token: bool) -> dict[str, JsonValue]:
    return {"token": {"type": "http", "scheme": "bearer"}} if with_token else {}
