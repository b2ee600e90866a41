"""What a RunPod account has, and how it is changed, by RunPod's REST API v2.

Facts from its OpenAPI document (docs.runpod.io/api-reference-v2): ``GET /v2/pods``,
``GET`` and ``POST /v2/serverless``, ``GET``, ``PATCH`` (which changes what it is sent) and
``DELETE /v2/serverless/{id}``, the same of ``/v2/network-volumes``, and the catalogue.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar
from urllib.parse import quote

from pydantic import BaseModel, SecretStr, ValidationError

from ...clean import clean
from ...errors import (
    AuthenticationError,
    ConfigurationError,
    SubmissionUnknown,
    TargetError,
    TargetNotFound,
)
from ...json_text import problems_in
from ...net.address import base_address, check_key_is_safe
from ...net.answers import Response
from ...net.http import HttpClient, HttpLimits
from ...types import JsonValue
from ...wire.runpod_endpoints import (
    EndpointRequest,
    RestEndpoint,
    RestEndpointList,
    RestWorkers,
)
from ...wire.runpod_prices import RestGpu, RestGpuList
from ...wire.runpod_registries import RestRegistry, RestRegistryList
from ...wire.runpod_volumes import (
    RestDataCenter,
    RestDataCenterList,
    RestVolume,
    RestVolumeList,
    VolumeGrowth,
    VolumeRequest,
)
from .kind import API_URL, API_VARIABLE, account_url

__all__ = [
    "RunPodAccount",
    "account_endpoints",
    "ask_account",
    "idle_timeout",
    "set_idle_timeout",
]

# An account's endpoints, or all GPUs that RunPod has, are some hundred kilobytes.
_LIMITS = HttpLimits(patience=20.0, answer=8 * 1024 * 1024)

_REFUSALS = (400, 422)
_LONGEST_REFUSAL = 1000  # characters

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


class RunPodAccount:
    """An account, asked and changed in one session, inside ``async with``.

    What is made is made once: a request whose answer is lost, or not understood, raises
    `SubmissionUnknown` and is not repeated. All else may arrive twice, and is tried again.

    Methods raise `AuthenticationError` if the key may not do it, `TargetError` if RunPod cannot be
    asked or its answer is not understood, and `ConfigurationError` with RunPod's own words if it
    refuses what is wanted (HTTP 400, 422).
    """

    def __init__(self, key: SecretStr, environment: Mapping[str, str]) -> None:
        self._url = account_url(environment)
        self._http = _account(key, self._url)

    async def __aenter__(self) -> RunPodAccount:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._http.__aexit__(*exc_info)

    async def endpoints(self) -> list[RestEndpoint]:
        """All serverless endpoints."""
        return (await self._asked("v2/serverless", RestEndpointList)).endpoints

    async def endpoint(self, endpoint: str) -> RestEndpoint | None:
        """One of them; ``None`` if it is gone."""
        with contextlib.suppress(TargetNotFound):
            return await self._asked(_path(endpoint), RestEndpoint)
        return None

    async def volume(self, volume: str) -> RestVolume | None:
        """One network volume; ``None`` if it is gone."""
        with contextlib.suppress(TargetNotFound):
            return await self._asked(_volume_path(volume), RestVolume)
        return None

    async def volumes(self) -> list[RestVolume]:
        """All network volumes."""
        return (await self._asked("v2/network-volumes", RestVolumeList)).volumes

    async def gpus(self) -> list[RestGpu]:
        """All GPU types, with what is free for serverless workers now."""
        path = "v2/catalog/gpus?include=AVAILABILITY&product=SERVERLESS"
        return (await self._asked(path, RestGpuList)).gpus

    async def data_centers(self) -> list[RestDataCenter]:
        """All data centres."""
        return (await self._asked("v2/catalog/datacenters", RestDataCenterList)).centers

    async def registries(self) -> list[RestRegistry]:
        """All logins for image registries, without user and password."""
        return (await self._asked("v2/registries", RestRegistryList)).registries

    async def make_endpoint(self, wanted: EndpointRequest) -> RestEndpoint:
        """Make an endpoint. Raises also `SubmissionUnknown`."""
        return await self._made("v2/serverless", wanted.body(), RestEndpoint)

    async def make_volume(self, wanted: VolumeRequest) -> RestVolume:
        """Make a volume. Raises also `SubmissionUnknown`."""
        return await self._made("v2/network-volumes", wanted.body(), RestVolume)

    async def change_endpoint(self, endpoint: str, wanted: EndpointRequest) -> RestEndpoint:
        """Change what is set in ``wanted``."""
        return await self._changed(_path(endpoint), wanted.body(), RestEndpoint)

    async def grow_volume(self, volume: str, wanted: VolumeGrowth) -> RestVolume:
        """Make a volume larger."""
        return await self._changed(_volume_path(volume), wanted.body(), RestVolume)

    async def remove_endpoint(self, endpoint: str) -> None:
        """Remove an endpoint, its workers and its jobs; one that is gone is no error."""
        await self._removed(_path(endpoint))

    async def remove_volume(self, volume: str) -> None:
        """Remove a volume and all that is on it; one that is gone is no error."""
        await self._removed(_volume_path(volume))

    async def _asked(self, path: str, model: type[_Answer]) -> _Answer:
        with _as_account_key():
            answer = await self._http.get_json(path)
        return _parsed(answer, model, self._url)

    async def _made(self, path: str, body: JsonValue, model: type[_Answer]) -> _Answer:
        sent = json.dumps(body).encode()
        with _as_account_key():
            answer = await self._http.submit(path, sent, accept=_REFUSALS)
        if answer.status in _REFUSALS:
            raise _refused(answer)
        try:
            return _parsed(answer.json(), model, self._url)
        except TargetError as error:  # it was made: as good as an answer that got lost
            raise SubmissionUnknown(error.message, details=error.details) from error

    async def _changed(self, path: str, body: JsonValue, model: type[_Answer]) -> _Answer:
        with _as_account_key():
            answer = await self._http.patch(path, body, accept=_REFUSALS)
        return self._accepted(answer, model)

    async def _removed(self, path: str) -> None:
        with _as_account_key(), contextlib.suppress(TargetNotFound):
            await self._http.delete(path)

    def _accepted(self, answer: Response, model: type[_Answer]) -> _Answer:
        if answer.status in _REFUSALS:
            raise _refused(answer)
        return _parsed(answer.json(), model, self._url)


@contextlib.contextmanager
def _as_account_key() -> Iterator[None]:
    """Say what a key needs that RunPod refuses: an account's key is not that of a target alone."""
    try:
        yield
    except AuthenticationError as error:
        status = error.details.get("http_status")
        raise AuthenticationError(
            "RunPod does not let the key do that." if status == 403 else "RunPod refused the key.",
            advice="It has to be allowed to read and change the account's endpoints and network "
            "volumes. RunPod's console has keys under Settings > API Keys.",
            details=error.details,
        ) from error


def _refused(answer: Response) -> ConfigurationError:
    """RunPod's words, as ``{"title", "detail", "errors"}`` has them."""
    try:
        said = _Refusal.model_validate_json(answer.body)
    except ValidationError:
        said = _Refusal()
    words = "; ".join(filter(None, [said.detail or said.title, *said.errors]))
    words = clean((words or f"HTTP {answer.status}")[:_LONGEST_REFUSAL]).strip().rstrip(".")
    return ConfigurationError(
        f"RunPod refused that: {words}.",
        details={"http_status": answer.status},
    )


class _Refusal(BaseModel):
    title: str = ""
    detail: str = ""
    errors: list[str] = []


async def _endpoint(http: HttpClient, url: str, endpoint: str) -> RestEndpoint:
    return _parsed(await http.get_json(_path(endpoint)), RestEndpoint, url)


def _path(endpoint: str) -> str:
    return f"v2/serverless/{quote(endpoint, safe='')}"


def _volume_path(volume: str) -> str:
    return f"v2/network-volumes/{quote(volume, safe='')}"


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
