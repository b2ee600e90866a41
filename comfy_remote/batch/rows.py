"""The prompt and the files of one row of a batch, from what was frozen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputFileMissing
from ..jobs.inputs import SearchedFolders
from ..jobs.submission import Submission, prepared
from ..workflow.files import FileSearch
from .frozen import Frozen, FrozenFile

if TYPE_CHECKING:
    from ..schemas.finding import Found
    from ..targets.base import Target
    from ..workflow.load import LoadedWorkflow
    from ..workflow.prompt import Prompt
    from ..workflow.schema import Schemas
    from .plan import Plan

__all__ = ["Rows"]


class Rows:
    """What each row of a batch sends.

    Args:
        target: Asked whether it has files that are not here.
    """

    def __init__(self, frozen: Frozen, plan: Plan, target: Target) -> None:
        self._frozen = frozen
        self._plan = plan
        self._target = target
        self._base = frozen.base()
        self._schemas = frozen.known_schemas()
        self._files = {file.path: file for file in frozen.files}

    async def submission(self, row: int) -> Submission:
        """What to send for a row.

        Raises:
            WorkflowInvalid: A value does not fit.
            InputFileMissing: One of its files has changed since the batch was made, or is gone.
        """
        changes = self._plan.changes(row, self._base)
        given = [path.absolute() for path in self._plan.files(row)]
        search = FileSearch((*given, *self._files), ())
        return await prepared(
            self._frozen.loaded(changes),
            changes,
            self._target,
            search,
            schemas_for=self._found,
            schemas_of=self._known,
            source=_FrozenFiles(search, self._files),
        )

    async def _found(self, _: LoadedWorkflow) -> Found:
        from ..schemas.finding import Found

        return Found(self._schemas)

    async def _known(self, _: Prompt) -> Schemas:
        return self._schemas


class _FrozenFiles(SearchedFolders):
    """The files of a batch, each as it was when that was made."""

    def __init__(self, search: FileSearch, files: dict[Path, FrozenFile]) -> None:
        super().__init__(search)
        self._files = files

    def described(self, path: Path) -> tuple[int, str]:
        known = self._files.get(path.absolute())
        if known is None:
            raise InputFileMissing(
                f"{path} was not among the batch's files when it was made.",
                advice="Make a new batch.",
            )
        return known.checked()
