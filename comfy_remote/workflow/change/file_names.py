"""``%date:…%`` and ``%Node.input%`` in the names of saved files.

ComfyUI's page fills these in when a workflow is queued, in the inputs that some classes name.
ComfyUI itself does not, so a prompt that no page has made still has them.

Source of facts: ComfyUI's frontend 1.49.6 (text replacements, `saveImageExtraOutput`), and the
scripts of VideoHelperSuite, KJNodes and Easy Use.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Final

from ..prompt import Node, Prompt

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["CORE_SAVERS", "as_text", "fill_in", "fill_in_prompt", "has_placeholders", "left_over"]

CORE_SAVERS: Final = frozenset(
    {
        "SaveImage",
        "SaveImageAdvanced",
        "SaveSVGNode",
        "SaveVideo",
        "SaveAnimatedWEBP",
        "SaveWEBM",
        "SaveAudio",
        "SaveAudioMP3",
        "SaveAudioOpus",
        "SaveAudioAdvanced",
        "SaveGLB",
        "Save3DAdvanced",
        "SaveGaussianSplat",
        "SavePointCloud",
        "SaveAnimatedPNG",
        "CLIPSave",
        "VAESave",
        "ModelSave",
        "LoraSave",
        "SaveLatent",
    }
)
_PACK_SAVERS = {
    "VHS_VideoCombine",
    *("SaveImageKJ", "SaveImageWithAlpha", "SaveStringKJ", "DecodeAndSaveVideo"),
    *("ModelSaveKJ", "LoraExtractKJ"),
    *("easy imageSave", "easy fullkSampler", "easy kSampler", "easy kSamplerTiled"),
    *("easy kSamplerInpainting", "easy kSamplerDownscaleUnet", "easy kSamplerSDTurbo"),
    "easy detailerFix",
}
_INPUTS = ("filename_prefix", "save_prefix")

_PLACEHOLDER = re.compile(r"%([^%]+)%")
_DATE_PART = re.compile(r"dd?|MM?|hh?|mm?|ss?|yyyy|yyy|yy")
_UNSAFE = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')
_LEFT = re.compile(r"%(?:date:[^%]*|[^%./\\]+\.[^%./\\]+)%")


def has_placeholders(class_type: str, name: str) -> bool:
    """Whether the page fills in the placeholders of an input."""
    return name in _INPUTS and (class_type in CORE_SAVERS or class_type in _PACK_SAVERS)


def fill_in(text: str, lookup: Callable[[str, str], str | None], now: datetime) -> str:
    """A file name with its placeholders filled in.

    ``%Node.widget%`` is what ``lookup(node, widget)`` gives, made safe for file names, and
    ``%date:yyyy-MM-dd%`` the date. What cannot be found stays as it is.
    """

    def replace(match: re.Match[str]) -> str:
        parts = match.group(1).split(".")
        if len(parts) != 2:
            if parts[0].startswith("date:"):
                return _DATE_PART.sub(lambda part: _date_part(part.group(), now), parts[0][5:])
            return match.group()
        found = lookup(parts[0], parts[1])
        return match.group() if found is None else _UNSAFE.sub("_", found)

    return _PLACEHOLDER.sub(replace, text)


def fill_in_prompt(prompt: Prompt, now: datetime, names: Mapping[str, str] | None = None) -> Prompt:
    """A prompt with the placeholders filled in where the page would have done it.

    Args:
        prompt: Not changed.
        now: For dates.
        names: Node ids by the names that placeholders call them. By default a node is called by
            its class, else by its title.

    Returns:
        The same prompt if there are none, else a copy.
    """

    def lookup(name: str, key: str) -> str | None:
        if names is not None:
            nodes = [prompt[names[name]]] if names.get(name) in prompt else []
        else:
            nodes = [node for node in prompt.values() if node["class_type"] == name] or [
                node for node in prompt.values() if node.get("_meta", {}).get("title") == name
            ]
        value = nodes[0]["inputs"].get(key) if nodes else None
        return None if value is None or isinstance(value, list) else as_text(value)

    changed: dict[str, Node] = {}
    for node_id, node in prompt.items():
        for key, value in node["inputs"].items():
            if isinstance(value, str) and has_placeholders(node["class_type"], key):
                text = fill_in(value, lookup, now)
                if text != value:
                    copy = changed.get(node_id, node).copy()
                    copy["inputs"] = {**copy["inputs"], key: text}
                    changed[node_id] = copy
    return {**prompt, **changed} if changed else prompt


def left_over(prompt: Prompt) -> Iterator[tuple[str, str, str]]:
    """The placeholders that nothing fills in: node id, input and placeholder.

    ``%date:…%`` is looked for in every text, ``%Node.input%`` in the names of saved files.
    """
    for node_id, node in prompt.items():
        for key, value in node["inputs"].items():
            if isinstance(value, str):
                for match in _LEFT.finditer(value):
                    found = match.group()
                    if found.startswith("%date:") or key in _INPUTS:
                        yield node_id, key, found


def as_text(value: JsonValue) -> str:
    """A value as JavaScript writes it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    return str(value)


def _date_part(part: str, now: datetime) -> str:
    match part[0]:
        case "y":
            year = str(now.year)
            return year[2:] if part == "yy" else year if part == "yyyy" else part
        case "d":
            number = now.day
        case "M":
            number = now.month
        case "h":
            number = now.hour
        case "m":
            number = now.minute
        case _:
            number = now.second
    return str(number).zfill(len(part))
