"""The errors of Comfy API v2, as ours. No I/O.

Facts: ``openapi-v2.yaml``, version 2.0.0; codes that it does not have are those of comfy-sdk 0.5.0
and comfy-api-proxy 0.1.6.
"""

from __future__ import annotations

from pydantic import JsonValue, ValidationError

from ...clean import cleaned_error
from ...errors import (
    AuthenticationError,
    ComfyRemoteError,
    ExecutionFailed,
    RateLimited,
    RequestTooLarge,
    TargetError,
    TargetNotFound,
    WorkflowInvalid,
)
from ...net.answers import Response, error_of
from ...net.retry import retry_after
from ...types import mapping
from ...wire.comfy_api import ApiError, ErrorEnvelope, JobError
from ...workflow.prompt import Prompt
from ..comfyui.history import execution_error
from ..comfyui.queue import refusal_of

__all__ = ["api_code", "api_error", "failure", "no_api", "refused"]

_BUSY = {
    "queue_full": "its queue is full",
    "deployment_not_ready": "the deployment is still starting",
    "too_many_streams": "it has too many event streams open",
}
_API_KEYS = "https://platform.comfy.org/profile/api-keys"
_NO_CLASS = "missing_node_type"
_GENERIC = ("node_execution_error", "execution_error", "execution_failed", "")


def api_code(error: ComfyRemoteError) -> JsonValue:
    """The server's own code for what an error says; ``None`` without one."""
    return error.details.get("api_code")


def api_error(response: Response) -> ApiError | None:
    """What a refusal says; ``None`` if it is not in the API's form: a proxy's, say."""
    try:
        return ErrorEnvelope.model_validate_json(response.body[:_LARGEST]).error
    except ValidationError:
        return None


_LARGEST = 4 * 2**20


def refused(
    response: Response,
    name: str,
    where: str,
    *,
    keyed: bool = True,
    comfys: bool = True,
    prompt: Prompt | None = None,
) -> ComfyRemoteError:
    """The error behind an answer with a status from 400 on.

    Args:
        name: Of the target.
        where: Its name and its address.
        keyed: Whether the request had a key.
        comfys: Whether Comfy runs the server.
        prompt: That was sent.
    """
    said = api_error(response)
    if said is None:
        return error_of(response, where, keyed=keyed)
    details: dict[str, JsonValue] = {"http_status": response.status, "api_code": said.code}
    return cleaned_error(_refused(response, said, name, keyed, comfys, prompt or {}, details))


def no_api(name: str, url: str, status: int) -> TargetNotFound:
    """The error of an address that has something else than a Comfy API behind it."""
    return TargetNotFound(
        f"{name} has no Comfy API below {url} (HTTP {status}).",
        advice=f"Check the address. If a ComfyUI is there, take it as one: {url}, without comfy:.",
        details={"http_status": status},
    )


def _refused(
    response: Response,
    said: ApiError,
    name: str,
    keyed: bool,
    comfys: bool,
    prompt: Prompt,
    details: dict[str, JsonValue],
) -> ComfyRemoteError:
    words = said.message.strip().rstrip(".")
    if response.status == 429:
        if (after := retry_after(response.headers.get("Retry-After"))) is not None:
            details["retry_after"] = after
        why = _BUSY.get(said.code, words)
        return RateLimited(
            f"{name} takes nothing for now: {why}.",
            advice="Wait a little, then try again.",
            details=details,
        )
    match said.code:
        case "invalid_workflow":
            return _invalid(said, prompt, details)
        case "workflow_format_ui":
            return WorkflowInvalid(
                f"{name} takes workflows in API format, and says that this one is not.",
                advice="Export it with Save (API Format), and run that file.",
                details=details,
            )
        case "missing_asset":
            return WorkflowInvalid(
                f"{name} does not have an input file that was just sent to it: {words}.",
                advice="Run the workflow again. If it goes on, its storage forgets files at once.",
                details=details,
            )
        case "deployment_stopped":
            return TargetError(
                f"{name} is stopped, and takes no jobs: {words}.",
                advice="Start the deployment in Comfy's platform (https://platform.comfy.org), or "
                "choose another target.",
                details=details,
            )
        case "insufficient_credits":
            return TargetError(
                f"The account of {name} does not have enough credits: {words}.",
                advice="Buy credits at https://platform.comfy.org, or choose another target.",
                details=details,
            )
        case "hash_mismatch":
            return TargetError(
                f"{name} got other bytes than those that were announced: {words}.",
                advice="The file changed while it was sent, or was damaged on its way. Run the "
                "workflow again.",
                details=details,
            )
        case "not_implemented":
            return TargetError(
                f"{name} does not offer that: {words}.",
                advice="Choose a target that does.",
                details=details,
            )
    match response.status:
        case 401 | 403:
            return _no_entry(response.status, name, words, keyed, comfys, details)
        case 402:
            return TargetError(
                f"{name} wants to be paid first: {words}.",
                advice="Look at your account at https://platform.comfy.org, or choose another "
                "target.",
                details=details,
            )
        case 404:
            return TargetNotFound(
                f"{name} does not have that: {words}.",
                advice="Check the target's address.",
                details=details,
            )
        case 413:
            return RequestTooLarge(
                f"{name} refused a file as too large: {words}.",
                advice="Use a smaller file, or a target that takes larger ones.",
                details=details,
            )
    return TargetError(
        f"{name} refused the request (HTTP {response.status}): {words}.",
        advice="If it goes on, look at the server's own log.",
        details=details,
    )


def _no_entry(
    status: int,
    name: str,
    words: str,
    keyed: bool,
    comfys: bool,
    details: dict[str, JsonValue],
) -> AuthenticationError:
    if not keyed:
        return AuthenticationError(
            f"{name} wants a key, and none was sent: {words}.",
            advice=f"Comfy's own servers take the key in COMFY_API_KEY ({_API_KEYS} makes one)."
            if comfys
            else "Its owner has it: the token that the server was started with. Put it into a "
            "variable, and name that in comfy-remote.toml: key_env.",
            details=details,
        )
    return AuthenticationError(
        f"{name} refused the key: {words}."
        if status == 401
        else f"{name} does not allow that with this key: {words}.",
        advice=f"Check the key: yours are at {_API_KEYS}. The API of Comfy Cloud is part of its "
        "paid plans."
        if comfys
        else "Check the key: it is the token that the server was started with.",
        details=details,
    )


def _invalid(said: ApiError, prompt: Prompt, details: dict[str, JsonValue]) -> WorkflowInvalid:
    """A refusal of the workflow, with the nodes marked as in ComfyUI's own."""
    found = (said.details or {}).get("node_errors")
    nodes: dict[str, JsonValue] = {}
    missing: dict[str, JsonValue] = {}
    for node_id, problems in found.items() if isinstance(found, dict) else ():
        if isinstance(problems, dict) and isinstance(problems.get("errors"), list):
            nodes[node_id] = problems  # ComfyUI's own form
        elif isinstance(problems, list):
            node = prompt.get(node_id)
            if node and any(mapping(one).get("reason") == _NO_CLASS for one in problems):
                missing = {"node_id": node_id, "class_type": node["class_type"]}
                continue  # ComfyUI's own form has no entry for such a node
            nodes[node_id] = {
                "class_type": node["class_type"] if node else None,
                "errors": [_problem(one) for one in problems if isinstance(one, dict)],
            }
    # comfy-api-proxy gives ComfyUI's sentence, and not its type.
    unknown = missing or "custom node may not be installed" in said.message
    error: dict[str, JsonValue] = {
        "type": _NO_CLASS if unknown else said.code,
        "message": said.message,
        "extra_info": missing,
    }
    refusal = refusal_of({"error": error, "node_errors": nodes}, 422)
    refusal.details.update(details)
    return refusal


def _problem(one: dict[str, JsonValue]) -> JsonValue:
    """``{"field", "reason"}`` as ComfyUI says it, and in its words where the server has them."""
    reason = str(one.get("reason") or one.get("message") or one.get("type") or "invalid")
    words = one.get("message") if isinstance(one.get("message"), str) else None
    field = str(one.get("field") or one.get("input") or "")
    return {
        "type": reason,
        "message": words or reason.replace("_", " "),
        "details": "" if words else field,
        "extra_info": {"input_name": field} if field else {},
    }


def failure(error: JobError | None) -> ComfyRemoteError:
    """Why a job failed."""
    if error is None:
        return ExecutionFailed(
            "The job failed, and the server gave no reason.", advice="Look at the server's own log."
        )
    message = error.message.strip() or error.code
    if error.node_id is None and error.class_type is None and error.code not in _GENERIC:
        return ExecutionFailed(
            f"The job failed ({error.code}): {message.rstrip('.')}.",
            advice="If it goes on, look at the server's own log.",
            details={"api_code": error.code, "traceback": error.traceback},
        )
    memory = "out of memory" in message.lower() or "out_of_memory" in error.code
    found = execution_error(
        {
            "node_id": error.node_id,
            "node_type": error.class_type,
            "exception_type": "OutOfMemoryError" if memory else "",
            "exception_message": message,
            "traceback": error.traceback,
        }
    )
    found.details["api_code"] = error.code
    return found
