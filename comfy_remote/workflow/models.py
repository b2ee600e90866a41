"""Which models a prompt names, in which folders, and where its workflow says to get them.

Source of facts: ``nodes.py``, ``comfy_extras/`` and ``folder_paths.py`` of ComfyUI 0.3.64 to
0.33.0. ``configs`` (files that come with ComfyUI) and ``diffusers`` (folders) are left out.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePosixPath

from ..data_class import dataclass
from ..types import JsonValue, mapping, mappings
from .json_document import graphs_in
from .prompt import Place, Prompt, is_link

__all__ = [
    "FOLDERS",
    "MODEL_SUFFIXES",
    "Model",
    "ModelSource",
    "ModelUse",
    "find_models",
    "model_sources",
    "model_uses",
    "names_a_file",
]

_FOLDER_BY_INPUT = {
    "audio_encoder_name": "audio_encoders",
    "bg_removal_name": "background_removal",
    "ckpt_name": "checkpoints",
    "clip_name1": "text_encoders",
    "clip_name2": "text_encoders",
    "clip_name3": "text_encoders",
    "clip_name4": "text_encoders",
    "control_net_name": "controlnet",
    "gligen_name": "gligen",
    "hypernetwork_name": "hypernetworks",
    "lora_name": "loras",
    "photomaker_model_name": "photomaker",
    "style_model_name": "style_models",
    "unet_name": "diffusion_models",
    "vae_name": "vae",
}
"""Names that mean the same in every class of ComfyUI, and in the packs that follow it."""

_FOLDER_BY_CLASS = {
    ("CLIPLoader", "clip_name"): "text_encoders",
    ("CLIPVisionLoader", "clip_name"): "clip_vision",
    ("FrameInterpolationModelLoader", "model_name"): "frame_interpolation",
    ("LTXAVTextEncoderLoader", "text_encoder"): "text_encoders",
    ("LatentUpscaleModelLoader", "model_name"): "latent_upscale_models",
    ("LoadDA3Model", "model_name"): "geometry_estimation",
    ("LoadMediaPipeFaceLandmarker", "model_name"): "detection",
    ("LoadMoGeModel", "model_name"): "geometry_estimation",
    ("ModelPatchLoader", "name"): "model_patches",
    ("OpticalFlowLoader", "model_name"): "optical_flow",
    ("TrainLoraNode", "existing_lora"): "loras",
    ("UpscaleModelLoader", "model_name"): "upscale_models",
}
"""Names that mean another folder in each class."""

FOLDERS = frozenset(
    {*_FOLDER_BY_INPUT.values(), *_FOLDER_BY_CLASS.values(), "embeddings", "vae_approx"}
)
"""The folders of ComfyUI's ``models/`` that hold what workflows name."""

MODEL_SUFFIXES = frozenset(
    {".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".pth", ".bin", ".gguf", ".onnx", ".pkl"}
)
"""How the files of models end."""

_VIDEO_TINY_AUTOENCODERS = frozenset(
    {"taehv", "lighttaew2_2", "lighttaew2_1", "lighttaehy1_5", "taeltx_2", "taeh3"}
)
"""What ``VAELoader`` takes from ``vae_approx``, by the name without its ending."""

# "(embedding:name:1.2)": a word of a text, with a weight or a comma behind it.
_EMBEDDING = re.compile(r"(?:^|(?<=[\s(]))embedding:([^\s,:()<\[\]]+)")
# What ComfyUI called two of its folders before it read both names as one.
_OLD_FOLDERS = {"clip": "text_encoders", "unet": "diffusion_models"}
# Words in a list of models for none, or for one that is computed.
_NO_FILE = frozenset({"", "none", "[none]", "pixel_space", "baked vae", "automatic"})


@dataclass(frozen=True, slots=True)
class ModelUse:
    """One input of one node that names a model.

    Attributes:
        name: The file, below its folder; as in the prompt, so possibly with ``\\``.
        folder: Of ComfyUI's ``models/`` ("checkpoints", "loras", …); ``None`` if only the node's
            pack knows it.
    """

    node_id: str
    input: str
    name: str
    folder: str | None


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a workflow in UI format says that a model is available.

    Attributes:
        url: Written by whoever made the workflow, so not to be trusted.
        hash: Of its content, with ``hash_type`` ("SHA256"); mostly ``None``.
    """

    name: str
    folder: str
    url: str
    hash: str | None = None
    hash_type: str | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """A model that a prompt needs: once, however many nodes use it.

    Attributes:
        name: The file, below its folder.
        folder: As in `ModelUse`, else as the workflow says.
        places: The inputs that name it.
    """

    name: str
    folder: str | None
    places: tuple[Place, ...] = ()
    source: ModelSource | None = None

    def to_json(self) -> dict[str, JsonValue]:
        """A description for programs."""
        source = self.source
        return {
            "name": self.name,
            "folder": self.folder,
            "places": [f"{node_id}.{name}" for node_id, name in self.places],
            "url": source.url if source else None,
            "hash": source.hash if source else None,
            "hash_type": source.hash_type if source else None,
        }


def model_uses(prompt: Prompt) -> Iterator[ModelUse]:
    """Every input that names a model, in the order of the prompt.

    The folder is known for ComfyUI's own nodes, and for other inputs of the same names. Other
    values that end like a model's file count, with an unknown folder, and so does
    ``embedding:NAME`` in texts (mostly without the file's ending).
    """
    for node_id, node in prompt.items():
        for key, value in node["inputs"].items():
            if is_link(value):
                continue
            for name in _texts(value):
                folder = _folder(node["class_type"], key, name)
                if folder is not None or ends_like_a_model(name):
                    yield ModelUse(node_id, key, name, folder)
                elif "embedding:" in name:
                    for embedding in dict.fromkeys(_EMBEDDING.findall(name)):
                        yield ModelUse(node_id, key, embedding, "embeddings")


def find_models(prompt: Prompt, workflow: Mapping[str, JsonValue] | None = None) -> list[Model]:
    """The models a prompt needs, each once, in the order of their first use.

    Args:
        prompt: Nodes that feed no output count: omit them with `graph.needed_nodes`.
        workflow: The same in UI format, which may say where to get the models.
    """
    sources = {
        (_posix(source.name), _OLD_FOLDERS.get(source.folder, source.folder)): source
        for source in model_sources(workflow or {})
    }
    by_name = {name: source for (name, _), source in reversed(sources.items())}
    found: dict[tuple[str, str | None], Model] = {}
    places: defaultdict[tuple[str, str | None], dict[Place, None]] = defaultdict(dict)
    for use in model_uses(prompt):
        name, folder = _posix(use.name), use.folder
        source = by_name.get(name) if folder is None else sources.get((name, folder))
        if folder is None and source is not None:
            folder = source.folder
        found.setdefault((name, folder), Model(use.name, folder, source=source))
        places[name, folder][use.node_id, use.input] = None
    return [replace(model, places=tuple(places[key])) for key, model in found.items()]


def model_sources(workflow: Mapping[str, JsonValue]) -> list[ModelSource]:
    """Where a workflow in UI format says that models are available; each once.

    From ``models`` of the workflow, and of the ``properties`` of nodes (newer editors and
    templates). Malformed entries are skipped.
    """
    found: dict[tuple[str, str, str], ModelSource] = {}
    for raw in _raw_sources(workflow):
        name, folder, url = (raw.get(key) for key in ("name", "directory", "url"))
        digest, kind = raw.get("hash"), raw.get("hash_type")
        if isinstance(name, str) and isinstance(folder, str) and isinstance(url, str):
            found[name, folder, url] = ModelSource(
                name,
                folder,
                url,
                digest if isinstance(digest, str) else None,
                kind if isinstance(kind, str) else None,
            )
    return list(found.values())


def _raw_sources(workflow: Mapping[str, JsonValue]) -> Iterator[dict[str, JsonValue]]:
    for graph in graphs_in(workflow):
        yield from mappings(graph.get("models"))
        for node in mappings(graph.get("nodes")):
            yield from mappings(mapping(node.get("properties")).get("models"))


def names_a_file(choice: str) -> bool:
    """Whether a choice in a list of models is a file, and not a word for none."""
    return choice.strip().lower() not in _NO_FILE


def _folder(class_type: str, key: str, value: str) -> str | None:
    folder = _FOLDER_BY_CLASS.get((class_type, key)) or _FOLDER_BY_INPUT.get(key)
    if folder is None or not names_a_file(value):
        return None
    if folder == "vae" and PurePosixPath(value).stem in _VIDEO_TINY_AUTOENCODERS:
        return "vae_approx"
    if folder == "vae" and not ends_like_a_model(value):
        return None  # a tiny autoencoder of two files: "taesd"
    return folder


def _texts(value: JsonValue) -> Iterator[str]:
    """The texts in a value; packs put lists and objects of models into one input."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        if isinstance(value, dict) and value.get("on") is False:
            return  # a LoRA in a list that is switched off
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)


def ends_like_a_model(value: str) -> bool:
    """Whether a value has the ending of a model's file."""
    return (
        len(value) <= 1024
        and "." in value
        and "\n" not in value
        and PurePosixPath(_posix(value)).suffix.lower() in MODEL_SUFFIXES
    )


def _posix(name: str) -> str:
    return name.replace("\\", "/")
