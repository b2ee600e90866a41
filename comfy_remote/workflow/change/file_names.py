"""Names of saved files: their folder on the target, ``%date:…%`` and ``%Node.input%`` in them.

A save node has a ``filename_prefix`` such as ``portraits/anna``: the folder below ComfyUI's own
output folder, and the beginning of the name (ComfyUI's ``folder_paths.get_save_image_path``).

ComfyUI's page fills in placeholders when a workflow is queued, in inputs of some classes. ComfyUI
itself does not, so a prompt that no page has made still has them.

Source of facts: ComfyUI's frontend 1.49.6 (text replacements, `saveImageExtraOutput`), and the
scripts of VideoHelperSuite, KJNodes, Easy Use and Lora Manager.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from types import MappingProxyType

from ...errors import WorkflowInvalid
from ...types import JsonValue
from ..graph import linked_node
from ..output_nodes import OUTPUT_NODES
from ..prompt import Place, Prompt, with_inputs

__all__ = [
    "as_text",
    "below_output",
    "fill_in",
    "fill_in_prompt",
    "find_name_prefixes",
    "has_placeholders",
    "is_absolute",
    "left_over",
    "name_below",
]

_PACK_SAVERS = {
    "VHS_VideoCombine",
    *("SaveImageKJ", "SaveImageWithAlpha", "SaveStringKJ", "DecodeAndSaveVideo"),
    *("ModelSaveKJ", "LoraExtractKJ"),
    *("easy imageSave", "easy fullkSampler", "easy kSampler", "easy kSamplerTiled"),
    *("easy kSamplerInpainting", "easy kSamplerDownscaleUnet", "easy kSamplerSDTurbo"),
    "easy detailerFix",
    "Save Image (LoraManager)",
}
_PREFIX = "filename_prefix"
_INPUTS = (_PREFIX, "save_prefix")

_ABSOLUTE = re.compile(r"/|[A-Za-z]:/|~")
_PLACEHOLDER = re.compile(r"%([^%]+)%")
_DATE_PART = re.compile(r"dd?|MM?|hh?|mm?|ss?|yyyy|yyy|yy")
_UNSAFE = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')
_LEFT = re.compile(r"%(?:date:[^%]*|[^%./\\]+\.[^%./\\]+)%")


def has_placeholders(class_type: str, name: str) -> bool:
    """Whether the page fills in the placeholders of an input."""
    known = OUTPUT_NODES.get(class_type)
    core = known is not None and known.placeholders
    return name in _INPUTS and (core or class_type in _PACK_SAVERS)


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


def fill_in_prompt(
    prompt: Prompt,
    now: datetime,
    names: Mapping[str, str] | None = None,
    primitives: Mapping[str, Place] = MappingProxyType({}),
) -> Prompt:
    """A copy of a prompt with the placeholders filled in where the page would have done it.

    Args:
        now: For dates.
        names: Node ids by their names in placeholders; by default classes, else titles.
        primitives: Where ``%Name.value%`` stands, for nodes that are in no prompt.
    """

    def lookup(name: str, key: str) -> str | None:
        if key == "value" and name in primitives:
            node_id, key = primitives[name]
            nodes = [prompt[node_id]] if node_id in prompt else []
        elif names is not None:
            nodes = [prompt[names[name]]] if names.get(name) in prompt else []
        else:
            nodes = [node for node in prompt.values() if node["class_type"] == name] or [
                node for node in prompt.values() if node.get("_meta", {}).get("title") == name
            ]
        value = nodes[0]["inputs"].get(key) if nodes else None
        return None if value is None or isinstance(value, list) else as_text(value)

    filled: dict[Place, JsonValue] = {
        (node_id, key): text
        for node_id, node in prompt.items()
        for key, value in node["inputs"].items()
        if isinstance(value, str)
        and has_placeholders(node["class_type"], key)
        and (text := fill_in(value, lookup, now)) != value
    }
    return with_inputs(prompt, filled) if filled else prompt


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


def find_name_prefixes(prompt: Prompt) -> list[Place]:
    """The inputs that name saved files; raises `WorkflowInvalid` for none, or a computed one."""
    found: dict[Place, None] = {}
    for node_id, node in prompt.items():
        if _PREFIX not in node["inputs"]:
            continue
        place = _written_at(prompt, node_id)
        if place is None:
            raise WorkflowInvalid(
                f"Other nodes compute the file name of {node['class_type']} (node {node_id}), so "
                "its folder cannot be set.",
                advice="Write ${OUTPUT_FOLDER} into the workflow file where the folder belongs.",
                details={"node_id": node_id, "input": _PREFIX},
            )
        found[place] = None
    if not found:
        raise WorkflowInvalid(
            "No node of the workflow says where it saves: none has a filename_prefix.",
            advice="Omit the folder on the target, or write ${OUTPUT_FOLDER} into the "
            "workflow file where it belongs.",
        )
    return list(found)


def _written_at(prompt: Prompt, node_id: str) -> Place | None:
    """Where the prefix is written: at the node, or at a primitive; ``None`` if it is computed."""
    value = prompt[node_id]["inputs"][_PREFIX]
    if isinstance(value, str):
        return node_id, _PREFIX
    link = linked_node(prompt, value)
    given = prompt[link[0]]["inputs"] if link is not None else {}
    if link is None or len(given) != 1 or not isinstance(next(iter(given.values())), str):
        return None
    return link[0], next(iter(given))


def below_output(folder: str) -> str:
    """A folder on the target as ComfyUI's ``filename_prefix`` has it: below its output folder.

    Of a whole path, what comes after ``output``, above all after ``ComfyUI/output``; ``.`` for
    that folder itself.

    >>> below_output("/workspace/ComfyUI/output/films"), below_output("films")
    ('films', 'films')

    Raises:
        WorkflowInvalid: It leads elsewhere, as far as its text shows.
    """
    text = folder.replace("\\", "/").rstrip("/")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if is_absolute(folder):
        found = [number for number, part in enumerate(parts) if part.casefold() == "output"]
        after = [n for n in found if n and parts[n - 1].casefold() == "comfyui"] or found
        parts = parts[after[0] + 1 :] if after else [".."]
    if ".." in parts:
        raise WorkflowInvalid(
            f"{folder} is not below ComfyUI's output folder, and ComfyUI saves nowhere else.",
            advice="Give the folder as it is called below that one: films, not /workspace/films.",
        )
    return "/".join(parts) or "."


def is_absolute(folder: str) -> bool:
    """Whether it is a whole path, on whatever system."""
    return _ABSOLUTE.match(folder.replace("\\", "/")) is not None


def name_below(prompt: Prompt, places: Iterable[Place], folder: str) -> Prompt:
    """The prompt with its files named as before (at `find_name_prefixes`), in that folder.

    ComfyUI refuses a folder that leads out of its output folder.
    """
    folder = folder.replace("\\", "/").rstrip("/")
    if folder == ".":
        return prompt
    return with_inputs(
        prompt,
        {
            (node_id, key): f"{folder}/{str(prompt[node_id]['inputs'][key]).lstrip('/')}"
            for node_id, key in places
        },
    )


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
