"""Which models folder a file belongs in, where its line of a repo_list does not say.

Publishers say it of what they have (Civitai a type, Hugging Face tags and folders), and the header
of a safetensors file names its tensors. Files of other formats are not looked into: a pickle would
have to be run.

Types are those that Civitai's API lists (developer.civitai.com/docs/api/public-rest); names of
tensors are those by which ComfyUI knows what it loads (``comfy/model_detection.py``).
"""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Collection
from pathlib import PurePosixPath

from ...media.formats import Malformed, safetensors
from .folders import KNOWN_FOLDERS, folder_of
from .http import ModelHttp
from .link import Location

__all__ = [
    "folder_of_file",
    "folder_of_tags",
    "folder_of_tensors",
    "folder_of_type",
    "folder_on_way",
]

_TYPES = {
    "checkpoint": "checkpoints",
    "controlnet": "controlnet",
    "dora": "loras",
    "hypernetwork": "hypernetworks",
    "locon": "loras",
    "lora": "loras",
    "motionmodule": "animatediff_models",
    "textualinversion": "embeddings",
    "upscaler": "upscale_models",
    "vae": "vae",
}
_TAGS = {
    "controlnet": "controlnet",
    "lora": "loras",
    "super-resolution": "upscale_models",
    "textual_inversion": "embeddings",
}
# The first that fits the name of any tensor decides.
_TENSORS = [
    (folder, re.compile(pattern))
    for folder, pattern in (
        ("loras", r"lora_(unet|te\d?)_|(.*\.)?(lora_(up|down|A|B)|hada_w\d|lokr_w\d|dora_scale)\b"),
        ("controlnet", r"control_model\.|controlnet_|input_hint_block\.|(.*\.)?zero_convs\."),
        ("ipadapter", r"(image_proj|ip_adapter)\."),
        ("diffusion_models", r"model\.diffusion_model\."),
        ("text_encoders", r"(.*\.)?(embed_tokens|token_embedding|shared)\.weight$"),
        ("clip_vision", r"(vision_model|visual)\."),
        ("upscale_models", r"(conv_first|model\.0)\.weight$"),
        (
            "diffusion_models",
            r"(net\.)?((double|single|transformer|joint|input|down)_blocks|blocks|layers)\.0\.",
        ),
        ("vae", r"(first_stage_model\.)?(decoder|encoder)\."),
        ("embeddings", r"(emb_params|string_to_param|clip_[gl])$"),
    )
]
_OTHER_PARTS = re.compile(r"(first_stage_model|cond_stage_model|conditioner|text_encoders|vae)\.")
_READ_AT_ONCE = 64 * 1024
_LONGEST_HEADER = 16 * 1024 * 1024


def folder_of_type(said: str) -> str | None:
    """The folder for a type that Civitai says: ``LORA``, ``Checkpoint``."""
    return _TYPES.get(said.casefold())


def folder_of_tags(tags: Collection[str]) -> str | None:
    """The folder for a repository with these tags on Hugging Face."""
    return next((folder for tag, folder in _TAGS.items() if tag in tags), None)


def folder_on_way(path: str) -> str | None:
    """The last of ComfyUI's folders that a path leads through: ``vae`` in ``split/vae/a.sft``."""
    parts = PurePosixPath(path.lower()).parts[:-1]
    return next((folder_of(p) for p in reversed(parts) if folder_of(p) in KNOWN_FOLDERS), None)


def folder_of_tensors(names: Collection[str]) -> str | None:
    """The folder for a file of tensors with these names; ``None`` if they say nothing.

    >>> folder_of_tensors(["lora_unet_down_blocks_0.lora_up.weight"])
    'loras'
    """
    for folder, pattern in _TENSORS:
        if any(map(pattern.match, names)):
            whole = folder == "diffusion_models" and any(map(_OTHER_PARTS.match, names))
            return "checkpoints" if whole else folder
    return None


async def folder_of_file(http: ModelHttp, location: Location) -> str | None:
    """The folder for a file by its header; ``None`` if it has none, or one that says nothing.

    Raises:
        ModelUnavailable: It is not there, or may not be had.
        TryAgain: The server could not be asked.
    """
    header = bytearray()
    wanted = 8
    async with http.get(location, f"bytes=0-{_LONGEST_HEADER - 1}") as answer:
        async for chunk in answer.chunks(_READ_AT_ONCE):
            header += chunk
            if len(header) >= 8:
                wanted = 8 + int.from_bytes(header[:8], "little")
            if len(header) >= wanted or wanted > _LONGEST_HEADER:
                break
    return await asyncio.to_thread(_folder_by_header, bytes(header[:wanted]))


def _folder_by_header(header: bytes) -> str | None:
    """Blocking: a header may have 16 MB, and as many names as fit."""
    try:
        return folder_of_tensors(safetensors.tensor_names(io.BytesIO(header)))
    except (EOFError, Malformed):
        return None
