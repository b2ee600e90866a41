"""The models of Comfy API v2 against its own description, field by field."""

from __future__ import annotations

from enum import Enum
from typing import Any, get_args

import pytest
from comfy_document import BEYOND, Document, Schema
from pydantic import BaseModel, ValidationError

from comfy_remote.api.errors import ApiRefusal, ErrorCode
from comfy_remote.wire import comfy_api
from comfy_remote.wire.comfy_api import (
    API_PATH,
    ASSET_TYPE,
    EXPIRES_IN,
    IDEMPOTENCY_HEADER,
    ApiError,
    ApiJob,
    ApiOutput,
    ApiProgress,
    ApiStatus,
    Asset,
    AssetFromHash,
    ErrorEnvelope,
    ExtraData,
    JobError,
    JobList,
    JobRequest,
    JobSummary,
    JobUrls,
    JobWorkflow,
    OutputType,
    PreviewEvent,
    StatusEvent,
    asset_reference,
    blake3_digits,
    blake3_hash,
    label_problem,
)

MODELS: dict[str, type[BaseModel]] = {
    "Asset": Asset,
    "Job": ApiJob,
    "JobWorkflowResponse": JobWorkflow,
    "JobUrls": JobUrls,
    "Progress": ApiProgress,
    "Output": ApiOutput,
    "JobError": JobError,
    "ErrorEnvelope": ErrorEnvelope,
    "StatusEvent": StatusEvent,
    "PreviewEvent": PreviewEvent,
}
ENUMS: dict[str, type[Enum]] = {"JobStatus": ApiStatus, "OutputType": OutputType}
BESIDES = {"AssetReference", "LogEvent"}
"""A test of its own holds the first to the document; the second is reserved: no server sends it."""

SDK_ONLY = {JobList, JobSummary}
"""In comfy-sdk alone."""

CODES_BEYOND = {
    "invalid_cursor": 400,  # this and the next two are comfy-sdk's
    "invalid_metadata_filter": 400,
    "metadata_invalid": 422,
    "invalid_request": 422,  # this and the next are comfy-api-proxy's
    "payload_too_large": 413,
    "method_not_allowed": 405,  # HTTP's
    "range_not_satisfiable": 416,
}
"""Codes of refusals that the document does not have, and their statuses."""

CODES_OF_CLOUDS = {"deployment_not_ready", "deployment_stopped"}
"""Those of servers that start and stop what runs jobs."""


@pytest.fixture(scope="module")
def document() -> Document:
    return Document()


def test_every_schema_of_the_document_has_its_model(document: Document) -> None:
    assert set(document.schemas) == {*MODELS, *ENUMS, *BESIDES}
    inner = {ApiError, AssetFromHash, ExtraData, JobRequest}
    ours = {
        each
        for each in (getattr(comfy_api, name) for name in comfy_api.__all__)
        if isinstance(each, type) and issubclass(each, BaseModel)
    }
    assert ours == {*MODELS.values(), *inner, *SDK_ONLY}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_the_documents_fields(document: Document, name: str) -> None:
    _hold(document, document.schemas[name], MODELS[name], BEYOND.get(name, set()))


@pytest.mark.parametrize("name", ENUMS)
def test_an_enum_has_the_documents_values(document: Document, name: str) -> None:
    assert [each.value for each in ENUMS[name]] == document.schemas[name]["enum"]


def test_the_final_states_are_the_documents(document: Document) -> None:
    said = document.schemas["JobStatus"]["description"].partition("Terminal states:")[2]
    final = {each.strip(" .\n") for each in said.split(",")}
    assert {each.value for each in ApiStatus if each.final} == final


def test_the_request_for_a_job(document: Document) -> None:
    (body,) = _request(document, "POST", "/api/v2/jobs").values()
    _hold(document, body, JobRequest, {"metadata"})
    _hold(document, body["properties"]["extra_data"], ExtraData)
    with pytest.raises(ValidationError):  # a closed object
        ExtraData.model_validate({"api_key_comfy_org": "k", "auth_token_comfy_org": "t"})


def test_the_request_for_an_asset_over_bytes_that_are_there(document: Document) -> None:
    (body,) = _request(document, "POST", "/api/v2/assets/from-hash").values()
    _hold(document, body, AssetFromHash)


def test_the_bounds_of_how_long_an_upload_stays(document: Document) -> None:
    (form,) = _request(document, "POST", "/api/v2/assets").values()
    stays = form["properties"]["expires_in"]
    assert (stays["minimum"], stays["maximum"]) == EXPIRES_IN
    assert set(form["properties"]) - {"file"} == {
        *("content_type", "file_path", "expected_hash", "tags", "expires_in")
    }


def test_the_form_of_a_reference_to_an_asset(document: Document) -> None:
    whole = asset_reference("an-id", blake3="blake3:" + "0" * 64, file_path="a/photo.png")
    document.check_value("AssetReference", whole)
    document.check_value("AssetReference", asset_reference("an-id"))
    assert document.schemas["AssetReference"]["properties"]["__type"]["enum"] == [ASSET_TYPE]


def test_paths_and_the_header_of_a_key(document: Document) -> None:
    assert all(path.startswith(f"{API_PATH}/") for path in document.content["paths"])
    assert document.content["components"]["parameters"]["IdempotencyKey"]["name"] == (
        IDEMPOTENCY_HEADER
    )


def test_every_error_code_comes_with_the_documents_status(document: Document) -> None:
    ours = {code: ApiRefusal(code, "no").status for code in get_args(ErrorCode)}
    theirs = {code: only for code, (only,) in document.status_of.items()}
    for code in CODES_OF_CLOUDS:
        del theirs[code]
    assert ours == {**theirs, **CODES_BEYOND}


def test_every_event_of_a_stream_has_its_model(document: Document) -> None:
    known = dict(document.event_schemas())
    assert known == {
        "status": "StatusEvent",
        "progress": "Progress",
        "preview": "PreviewEvent",
        "output": "Output",
        "log": "LogEvent",
    }
    assert set(known.values()) - {"LogEvent"} <= set(MODELS)


def test_a_hash_is_blake3_and_64_hex_digits() -> None:
    digits = "0123456789abcdef" * 4
    assert blake3_hash(digits) == f"blake3:{digits}"
    assert blake3_digits(f"blake3:{digits}") == digits
    assert blake3_digits(f"BLAKE3:{digits.upper()}") == digits
    for other in (digits, f"sha256:{digits}", f"blake3:{digits}0", f"blake3:{digits}\n"):
        assert blake3_digits(other) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("", "a"),
        ("k" * 41, "a"),
        ("with space", "a"),
        ("clé", "a"),
        ("key", "a" * 257),
        ("key", "é" * 129),
        ("key", "two\nlines"),
        ("key", "a\x00"),
        ("key", "a\x7f"),
        ("key", "a\x9f"),
        ("key", "right-to-left \u202e"),
        ("key", "\u2066isolated"),
    ],
)
def test_a_label_that_no_job_can_have(key: str, value: str) -> None:
    assert label_problem(key, value) is not None


@pytest.mark.parametrize(
    ("key", "value"),
    [("client", "acme"), ("k" * 40, ""), ("A-Z.a_9", "é" * 128), ("date", "2026-10-05 \u00a0")],
)
def test_a_label(key: str, value: str) -> None:
    assert label_problem(key, value) is None


def test_a_list_is_read_by_the_sdk_as_it_is_written() -> None:
    """What the document lacks is held to comfy-sdk's own reading."""
    from comfy_sdk.jobs import JobSummary as TheirSummary

    written = JobList.model_validate(
        {
            "jobs": [
                {
                    "id": "7f3d2c1b-9a8e-4d6f-b012-3c4d5e6f7a8b",
                    "status": "succeeded",
                    "create_time": "2026-10-05T12:00:00Z",
                    "update_time": "2026-10-05T12:00:42.5Z",
                    "metadata": {"client": "acme"},
                }
            ]
        }
    ).model_dump(mode="json")
    read = TheirSummary._from_item(written["jobs"][0])
    (ours,) = JobList.model_validate(written).jobs
    assert (read.id, read.status) == (ours.id, "succeeded")
    assert (read.create_time, read.update_time) == (ours.create_time, ours.update_time)
    assert read.metadata == ours.metadata == {"client": "acme"}
    assert written["next_cursor"] is None  # the last page, to the SDK


def _request(document: Document, method: str, path: str) -> dict[str, Schema]:
    content = document.operations[method, path]["requestBody"]["content"]
    return {kind: document.resolved(each["schema"]) for kind, each in content.items()}


def _hold(
    document: Document, theirs: Schema, model: type[BaseModel], beyond: set[str] | None = None
) -> None:
    """Fail unless a model has the fields of a schema, as they are there."""
    whole = model.model_json_schema(mode="validation")
    ours, definitions = whole["properties"], whole.get("$defs", {})
    assert set(ours) == set(theirs["properties"]) | (beyond or set())
    assert set(whole.get("required", [])) == set(theirs.get("required", []))
    for name, field in theirs["properties"].items():
        where = f"{model.__name__}.{name}"
        if name in theirs.get("required", []) and not field.get("nullable", False):
            assert not _without_null(ours[name], definitions)[0], f"{where} is never null"
        _hold_field(document, field, ours[name], definitions, where)


def _hold_field(
    document: Document, theirs: Schema, ours: Schema, definitions: Schema, where: str
) -> None:
    may_be_null, (ours,) = _without_null(ours, definitions)
    nullable = theirs.get("nullable", False)
    assert may_be_null or not nullable, f"{where} may be null"
    theirs = document.resolved(*theirs["allOf"]) if "allOf" in theirs else document.resolved(theirs)
    if "enum" in theirs:
        assert ours["enum"] == theirs["enum"], where
        return
    kinds = {"array": "array", "object": "object", "boolean": "boolean"}
    kinds |= {"string": "string", "integer": "integer", "number": "number"}
    assert ours["type"] == kinds[theirs["type"]], where
    for bound in ("minimum", "maximum"):
        # Ours may be stricter: a size is never negative.
        if bound in theirs:
            assert ours[bound] == theirs[bound], f"{where}: {bound}"
    if theirs.get("format") == "date-time":
        assert ours["format"] == "date-time", where
    if "items" in theirs:
        _hold_field(document, theirs["items"], ours["items"], definitions, f"{where}[]")
    if isinstance(theirs.get("additionalProperties"), dict):
        each: Any = ours["additionalProperties"]
        _hold_field(document, theirs["additionalProperties"], each, definitions, f"{where}{{}}")
    if "properties" in theirs:
        assert set(ours["properties"]) - {"metadata"} == set(theirs["properties"]), where
        assert set(ours.get("required", [])) == set(theirs.get("required", [])), where


def _without_null(schema: Schema, definitions: Schema) -> tuple[bool, list[Schema]]:
    """Whether a schema of ours allows null, and what else it allows."""
    several = schema.get("anyOf", [schema])
    others = [each for each in several if each != {"type": "null"}]
    found = [
        definitions[each["$ref"].rpartition("/")[2]] if "$ref" in each else each for each in others
    ]
    return len(others) < len(several), found
