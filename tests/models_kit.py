"""What the tests of a worker's models share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from model_server import ModelServer
from pydantic import SecretStr
from yarl import URL

from comfy_remote.wire.models import EnsureAnswer
from comfy_remote.wire.repo_list import parse_repo_list
from comfy_remote.worker.models.library import ModelLibrary
from comfy_remote.worker.models.settings import ModelSettings

HF_TOKEN = "hf-planted-token"
CIVITAI_TOKEN = "civitai-planted-token"


def settings_for(root: Path, *servers: ModelServer, **changes: object) -> ModelSettings:
    """Models go to ``root``; the servers, on loopback, may be asked."""
    settings = ModelSettings(
        folder=root,
        volume=root / "no-volume",
        hosts=frozenset(server.host for server in servers),
        hugging_face_token=SecretStr(HF_TOKEN),
        civitai_token=SecretStr(CIVITAI_TOKEN),
    )
    return replace(settings, **changes)


def library_for(root: Path, *servers: ModelServer, **changes: object) -> ModelLibrary:
    return ModelLibrary(settings_for(root, *servers, **changes), worker="worker-1")


def endpoints(server: ModelServer) -> Mapping[str, object]:
    """The server stands for Hugging Face and for Civitai."""
    return {"hugging_face": URL(server.url), "civitai": URL(server.url)}


async def ensure(
    library: ModelLibrary,
    text: str,
    said: list[str] | None = None,
    *,
    prune: bool = False,
    name: str = "the tests' list",
) -> EnsureAnswer:
    heard = said if said is not None else []
    return await library.ensure(parse_repo_list(text), heard.append, prune_others=prune, name=name)


def files_in(root: Path) -> dict[str, bytes]:
    """All files below a folder but our own notes."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".comfy-remote" not in path.relative_to(root).parts
    }
