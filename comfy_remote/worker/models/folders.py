"""Where a worker's models are, and which folder each kind of model belongs in."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...errors import ConfigurationError, WorkflowInvalid
from ...media.file_changes import discard
from ...media.files import safe_relative_path
from ...units import size_text
from ...workflow.models import FOLDERS

__all__ = [
    "KNOWN_FOLDERS",
    "MODEL_SUFFIXES",
    "OUR_FOLDER",
    "ModelFolders",
    "PartFile",
    "ever_fetched",
    "folder_of",
    "is_model_folder",
    "is_model_name",
    "remove_old_parts",
    "safe_model_name",
    "volume_report",
]

OUR_FOLDER = ".comfy-remote"
"""Below the models folder: the manifest, and who is at work. ComfyUI does not look there."""

# What people write in a repo_list; a folder's own name is understood as well.
_SPELLINGS = {
    "audio_encoders": "audio_encoder",
    "checkpoints": "checkpoint ckpt",
    "clip_vision": "clipvision",
    "controlnet": "control control_net controlnets",
    "diffusion_models": "diffusion diffusion_model unet",
    "embeddings": "embedding textual_inversion",
    "hypernetworks": "hypernetwork",
    "ipadapter": "ipadapters",
    "latent_upscale_models": "latent_upscale",
    "loras": "lora lycoris",
    "model_patches": "model_patch",
    "style_models": "style style_model",
    "text_encoders": "clip t5 text_encoder",
    "upscale_models": "esrgan upscale upscale_model upscaler",
    "vae": "vaes",
}
KNOWN_FOLDERS = frozenset(_SPELLINGS)
"""ComfyUI's own folders for models."""
_FOLDERS = {kind: folder for folder, kinds in _SPELLINGS.items() for kind in kinds.split()}

# ComfyUI reads these folders as one (its folder_paths.py).
_ALSO = {"controlnet": "t2i_adapter", "diffusion_models": "unet", "text_encoders": "clip"}

_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")  # as `wire.models.PlaceRequest` has it
_OF_CODE = frozenset({"custom_nodes", "nodes"})

_OLD_PART = 14 * 24 * 3600.0  # seconds
_TEXTS = {".yaml", ".yml", ".json", ".txt"}
_WEIGHTS = {
    *(".safetensors", ".sft", ".gguf", ".onnx"),
    *(".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl"),
}
MODEL_SUFFIXES = frozenset(_WEIGHTS - {".pkl"} | _TEXTS)
"""Endings that may be fetched: weights, and the small texts that belong to some. Not ``.pkl``,
which is a bare pickle; ``.ckpt`` and its like are loaded by ComfyUI with ``weights_only``."""
_LAYOUTS = ("models", "ComfyUI/models")
_MOST_FILES = 20


def folder_of(kind: str) -> str:
    """The folder below ComfyUI's ``models`` for a kind as a line of a repo_list names it.

    A folder that only a node pack knows is spelled as the pack spells it.

    >>> folder_of("ckpt"), folder_of("Lora"), folder_of("ultralytics"), folder_of("LLM")
    ('checkpoints', 'loras', 'ultralytics', 'LLM')
    """
    plain = kind.lower()
    folder = _FOLDERS.get(plain, plain)
    return folder if folder in KNOWN_FOLDERS or folder in FOLDERS else kind


def is_model_folder(name: str) -> bool:
    """Whether a folder of that name, below ComfyUI's ``models``, may be for models: one of
    ComfyUI's own, or of a node pack; nothing hidden, no path, and none from which code is loaded.
    """
    if _FOLDER.fullmatch(name) is None or name.lower() in _OF_CODE:
        return False
    return str(safe_relative_path(name)) == name  # Windows has other names for some


def safe_model_name(name: str) -> str:
    """A model's file name, possibly with folders, that stays below its folder.

    Raises:
        WorkflowInvalid: Its ending is not one of a model (`MODEL_SUFFIXES`).
    """
    safe = safe_relative_path(name)
    if any(part.startswith(".") for part in safe.parts):
        safe = PurePosixPath(*(part.lstrip(".") or "_" for part in safe.parts))
    if safe.suffix.lower() not in MODEL_SUFFIXES:
        raise WorkflowInvalid(
            f"{str(safe)!r} is not the name of a model: its ending is {safe.suffix or 'missing'}.",
            advice="If the file is a model, say so with name=FILE.safetensors in the line. Known "
            f"endings: {' '.join(sorted(MODEL_SUFFIXES))}.",
            details={"name": str(safe)},
        )
    return str(safe)


def is_model_name(name: str) -> bool:
    """Whether a name is what `safe_model_name` makes of it."""
    try:
        return safe_model_name(name) == name
    except WorkflowInvalid:
        return False


class ModelFolders:
    """The models folders of one worker.

    Args:
        roots: ComfyUI ``models`` folders, the one to download into first. Those after it are
            only looked into.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = tuple(roots)

    @classmethod
    def of_worker(cls, *, chosen: Path | None, volume: Path, engine: Path | None) -> ModelFolders:
        """The folders of this worker.

        Args:
            chosen: What the environment names; goes before all others.
            volume: Where a network volume is mounted, if there is one. It may hold a whole
                ``ComfyUI`` folder, or ``models`` alone.
        """
        candidates = [volume / layout for layout in reversed(_LAYOUTS)]
        found = [folder for folder in candidates if folder.is_dir()]
        if not found and volume.is_dir():
            found = [volume / "models"]
        roots = [chosen, *found] if chosen else [*found]
        if engine is not None:
            roots.append(engine)
        return cls(list(dict.fromkeys(roots)))

    @property
    def root(self) -> Path:
        """The folder to download into; `ConfigurationError` if there is none."""
        if not self.roots:
            raise ConfigurationError(
                "This worker has no folder for models: no network volume is mounted, and its "
                "engine has none that is known here.",
                advice="Set COMFY_REMOTE_MODELS_DIR to the engine's models folder, or start the "
                "worker with a ComfyUI folder.",
            )
        return self.roots[0]

    def find(self, folder: str, name: str) -> Path | None:
        """A model that is there under that name, wherever ComfyUI would find it.

        ``None`` also for a name that leads out of the folder: an engine elsewhere may list any.
        """
        if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
            return None
        folders = (folder, _ALSO.get(folder, folder))
        paths = (root / one / name for root in self.roots for one in folders)
        return next((path for path in paths if path.is_file()), None)

    def folders_with(self, name: str) -> set[str]:
        """The folders that have a model under that name."""
        found = (folder for root in self.roots for folder in _folders_in(root))
        return {folder_of(folder.name) for folder in found if (folder / name).is_file()}

    def shown(self, path: Path) -> str:
        """A model's path for an answer: relative to its models folder, ``/`` between parts."""
        root = self.root_of(path)
        return path.name if root is None else path.relative_to(root).as_posix()

    def root_of(self, path: Path) -> Path | None:
        """The models folder that a path is in."""
        return next((root for root in self.roots if path.is_relative_to(root)), None)

    def models(self) -> Iterator[tuple[str, str, Path]]:
        """All models: folder, name in it, path. One that two roots have comes once.

        Those with a name that is not text, as an old file system's may be, are left out: no
        workflow can name them.
        """
        seen: set[tuple[str, str]] = set()
        for root in self.roots:
            for folder in sorted(_folders_in(root)):
                for path in sorted(folder.rglob("*")):
                    name = path.relative_to(folder).as_posix()
                    key = (folder.name, name)
                    weights = path.suffix.lower() in _WEIGHTS and _is_text(folder.name + name)
                    if weights and key not in seen and path.is_file():
                        seen.add(key)
                        yield folder.name, name, path


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _folders_in(root: Path) -> list[Path]:
    try:
        return [each for each in root.iterdir() if each.is_dir() and each.name[0] != "."]
    except OSError:
        return []


@dataclass(frozen=True, slots=True)
class PartFile:
    """The unfinished file of one download.

    Attributes:
        folder: The model's folder below it, where the ``.part`` is.
        key: Names it: the same for the same link and name.
    """

    root: Path
    folder: str
    key: str

    @property
    def path(self) -> Path:
        """Of the bytes."""
        return self.root / self.folder / f"{OUR_FOLDER}-{self.key}.part"

    @property
    def note(self) -> Path:
        """Of what is known about them."""
        return self.root / OUR_FOLDER / "parts" / f"{self.key}.json"

    @property
    def size(self) -> int:
        """Bytes that are here already."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def remove(self) -> None:
        """Throw it away."""
        for path in (self.path, self.note):
            discard(path)


def remove_old_parts(root: Path) -> None:
    """Remove unfinished files below a models folder that nobody has gone on with for two weeks."""
    oldest = time.time() - _OLD_PART
    for path in root.glob(f"*/{OUR_FOLDER}-*.part*"):
        try:
            old = path.stat().st_mtime < oldest
        except OSError:
            continue  # it has ended meanwhile
        if old:
            key = path.name.removeprefix(f"{OUR_FOLDER}-").partition(".part")[0]
            discard(path)
            discard(PartFile(root, path.parent.name, key).note)


def ever_fetched(root: Path) -> bool:
    """Whether anything was ever fetched, or begun to be, into a models folder."""
    return any((root / OUR_FOLDER / notes).is_dir() for notes in ("files", "parts"))


def volume_report(volume: Path) -> Iterator[str]:
    """Lines that say which models ComfyUI finds on a network volume, and which files it ignores.

    For ``NETWORK_VOLUME_DEBUG``.
    """
    if not volume.is_dir():
        yield f"no network volume is mounted at {volume}"
        return
    usage = shutil.disk_usage(volume)
    yield f"{volume}: {size_text(usage.free)} of {size_text(usage.total)} are free"
    roots = [volume / layout for layout in _LAYOUTS if (volume / layout).is_dir()]
    if not roots:
        yield f"it has neither {' nor '.join(_LAYOUTS)}: ComfyUI finds no models on it"
    for root in roots:
        for folder in sorted(path for path in root.iterdir() if path.is_dir()):
            yield from _reported(folder)


def _reported(folder: Path) -> Iterator[str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    models = [path for path in files if path.suffix.lower() in MODEL_SUFFIXES]
    yield f"{folder}: {len(models)} models"
    for path in models[:_MOST_FILES]:
        yield f"  {path.relative_to(folder)} ({size_text(path.stat().st_size)})"
    if len(models) > _MOST_FILES:
        yield f"  and {len(models) - _MOST_FILES} more"
    if others := [path.name for path in files if path not in models and path.suffix != ".part"]:
        yield f"  {len(others)} files are no models, by their names: {', '.join(others[:5])}"
