"""What the models part of a worker reads from its environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import SecretStr
from yarl import URL

from ...errors import ConfigurationError
from ...net.address import base_address, check_key_is_safe, host_list
from ...net.bucket import BucketSettings

__all__ = ["ModelSettings", "yes_or_no"]

_HUGGING_FACE = "https://huggingface.co"
_CIVITAI = "https://civitai.com"


def _nothing() -> SecretStr:
    return SecretStr("")


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Where a worker's models come from and go.

    Attributes:
        folder: The models folder to use; ``None`` for the volume's or the engine's.
        volume: Where RunPod mounts a network volume.
        download: Whether a job that runs a workflow may fetch models (``True``), only a job
            that asks for nothing else (``None``), or none at all (``False``).
        accept: Whether clients may send models.
        prune: Whether an ``ensure`` that does not say prunes.
        size_limit: Bytes that one model may have; ``None`` for no limit.
        hash_models: Whether the hashes of models are computed while no job runs.
        hosts: ``HOST`` or ``HOST:PORT`` in a private network (or on this machine) that models
            may come from nevertheless. The three endpoints below are added to it.
        hugging_face: Hugging Face, or a mirror of it.
        hugging_face_token: Sent to ``hugging_face`` only.
        civitai: Civitai's site.
        civitai_token: Sent to ``civitai`` only.
        bucket: For ``r2:`` links, laid out like ComfyUI's ``models`` folder; ``None`` when there
            is none.
    """

    folder: Path | None = None
    volume: Path = Path("/runpod-volume")
    download: bool | None = None
    accept: bool = False
    prune: bool = False
    size_limit: int | None = None
    hash_models: bool = True
    hosts: frozenset[str] = frozenset()
    hugging_face: URL = field(default=URL(_HUGGING_FACE))
    hugging_face_token: SecretStr = field(default_factory=_nothing)
    civitai: URL = field(default=URL(_CIVITAI))
    civitai_token: SecretStr = field(default_factory=_nothing)
    bucket: BucketSettings | None = None

    def __post_init__(self) -> None:
        ours = [self.hugging_face, self.civitai, *([self.bucket.endpoint] if self.bucket else [])]
        hosts = {host.lower() for host in self.hosts} | {f"{url.host}:{url.port}" for url in ours}
        object.__setattr__(self, "hosts", frozenset(hosts))

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> ModelSettings:
        """Read ``COMFY_REMOTE_MODELS_DIR``, ``COMFY_REMOTE_VOLUME``, ``DOWNLOAD_MODELS``,
        ``ACCEPT_MODELS``, ``PRUNE_MODELS``, ``COMFY_REMOTE_MODEL_SIZE_LIMIT`` (bytes),
        ``COMFY_REMOTE_HASH_MODELS``, ``COMFY_REMOTE_MODEL_HOSTS``,
        ``HF_ENDPOINT``, ``HF_TOKEN``, ``CIVITAI_ENDPOINT``, ``CIVITAI_TOKEN`` and ``R2_*``.

        Raises:
            ConfigurationError: One of them is not what it should be.
        """

        def text(name: str) -> str:
            return environ.get(name, "").strip()

        folder = text("COMFY_REMOTE_MODELS_DIR")
        return cls(
            folder=Path(folder).expanduser().absolute() if folder else None,
            volume=Path(text("COMFY_REMOTE_VOLUME") or "/runpod-volume"),
            download=yes_or_no("DOWNLOAD_MODELS", text("DOWNLOAD_MODELS")),
            accept=yes_or_no("ACCEPT_MODELS", text("ACCEPT_MODELS")) or False,
            prune=yes_or_no("PRUNE_MODELS", text("PRUNE_MODELS")) or False,
            size_limit=_size(text("COMFY_REMOTE_MODEL_SIZE_LIMIT")),
            hash_models=yes_or_no("COMFY_REMOTE_HASH_MODELS", text("COMFY_REMOTE_HASH_MODELS"))
            is not False,
            hosts=host_list(environ, "COMFY_REMOTE_MODEL_HOSTS"),
            hugging_face=_endpoint("HF_ENDPOINT", text("HF_ENDPOINT") or _HUGGING_FACE),
            hugging_face_token=SecretStr(text("HF_TOKEN") or text("HUGGING_FACE_HUB_TOKEN")),
            civitai=_endpoint("CIVITAI_ENDPOINT", text("CIVITAI_ENDPOINT") or _CIVITAI),
            civitai_token=SecretStr(text("CIVITAI_TOKEN")),
            bucket=_bucket({name: text(name) for name in _BUCKET}),
        )

    @classmethod
    def of_comfyui(
        cls, models_folder: Path, environ: Mapping[str, str] = os.environ
    ) -> ModelSettings:
        """Those of a ComfyUI that is no worker's: its own folder, unless another one is named.

        Raises:
            ConfigurationError: As `from_environ`.
        """
        found = cls.from_environ(environ)
        return found if found.folder is not None else replace(found, folder=models_folder)


_BUCKET = ("R2_ENDPOINT", "R2_BUCKET", "R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY")
_DEFAULT_BUCKET = "comfyui-models"


def _bucket(values: Mapping[str, str]) -> BucketSettings | None:
    if not any(values.values()):
        return None
    needed = [name for name in _BUCKET if name != "R2_BUCKET"]
    if missing := [name for name in needed if not values[name]]:
        raise ConfigurationError(
            f"The bucket for models is named in part only: {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not set.",
            advice="Set all three of R2_ENDPOINT, R2_ACCESS_KEY_ID and R2_SECRET_ACCESS_KEY, or "
            f"none. Without R2_BUCKET the bucket is {_DEFAULT_BUCKET}.",
        )
    return BucketSettings.of(
        values["R2_ENDPOINT"],
        values["R2_ACCESS_KEY_ID"],
        SecretStr(values["R2_SECRET_ACCESS_KEY"]),
        bucket=values["R2_BUCKET"],
        otherwise=_DEFAULT_BUCKET,
        name="R2_ENDPOINT",
    )


def _endpoint(name: str, address: str) -> URL:
    try:
        url = base_address(address.rstrip("/"))
        check_key_is_safe(url)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{name} cannot be used. {error.message}",
            advice="Give an https address; only a server on this machine may be plain http.",
        ) from None
    return url


def yes_or_no(name: str, text: str) -> bool | None:
    """What a variable says; ``None`` where it is not set.

    Raises:
        ConfigurationError: It is neither.
    """
    match text.lower():
        case "":
            return None
        case "true" | "1" | "yes" | "on":
            return True
        case "false" | "0" | "no" | "off":
            return False
    raise ConfigurationError(f"{name} is neither true nor false: {text!r}.")


def _size(text: str) -> int | None:
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or not int(text):
        raise ConfigurationError(
            f"COMFY_REMOTE_MODEL_SIZE_LIMIT is not a number of bytes: {text!r}."
        )
    return int(text)
