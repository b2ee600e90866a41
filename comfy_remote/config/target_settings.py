"""How to reach one target, as the configuration says it; `targets.kinds` knows what it means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING

from ..data_class import dataclass
from ..types import JsonValue

if TYPE_CHECKING:
    from ..schedule.prefer import Prefer

__all__ = ["TargetSettings"]


@dataclass(frozen=True, slots=True)
class TargetSettings:
    """How to reach one target: a ``[targets.NAME]`` table, or what was typed after ``--on``.

    Attributes:
        target: The address: see `targets.kinds.forms`.
        base_url: For ``runpod:``, another server that speaks RunPod's API. For ``modal:``, the
            address of the app's front, which Modal's SDK is asked for otherwise.
        key_env: Name of the environment variable with the key; ``RUNPOD_API_KEY`` for
            ``runpod:``. A ComfyUI URL gets it as a bearer token, if the variable is named.
        price_per_hour: US dollars for an hour of its GPU, instead of what its provider says.
        user: For a ComfyUI behind a login by name and password.
        password_env: Name of the variable with that password.
        headers_env: For a ComfyUI behind something else: the headers to send, each with the
            name of the variable that holds its value. For ``modal:``, ``Modal-Key`` and
            ``Modal-Secret`` by default, from ``MODAL_PROXY_TOKEN_ID`` and ``…_SECRET``.
        ca_file: A file (PEM) of certificates that are trusted besides the system's, for a server
            behind a certificate of its own; absolute once it is read.
        partner_key_env: For ``comfy:``, the name of the variable with the key that partner nodes
            log in with. It travels with each job; none does where no variable is named.
        keep_stored: For ``runpod:``, whether outputs that a worker had put into storage stay
            there once they have been fetched.
        bucket: For ``runpod:``, the address of the S3-compatible bucket that input files go
            by which do not fit a request; ``BUCKET_ENDPOINT_URL`` by default. Its keys are
            ``BUCKET_ACCESS_KEY_ID`` and ``BUCKET_SECRET_ACCESS_KEY`` in the environment.
        volume: For ``runpod:``, the endpoint's network volume, ``VOLUME_ID@DATACENTER``: models are
            sent there by its S3 API. Its keys are ``RUNPOD_S3_ACCESS_KEY_ID`` and
            ``RUNPOD_S3_SECRET_ACCESS_KEY`` in the environment.
        sync_token_env: For a ComfyUI with our node pack: name of the variable with the token that
            its owner has set there (``COMFY_REMOTE_SYNC_TOKEN``), for whoever may bring models and
            node packs to it. It is never sent: requests are signed with it.
        policy: For ``runpod:``, the ``policy`` of every request. RunPod's: ``executionTimeout`` and
            ``ttl`` in milliseconds, ``lowPriority``. On a gateway of ours also ``priority``,
            ``front``, ``retryLost``, ``client``, ``batch``, ``labels`` and ``memory``.
        prefer: For a route, what decides among its members; ``order`` by default.
        patience: For a route, seconds that a job waits at a member while another could take it.
        at_most: For a route, how many jobs of this user a member has at a time, by its name.
    """

    target: str
    base_url: str | None = None
    key_env: str | None = None
    price_per_hour: float | None = None
    user: str | None = None
    password_env: str | None = None
    headers_env: Mapping[str, str] = field(default_factory=dict)
    ca_file: str | None = None
    partner_key_env: str | None = None
    keep_stored: bool = False
    bucket: str | None = None
    volume: str | None = None
    sync_token_env: str | None = None
    policy: Mapping[str, JsonValue] | None = None
    prefer: Prefer | None = None
    patience: float | None = None
    at_most: Mapping[str, int] = field(default_factory=dict)
