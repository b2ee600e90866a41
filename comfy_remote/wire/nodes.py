"""What client and worker say to each other about node packs: actions, and their answers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, Field, JsonValue, StringConstraints, model_validator

from .actions import parse_input
from .installed import InstalledPack

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "CHANGES_NODES",
    "NODE_ACTIONS",
    "NodesAnswer",
    "NodesRequest",
    "PackWanted",
    "TakesNodes",
]

NodeAction = Literal["install_nodes", "nodes", "rollback_nodes"]

NODE_ACTIONS: frozenset[str] = frozenset({"install_nodes", "nodes", "rollback_nodes"})
"""Values of a job's ``action`` that are about node packs and run no workflow."""

CHANGES_NODES: frozenset[str] = frozenset({"install_nodes", "rollback_nodes"})
"""Those of them after which other nodes may be there."""

TakesNodes = Literal["registry", "git"]
"""How a worker may get node packs: a version of the Comfy Registry, a commit of a repository."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_VERSION = re.compile(r"\d+(\.\d+){1,3}([-+.][0-9A-Za-z.+-]{1,60})?")
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_NO_FOLDER = re.compile(  # ComfyUI does not import it, or Windows has no such folder
    r".*\.disabled|.*\.|__pycache__|(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE
)
_ADDRESS = re.compile(r"https?://[A-Za-z0-9\[][A-Za-z0-9._~/:%\[\]-]{0,499}")


class PackWanted(BaseModel):
    """One node pack, at exactly one state of its code.

    Attributes:
        source: Its id in the Comfy Registry, or its repository's address (https; without a login).
        version: A version of the registry, or all 40 digits of a commit: a branch or a tag can be
            moved to other code.
        classes: Classes of nodes that it is wanted for: without them it does not become current.
    """

    source: str
    version: str
    classes: Annotated[
        tuple[Annotated[str, StringConstraints(min_length=1, max_length=300)], ...],
        Field(max_length=2000),
    ] = ()

    @property
    def in_registry(self) -> bool:
        """Whether the source is an id."""
        return ":" not in self.source

    @property
    def by_commit(self) -> bool:
        """Whether it is fetched by git."""
        return _COMMIT.fullmatch(self.version) is not None

    @property
    def name(self) -> str:
        """Its folder in ``custom_nodes``: the id, or the last part of the address."""
        return self.source.rstrip("/").rpartition("/")[2].removesuffix(".git")

    @model_validator(mode="after")
    def _exact(self) -> Self:
        if not (_ID if self.in_registry else _ADDRESS).fullmatch(self.source):
            raise ValueError("give an id of the Comfy Registry, or https://HOST/OWNER/NAME")
        if not _ID.fullmatch(self.name) or _NO_FOLDER.fullmatch(self.name):
            raise ValueError(f"{self.name!r} cannot be the name of a folder")
        if not self.by_commit and not (self.in_registry and _VERSION.fullmatch(self.version)):
            what = "a version or " if self.in_registry else ""
            raise ValueError(f"{self.version!r} is not {what}all 40 digits of a commit")
        return self

    def __str__(self) -> str:
        return f"{self.source}@{self.version}"


class NodesRequest(BaseModel):
    """The ``input`` of a job that is about node packs.

    Attributes:
        action: ``install_nodes`` brings packs there, ``nodes`` says which are there by such jobs,
            ``rollback_nodes`` goes back to the set of packs before the current one.
        packs: What ``install_nodes`` brings. A pack that an earlier job has brought is replaced if
            its version differs; one that the image, the volume or the machine has is not.
    """

    action: NodeAction
    packs: Annotated[tuple[PackWanted, ...], Field(max_length=200)] = ()

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if self.action == "install_nodes" and not self.packs:
            raise ValueError("packs: name at least one")
        names = [one.name.casefold() for one in self.packs]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"packs: two have the folder {', '.join(twice)}")
        return self

    @classmethod
    def parse(cls, payload: JsonValue) -> NodesRequest:
        """Like `parse_input`."""
        advice = 'Send {"action": "install_nodes", "packs": [{"source": …, "version": …}]}.'
        return parse_input(cls, payload, advice)


class NodesAnswer(BaseModel):
    """The node packs that jobs have brought to a worker.

    Attributes:
        set: Identifies the set of packs that the engine starts with; ``None`` for none of ours.
        packs: What is in it.
        requirements: Versions of the Python packages that came with it, by name.
        made: When, in s since 1970.
        made_by: The worker that made it.
        can_go_back: Whether ``rollback_nodes`` has an earlier state to go back to.
        installed: Names of the packs that this job brought or replaced.
        there: Names of the packs that were there already as they were asked for.
        removed: Sets that were removed, since newer ones have replaced them.
        notes: For people.
    """

    status: Literal["success"] = "success"
    set: str | None = None
    packs: list[InstalledPack] = []
    requirements: dict[str, str] = {}
    made: float | None = None
    made_by: str | None = None
    can_go_back: bool = False
    installed: list[str] = []
    there: list[str] = []
    removed: list[str] = []
    notes: list[str] = []
