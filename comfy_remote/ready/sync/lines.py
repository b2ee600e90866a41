"""How a model is named to a worker that is to fetch it: a line of a repo_list."""

from __future__ import annotations

from ...errors import ModelUnavailable, WorkflowInvalid
from ...wire.repo_list import parse_repo_list
from ...worker.models.folders import folder_of
from ..lock import LockedModel

__all__ = ["repo_line"]


def repo_line(model: LockedModel, url: str) -> str:
    """The line of a repo_list for a model.

    Raises:
        ModelUnavailable: It would be read as another one, without the SHA-256 perhaps: a lock takes
            names that a line has no words for.
    """
    sha256 = f" sha256={model.sha256}" if model.sha256 else ""
    line = f'{model.folder} {url} name="{model.name}"{sha256}'
    wanted = (folder_of(model.folder or ""), url, model.name, model.sha256)
    try:
        lines = parse_repo_list(line)
        read = [(folder_of(one.kind), one.url, one.name, one.sha256) for one in lines]
    except WorkflowInvalid:
        read = []
    if read != [wanted]:
        raise ModelUnavailable(
            f"A worker cannot be asked to fetch {model.path}.",
            advice="Its name must not contain quotes or '#'. Rename it, or put it there by hand.",
        )
    return line
