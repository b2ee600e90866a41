"""What client and worker say to each other about models: actions, and their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, Field, JsonValue, StringConstraints

from .actions import parse_input
from .installed import LARGEST_SIZE, ModelFile

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "CHANGES_MODELS",
    "MODEL_ACTIONS",
    "PLACE",
    "CheckAnswer",
    "EnsureAnswer",
    "ModelFile",
    "ModelsAnswer",
    "ModelsRequest",
    "PlaceAnswer",
    "PlaceRequest",
    "PruneAnswer",
]

ModelAction = Literal["ensure", "check", "prune", "models"]

PLACE = "place"
"""The ``action`` of a `PlaceRequest`."""

MODEL_ACTIONS: frozenset[str] = frozenset({"ensure", "check", "prune", "models", PLACE})
"""Values of a job's ``action`` that are about models and run no workflow."""

CHANGES_MODELS: frozenset[str] = frozenset({"ensure", "prune", PLACE})
"""Those of them after which other models may be there."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class ModelsRequest(BaseModel):
    """The ``input`` of a job that is about models.

    Attributes:
        action: ``ensure`` fetches what is missing and prunes if asked to, ``check`` says what
            ``ensure`` would do, ``prune`` removes what the worker fetched and is not listed,
            ``models`` lists what is there.
        repo_list: See `repo_list.parse_repo_list`.
        prune: Whether ``ensure`` prunes (and ``check`` says so); ``None`` for the worker's own
            setting (``PRUNE_MODELS``, off by default). What another list has asked for in the
            last seven days always stays.
        list_name: Identifies this list: what an earlier version of it asked for no longer
            counts. A list without a name is identified by its lines.
        everything: Whether pruning with an empty list removes all that the worker fetched. An
            empty list alone is more likely a mistake, and prunes nothing.
    """

    action: ModelAction
    repo_list: str | list[str] = ""
    prune: bool | None = None
    list_name: str = Field(default="", max_length=200)
    everything: bool = False

    @classmethod
    def parse(cls, payload: JsonValue) -> ModelsRequest:
        """Like `parse_input`."""
        advice = 'Send {"action": "ensure", "repo_list": "[KIND] URL, one a line"}.'
        return parse_input(cls, payload, advice)


class EnsureAnswer(BaseModel):
    """All models of the list are there now. Paths are relative to the models folder.

    Attributes:
        ensured: Those of the list, in its order.
        fetched: Those of them that were downloaded just now.
        notes: For people: why nothing was pruned, for example.
    """

    status: Literal["success"] = "success"
    ensured: list[str]
    fetched: list[str] = []
    pruned: list[str] = []
    notes: list[str] = []


class CheckAnswer(BaseModel):
    """What ``ensure`` would do; nothing was changed.

    Attributes:
        would_keep: Models that are there and would stay: listed, pinned, or recently asked for
            by another list; all, without ``prune``.
        fetch_bytes: The size of the models that are missing, as far as it is known.
        free_bytes: Free space on the disk of the models.
        problems: Lines that could not be fetched, and why.
    """

    status: Literal["success"] = "success"
    would_keep: list[str]
    would_remove: list[str] = []
    would_fetch: list[str] = []
    fetch_bytes: int = Field(default=0, ge=0)
    free_bytes: int | None = None
    problems: list[str] = []
    notes: list[str] = []


class FilePart(BaseModel):
    """A part of a model's file, in the store of the gateway that the job comes by.

    The key is that of a job's other files, so the gateway knows that the job needs it.

    Attributes:
        size: Bytes; ``None`` from older clients. Of a part that has come before, nothing is
            fetched again.
    """

    name: str = Field(max_length=300)
    sha256: Sha256
    size: int | None = Field(default=None, gt=0, le=LARGEST_SIZE)


class PlaceRequest(BaseModel):
    """``action: place``: have a model under a name, whose content the client has.

    What the worker has already under another name is linked; else its parts are taken from the
    gateway's store, where the client has put them. Nothing that is there is replaced.

    Attributes:
        folder: Of ComfyUI's ``models``.
        name: Below that folder, ``/`` between its parts.
        size: Bytes.
        files: Its parts, in order. None: it can only be linked.
    """

    action: Literal["place"] = "place"
    folder: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
    name: str = Field(min_length=1, max_length=1024)
    size: int = Field(gt=0, le=LARGEST_SIZE)
    sha256: Sha256
    files: Annotated[list[FilePart], Field(max_length=4096)] = []

    @classmethod
    def parse(cls, payload: JsonValue) -> PlaceRequest:
        """Like `parse_input`."""
        return parse_input(cls, payload)


class PlaceAnswer(BaseModel):
    """The model is there now.

    Attributes:
        path: Relative to the models folder.
        how: Whether it was ``there`` already, was ``linked`` (or copied, on a disk that has no
            links), or ``received``.
        same_as: Path of the model that it was linked to.
    """

    status: Literal["success"] = "success"
    path: str
    how: Literal["there", "linked", "received"]
    same_as: str | None = None


class PruneAnswer(BaseModel):
    """What was removed, and what the worker fetched and stays."""

    status: Literal["success"] = "success"
    pruned: list[str]
    kept: list[str] = []
    notes: list[str] = []


class ModelsAnswer(BaseModel):
    """The models that are there, by folder (``checkpoints``, ``loras``, …)."""

    status: Literal["success"] = "success"
    models: dict[str, list[ModelFile]]

    @classmethod
    def of_names(cls, listed: Mapping[str, Sequence[str]]) -> Self:
        """Where only their names are known, as ComfyUI lists them by folder."""
        found = {folder: [ModelFile(name=n) for n in names] for folder, names in listed.items()}
        return cls(models={folder: files for folder, files in found.items() if files})
