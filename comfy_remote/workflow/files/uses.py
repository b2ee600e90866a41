"""Which inputs of a prompt name a file."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import field, replace

from ...data_class import dataclass
from ...types import JsonValue
from ..interface import REMOTE_INPUT
from ..live_inputs import live_inputs
from ..prompt import Place, Prompt, is_link, own_values, with_inputs
from ..schema import InputSchema, Schemas, input_schema

__all__ = [
    "ANNOTATION",
    "FileUse",
    "every_file_use",
    "file_use",
    "file_uses",
    "rename_files",
    "with_names",
]

# Inputs of ComfyUI's own nodes (and of VideoHelperSuite's) that name a file in `input/`: known
# without asking for schemas.
_FILE_INPUTS = {
    "LoadImage": "image",
    "LoadImageMask": "image",
    "LoadImageOutput": "image",
    "LoadAudio": "audio",
    "LoadVideo": "file",
    "LoadLatent": "latent",
    "Load3D": "model_file",
    "Load3DAnimation": "model_file",
    "Load3DAdvanced": "model_file",
    "Painter": "mask",
    REMOTE_INPUT: "file",
    "VHS_LoadVideo": "video",
    "VHS_LoadAudioUpload": "audio",
}
ANNOTATION = re.compile(r"^(?P<name>.*?) ?\[(?P<folder>input|output|temp)\]$", re.DOTALL)
"""``name [input]`` says which of ComfyUI's folders a name is in; input is the default."""


# Inputs whose value is an object, and the keys in it that name files: what the page of a 3D node
# has captured.
_CAPTURED = ("image", "mask", "normal", "lineart", "recording")
_FILES_IN_OBJECTS = {("Load3D", "image"): _CAPTURED, ("Load3DAnimation", "image"): _CAPTURED}
_UPLOAD = re.compile(r"(?!.*(folder|directory)).*_upload")
_FOLDERS = ("input", "output", "temp")
# Not an address, and not the content itself, which some nodes of packs also accept.
_NAME = re.compile(r"(?!data:|[\w+.-]+://)[^\n]{1,1024}")
# Nodes that need no file: the input may be empty.
_MAY_BE_EMPTY = frozenset({REMOTE_INPUT, "Painter"})


@dataclass(frozen=True, slots=True)
class FileUse:
    """One input of one node that names a file.

    Attributes:
        name: Below its folder; for an asset, ``blake3:`` and its hash.
        folder: ``input``, ``output``, ``temp`` or ``asset``.
        value: As in the prompt, perhaps one of several in a list or an object.
        on_target: Whether the target lists it among the input's choices.
    """

    node_id: str
    input: str
    name: str
    folder: str = "input"
    value: str = field(default="", compare=False)
    on_target: bool = field(default=False, compare=False)


def file_uses(prompt: Prompt, schemas: Schemas | None = None) -> Iterator[FileUse]:
    """Every file the prompt loads from ``input/``, in the order of its nodes.

    Names annotated ``[output]`` or ``[temp]``, and ``blake3:`` hashes, may be the target's own.
    """
    return (use for use in every_file_use(prompt, schemas) if use.folder == "input")


def every_file_use(prompt: Prompt, schemas: Schemas | None = None) -> Iterator[FileUse]:
    """Every file the prompt loads, from any folder, in the order of its nodes.

    Without schemas, only the nodes of ComfyUI itself and a few others are known.
    """
    for node_id, node in prompt.items():
        kind, inputs = node["class_type"], node["inputs"]
        uploads = {} if schemas is None else _uploads(schemas.declared(kind), inputs)
        for key, value in inputs.items():
            if _FILE_INPUTS.get(kind) == key or (kind, key) in _FILES_IN_OBJECTS:
                for name in _named(kind, key, value):
                    if name != "none":
                        yield file_use(node_id, key, name)
            elif key in uploads:
                yield from _uploaded(node_id, uploads[key], value)


def with_names(prompt: Prompt, names: Mapping[FileUse, str]) -> Prompt:
    """The prompt with other names for some of the files that it loads."""
    changed: dict[Place, JsonValue] = {}
    for use, name in names.items():
        place = use.node_id, use.input
        value = changed.get(place, prompt[use.node_id]["inputs"][use.input])
        changed[place] = _replaced(value, {use.value: name}.get)
    return with_inputs(prompt, changed)


def rename_files(
    prompt: Prompt, names: Mapping[str, JsonValue], places: Collection[Place] = ()
) -> Prompt:
    """The prompt with file names replaced wherever a value is exactly that name.

    Also in lists and objects of names, and in ComfyUI's long form ``name [input]``. A prompt that
    names none of the files is returned itself.

    Args:
        names: New names by old ones, with ``/`` between folders; or whatever else a target reads
            in place of a name.
        places: The only inputs to look at; by default all.
    """

    def renamed(text: str) -> JsonValue:
        annotated = ANNOTATION.match(text)
        plain = annotated["name"] if annotated and annotated["folder"] == "input" else text
        return names.get(plain.replace("\\", "/"))

    everywhere = ((node_id, key) for node_id, node in prompt.items() for key in node["inputs"])
    changed: dict[Place, JsonValue] = {}
    for node_id, key in places or everywhere:
        value = prompt[node_id]["inputs"].get(key) if node_id in prompt else None
        new = _replaced(value, renamed)
        if new != value:
            changed[node_id, key] = new
    return with_inputs(prompt, changed) if changed else prompt


def _named(kind: str, key: str, value: JsonValue) -> Iterator[str]:
    """The names in one input, if it is one for files."""
    if _FILE_INPUTS.get(kind) == key and isinstance(value, str):
        if value or kind not in _MAY_BE_EMPTY:
            yield value
    elif isinstance(value, dict):
        for part in _FILES_IN_OBJECTS.get((kind, key), ()):
            if (found := value.get(part)) and isinstance(found, str):
                yield found


def _uploads(
    declared: Mapping[str, JsonValue], inputs: Mapping[str, JsonValue]
) -> dict[str, InputSchema]:
    """The inputs of a node that take uploaded files: ``image_upload`` and its like are set."""
    specs = live_inputs(declared, inputs).all()
    found = {name: input_schema(name, spec) for name, spec in specs.items()}
    return {
        name: spec
        for name, spec in found.items()
        if any(on and _UPLOAD.fullmatch(option) for option, on in spec.options.items())
    }


def _uploaded(node_id: str, spec: InputSchema, value: JsonValue) -> Iterator[FileUse]:
    """What one input names that by its schema takes an uploaded file, or several."""
    folder = spec.options.get("image_folder")
    for name in own_values(value):
        if isinstance(name, str) and _NAME.fullmatch(name):
            use = file_use(node_id, spec.name, name, folder if folder in _FOLDERS else "input")
            yield replace(use, on_target=name in spec.choices)


def file_use(node_id: str, key: str, value: str, folder: str = "input") -> FileUse:
    """What one value names: a file, perhaps with a word that says in which folder."""
    if value.startswith("blake3:"):
        return FileUse(node_id, key, value, "asset", value)
    annotated = ANNOTATION.match(value)
    if annotated is None:
        return FileUse(node_id, key, value, folder, value)
    return FileUse(node_id, key, annotated["name"], annotated["folder"], value)


def _replaced(value: JsonValue, change: Callable[[str], JsonValue]) -> JsonValue:
    """A value with its texts changed, also in lists and objects; ``None``: that text stays."""
    if isinstance(value, str):
        new = change(value)
        return value if new is None else new
    if isinstance(value, list):
        return value if is_link(value) else [_replaced(one, change) for one in value]
    if isinstance(value, dict):
        return {key: _replaced(one, change) for key, one in value.items()}
    return value
