"""What a RunPod account has, by RunPod's REST API v2.

Facts from its OpenAPI document (docs.runpod.io/api-reference-v2): ``GET /v2/pods``,
``GET /v2/serverless``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from pydantic import BaseModel, SecretStr, ValidationError

from ...errors import TargetError
from ...json_text import problems_in
from ...net.address import base_address, check_key_is_safe
from ...net.http import HttpClient, HttpLimits
from ...wire.runpod_endpoints import RestEndpoint, RestEndpointList

__all__ = ["API_URL", "API_VARIABLE", "account_endpoints", "ask_account"]

API_URL = "https://api.runpod.io"
API_VARIABLE = "RUNPOD_API_BASE_URL"
"""The name that RunPod's own SDK knows."""

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
    url = environment.get(API_VARIABLE) or API_URL
    check_key_is_safe(base_address(url))
    bearer = {"Authorization": SecretStr(f"Bearer {key.get_secret_value()}")}
    limits = HttpLimits(patience=20.0)
    async with HttpClient(url, name="RunPod", headers=bearer, limits=limits) as http:
        answer = await http.get_json(path)
    try:
        return model.model_validate(answer)
    except ValidationError as error:
        raise TargetError(
            f"RunPod's answer about the account is not understood: "
            f"{problems_in(error, 'the answer')}.",
            advice=f"Check {API_VARIABLE}." if url != API_URL else "Update Comfy Remote.",
        ) from None
