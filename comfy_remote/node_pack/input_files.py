"""The files that a page's prompt loads: found in ComfyUI's own folders, and only there."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ..errors import InputFileMissing
from ..jobs.inputs import collect_inputs
from ..media.files import sha256_of
from ..targets.base import InputFile, Target, input_errors
from ..workflow.files import FileUse, every_file_use, file_below, under_plain_name
from ..workflow.prompt import Prompt
from ..workflow.schema import Schemas
from .host import FolderKind, Host

__all__ = ["InputFiles"]

_MOST_DIGESTS = 1000


class InputFiles:
    """Finds what prompts load, and remembers what it has hashed.

    Only files below ``input/``, ``output/`` and ``temp/`` travel: a page that names another
    file of this machine must not get it sent to a target.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._digests: dict[tuple[str, int, int], str] = {}

    async def collect(
        self, prompt: Prompt, target: Target, schemas: Schemas | None
    ) -> tuple[Prompt, list[InputFile]]:
        """The files that are here, and the prompt with the names they get on the target.

        Args:
            schemas: The target's, if known: they say which inputs of custom nodes name files.

        Raises:
            InputFileMissing: One is neither here nor on the target.
        """
        return await collect_inputs(prompt, every_file_use(prompt, schemas), target, self)

    async def hashes(self, prompt: Prompt, schemas: Schemas) -> dict[str, str]:
        """The SHA-256 of the files that a prompt loads, by the name it has for them.

        Those that are not here are left out.
        """
        found: dict[str, str] = {}
        for use in every_file_use(prompt, schemas):
            path = await asyncio.to_thread(self.find, use)
            if path is not None:
                _, digest = await asyncio.to_thread(self.described, path)
                found[f"{use.name} [{use.folder}]"] = digest
        return found

    def find(self, use: FileUse) -> Path | None:
        """Where a file is, if it is in one of ComfyUI's folders. Blocking."""
        if use.folder == "asset":
            return self._host.asset(use.name)
        kinds: dict[str, FolderKind] = {"output": "output", "temp": "temp"}
        folder = self._host.folder(kinds.get(use.folder, "input"))
        return file_below(folder, use.name) or under_plain_name(
            use.name, lambda name: file_below(folder, name)
        )

    def described(self, path: Path) -> tuple[int, str]:
        """Size and SHA-256. A batch loads the same files every time, so they are cached."""
        with input_errors(path):
            status = path.stat()
            key = (str(path), status.st_size, status.st_mtime_ns)
            digest = self._digests.get(key)
            if digest is None:
                digest = sha256_of(path)
                if len(self._digests) >= _MOST_DIGESTS:
                    self._digests.clear()
                self._digests[key] = digest
        return status.st_size, digest

    def must_be_found(self, use: FileUse) -> bool:
        """Always: the prompt was made here, by these folders."""
        return True

    def may_be_on_target(self, use: FileUse) -> bool:
        """Assets, and what other nodes have made, are not uploaded there."""
        return use.folder == "input"

    def missing(self, use: FileUse, prompt: Prompt) -> InputFileMissing:
        """The error for what is neither here nor on the target."""
        node = f"{prompt[use.node_id]['class_type']} (node {use.node_id})"
        where = "among ComfyUI's assets" if use.folder == "asset" else f"in ComfyUI's {use.folder}/"
        return InputFileMissing(
            f"{node} loads {use.name!r}, which is neither {where} nor on the target.",
            advice="Choose a file that is there, or upload it again.",
            details={"node_id": use.node_id, "input": use.input, "name": use.name},
        )
