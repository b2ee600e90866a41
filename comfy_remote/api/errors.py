"""Refusals of Comfy API v2: ``{"error": {"code", "message", "details"}}``, and what each means.

Facts: the codes and their statuses are those of ``openapi-v2.yaml`` (github.com/Comfy-Org/docs).
It has none for what is marked as ours below.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from aiohttp import web
from pydantic import JsonValue

from ..advice import Fact, Hint, worded
from ..clean import cleaned_json, cleaned_text
from ..errors import (
    ComfyRemoteError,
    ExecutionFailed,
    InputFileMissing,
    JobExpired,
    JobNotFound,
    LocalStorageError,
    NotTrusted,
    OutputLost,
    RateLimited,
    RequestTooLarge,
    SpendingCap,
    ValueInvalid,
    WorkflowInvalid,
)
from ..gateway.access import RouteHandler
from ..wire.comfy_api import ApiError, ErrorEnvelope, JobError

__all__ = ["ApiRefusal", "ErrorCode", "answered", "job_error", "refusal_of", "upstream_error"]

_log = logging.getLogger(__name__)

ErrorCode: TypeAlias = Literal[
    "asset_in_use",
    "blob_not_found",
    "forbidden",
    "hash_mismatch",
    "idempotency_key_reuse",
    "insufficient_credits",
    "invalid_cursor",
    "invalid_metadata_filter",
    "invalid_request",
    "invalid_workflow",
    "metadata_invalid",
    "method_not_allowed",
    "missing_asset",
    "not_found",
    "not_implemented",
    "payload_too_large",
    "queue_full",
    "range_not_satisfiable",
    "rate_limited",
    "too_many_streams",
    "unauthorized",
    "upstream_error",
    "workflow_format_ui",
]

_STATUS: Final[Mapping[ErrorCode, int]] = {
    "invalid_cursor": 400,  # comfy-sdk's, of a list
    "invalid_metadata_filter": 400,  # likewise
    "unauthorized": 401,
    "insufficient_credits": 402,
    "forbidden": 403,
    "not_found": 404,
    "blob_not_found": 404,
    "method_not_allowed": 405,  # ours
    "asset_in_use": 409,
    "hash_mismatch": 409,
    "payload_too_large": 413,  # ours, and their proxy's
    "range_not_satisfiable": 416,  # ours
    "invalid_request": 422,  # ours, and their proxy's: "validation failure"
    "invalid_workflow": 422,
    "workflow_format_ui": 422,
    "missing_asset": 422,
    "metadata_invalid": 422,  # comfy-sdk's, of labels
    "idempotency_key_reuse": 422,
    "queue_full": 429,
    "rate_limited": 429,
    "too_many_streams": 429,
    "upstream_error": 500,
    "not_implemented": 501,
}
_AGAIN_AFTER = 10
_TO_RESUME = {
    Hint.RESUME_FOR_OUTPUTS,
    Hint.ROOM_FOR_OUTPUTS,
    Hint.FIND_JOB,
    Hint.RESUME_OR_CANCEL,
    Hint.RESUME_IN_TIME,
    Hint.RESUME_WHEN_BACK,
}
_LONGEST_TRACEBACK = 16 * 1024


class ApiRefusal(Exception):
    """Why a request is refused, in the words of the API. Routes raise it.

    Args:
        code: Decides the status.
        message: What is wrong and what to do, for whoever wrote the client.
        details: JSON-able facts for programs.
        retry_after: Seconds; 10 where the code's status is 429 and nothing is given.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        details: Mapping[str, JsonValue] | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code: ErrorCode = code
        self.status = _STATUS[code]
        self.message = message
        self.details = dict(details or {})
        if retry_after is None and self.status == 429:
            retry_after = _AGAIN_AFTER
        self.retry_after = retry_after

    def answer(self) -> web.Response:
        """The refusal as an answer, without any secret that this process knows of."""
        envelope = ErrorEnvelope(
            error=ApiError(
                code=self.code,
                message=cleaned_text(self.message),
                details=cleaned_json(self.details) or None,
            )
        )
        response = web.Response(
            text=envelope.model_dump_json(), status=self.status, content_type="application/json"
        )
        if self.retry_after is not None:
            response.headers["Retry-After"] = str(max(1, self.retry_after))
        return response


async def answered(request: web.Request, handler: RouteHandler) -> web.StreamResponse:
    """What a handler answers; every error that it raises becomes a refusal."""
    try:
        return await handler(request)
    except ApiRefusal as refusal:
        return refusal.answer()
    except ComfyRemoteError as error:
        return refusal_of(error, submitting=request.method == "POST").answer()
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _refusal_of_http(error)
    except Exception as error:
        if request.transport is None or request.transport.is_closing():
            raise  # there is nobody who would read it
        return upstream_error(error).answer()


def refusal_of(error: ComfyRemoteError, *, submitting: bool = False) -> ApiRefusal:
    """One of our errors as a refusal.

    What concerns the request is said; what went wrong behind this server is in its log only.

    Args:
        submitting: Whether the request would have added something: then too many is a full queue.
    """
    code = _code_of(error, submitting)
    if code == "upstream_error":
        return upstream_error(error)
    again = error.details.get("retry_after")
    return ApiRefusal(
        code,
        str(error),
        details=_details_of(error),
        retry_after=again if isinstance(again, int) else None,
    )


def _code_of(error: ComfyRemoteError, submitting: bool) -> ErrorCode:
    match error:
        case RequestTooLarge():
            return "payload_too_large"
        case InputFileMissing():
            return "missing_asset"
        case WorkflowInvalid():
            return "invalid_workflow"
        case ValueInvalid():
            return "invalid_request"
        case SpendingCap():
            return "insufficient_credits"
        case RateLimited():
            return "queue_full" if submitting else "rate_limited"
        case NotTrusted():
            return "forbidden"
        case JobNotFound() | JobExpired() | OutputLost():
            return "not_found"
        case _:
            return "upstream_error"


def _details_of(error: ComfyRemoteError) -> dict[str, JsonValue]:
    details: dict[str, JsonValue] = {"cause": error.code}
    if isinstance(error, SpendingCap):
        details |= {key: value for key, value in error.details.items() if key != "target"}
    if nodes := _node_errors(error.details):
        details["node_errors"] = nodes
    return details


def _node_errors(details: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """By node, what ComfyUI found wrong: of each node, or the one whose class it does not have."""
    nodes, refused = details.get("node_errors"), details.get("error")
    if isinstance(nodes, dict) and nodes:
        return {node_id: _problems_of(node) for node_id, node in nodes.items()}
    extra = refused.get("extra_info") if isinstance(refused, dict) else None
    if not isinstance(refused, dict) or not isinstance(extra, dict) or "node_id" not in extra:
        return {}
    return {str(extra["node_id"]): [_problem(refused, str(extra.get("class_type", "?")))]}


def _problems_of(node: JsonValue) -> list[JsonValue]:
    """What ComfyUI found wrong with a node, as the API says it. May be of any shape."""
    said = node if isinstance(node, dict) else {}
    problems = said.get("errors")
    return [
        _problem(problem, str(said.get("class_type", "?")))
        for problem in (problems if isinstance(problems, list) else ())
        if isinstance(problem, dict)
    ]


def _problem(problem: dict[str, JsonValue], class_type: str) -> JsonValue:
    extra = problem.get("extra_info")
    words = [str(problem[key]) for key in ("message", "details") if problem.get(key)]
    return {
        "field": extra.get("input_name") if isinstance(extra, dict) else None,
        "reason": str(problem.get("type", "invalid")),
        "class_type": class_type,
        "message": ": ".join(word.rstrip(".") for word in words),
    }


def upstream_error(error: BaseException) -> ApiRefusal:
    """The refusal for what is no fault of the request; the log says what it is."""
    entry = secrets.token_hex(4)
    if isinstance(error, ComfyRemoteError):
        _log.error("%s: %s (%s)", entry, error, error.code)
    else:
        _log.error("%s: a request failed unexpectedly.", entry, exc_info=error)
    return ApiRefusal(
        "upstream_error",
        f"This server could not do what was asked. Its log says why, at {entry}. "
        "Try again in a moment.",
        details={"log": entry},
    )


def _refusal_of_http(error: web.HTTPException) -> web.Response:
    match error:
        case web.HTTPNotFound():
            return ApiRefusal(
                "not_found",
                "There is no such address here. Comfy API v2 is at /api/v2/jobs and "
                "/api/v2/assets; COMFY_BASE_URL ends before /api.",
            ).answer()
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            response = ApiRefusal(
                "method_not_allowed", f"This address takes {allowed}, not {error.method}."
            ).answer()
            response.headers["Allow"] = allowed
            return response
        case web.HTTPRequestEntityTooLarge():
            return ApiRefusal("payload_too_large", "The request's body is too large.").answer()
        case web.HTTPRequestRangeNotSatisfiable():
            return ApiRefusal("range_not_satisfiable", "The file has no such range.").answer()
        case _:
            response = ApiRefusal("invalid_request", error.reason).answer()
            response.set_status(error.status)
            return response


def job_error(error: ComfyRemoteError) -> JobError:
    """Why a job failed, as ``job.error`` says it."""
    facts = cleaned_json(error.details)
    traceback = facts.get("traceback")
    if isinstance(traceback, list):
        traceback = "".join(map(str, traceback))
    if isinstance(error, LocalStorageError):
        words = "The server could not read or write a file of its own. Its log says which, and why."
    else:
        words = cleaned_text(f"{error.message} {worded(error.advice, _words)}".rstrip())
    return JobError(
        code="node_execution_error" if type(error) is ExecutionFailed else error.code,
        message=words,
        node_id=_text(facts.get("node_id")),
        class_type=_text(facts.get("node_class")),
        traceback=(_text(traceback) or "")[-_LONGEST_TRACEBACK:] or None,
    )


def _words(hint: Hint, _facts: Mapping[str, Fact]) -> str | None:
    """Advice in the words of this API, whose jobs nobody resumes."""
    return "Send the job again." if hint in _TO_RESUME else None


def _text(value: JsonValue) -> str | None:
    return None if value is None else str(value)
