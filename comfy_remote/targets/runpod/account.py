"""What a RunPod account has, by RunPod's REST API v2.

Facts from its OpenAPI document (docs.runpod.io/api-reference-v2): ``GET /v2/pods``,
``GET /v2/serverless``, ``GET`` and ``PATCH /v2/serverless/{id}`` (which changes what it is sent).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar
from urllib.parse import quote

from pydantic import BaseModel, SecretStr, ValidationError

from ...errors import AuthenticationError, TargetError
from ...json_text import problems_in
from ...net.address import base_address, check_key_is_safe
from ...net.http import HttpClient, HttpLimits
from ...types import JsonValue
from ...wire.runpod_endpoints import RestEndpoint, RestEndpointList, RestWorkers
from .kind import API_URL, API_VARIABLE, account_url

__all__ = [
    "account_endpoints",
    "ask_account",
    "idle_timeout",
    "set_idle_timeout",
]

# An account's endpoints, or all GPUs that RunPod has, are some hundred kilobytes.
_LIMITS = HttpLimits(patience=20.0, answer=8 * 1024 * 1024)

_Answer = TypeVar("_Answer", bound=BaseModel)


async def account_endpoints(
    key: SecretStr, environment: Mapping[str, str]
) -> Sequence[RestEndpoint]:
    """The account's serverless endpoints that have a queue: the others take no jobs.

    Raises:
        AuthenticationError: RunPod does not take the key.
        TargetError: RunPod cannot be asked, or its answer is not understood.
    """
    found = await ask_account(key, environment, "v2/serverless", RestEndpointList)
    return [one for one in found.endpoints if one.type in ("", "QUEUE")]


async def ask_account(
    key: SecretStr, environment: Mapping[str, str], path: str, model: type[_Answer]
) -> _Answer:
    """The answer to one question about an account. Raises as `account_endpoints`."""
    url = account_url(environment)
    async with _account(key, url) as http:
        return _parsed(await http.get_json(path), model, url)


async def idle_timeout(key: SecretStr, url: str, endpoint: str) -> int:
    """Seconds that idle workers of an endpoint wait for a job. Raises as `account_endpoints`."""
    async with _account(key, url) as http:
        workers = (await _endpoint(http, url, endpoint)).workers
    if workers is None or workers.idle_timeout is None:
        raise TargetError(f"RunPod does not say how long idle workers of {endpoint} wait.")
    return workers.idle_timeout


async def set_idle_timeout(key: SecretStr, url: str, endpoint: str, seconds: int) -> None:
    """Change how long they wait; all else about them is sent back as it was.

    Raises:
        AuthenticationError: The key may not change the endpoint.
        TargetError: RunPod cannot be asked, or has not changed it.
    """
    async with _account(key, url) as http:
        workers = (await _endpoint(http, url, endpoint)).workers or RestWorkers()
        changed = workers.model_copy(update={"idle_timeout": seconds})
        body: JsonValue = {"workers": changed.model_dump(mode="json", by_alias=True)}
        try:
            answer = await http.patch(_path(endpoint), body)
        except AuthenticationError as error:
            raise AuthenticationError(
                f"The key may not change the endpoint {endpoint}.",
                advice="Use one that may (RunPod's console: Settings > API Keys), or set the idle "
                "timeout in the console yourself.",
                details=error.details,
            ) from error
    now = _parsed(answer.json(), RestEndpoint, url).workers
    if now is None or now.idle_timeout != seconds:
        raise TargetError(f"RunPod has not changed the idle timeout of {endpoint}.")


async def _endpoint(http: HttpClient, url: str, endpoint: str) -> RestEndpoint:
    return _parsed(await http.get_json(_path(endpoint)), RestEndpoint, url)


def _path(endpoint: str) -> str:
    return f"v2/serverless/{quote(endpoint, safe='')}"


def _account(key: SecretStr, url: str) -> HttpClient:
    check_key_is_safe(base_address(url))
    bearer = {"Authorization": SecretStr(f"Bearer {key.get_secret_value()}")}
    return HttpClient(url, name="RunPod", headers=bearer, limits=_LIMITS)


def _parsed(answer: JsonValue, model: type[_Answer], url: str) -> _Answer:
    try:
        return model.model_validate(answer)
    except ValidationError as error:
        raise TargetError(
            f"RunPod's answer about the account is not understood: "
            f"{problems_in(error, 'the answer')}.",
            advice=f"Check {API_VARIABLE}." if url != API_URL else "Update Comfy Remote.",
        ) from None
