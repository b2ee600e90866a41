"""Pictures that a node sends on the socket instead of saving them (core's SaveImageWebsocket).

They are sent once, like previews, and the history does not list them, so we save them at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

from ...errors import LocalStorageError
from ...media.disk_space import DiskLimits
from ...media.file_changes import discard
from ...media.files import storage_errors
from ...media.temporary import TemporaryFolder
from ...outputs import OutputProblem, OutputSource, RemoteOutput
from ...workflow.graph import output_nodes
from ...workflow.prompt import Prompt
from .messages import PreviewMessage

__all__ = ["FrameSpool", "SentFrames", "senders"]

# These nodes only send pictures: if none arrived, it was missed.
_SENDERS = frozenset({"SaveImageWebsocket", "ETN_SendImageWebSocket"})


def senders(prompt: Prompt) -> list[str]:
    """The ids of nodes whose pictures reach only a client that is connected then."""
    return [node_id for node_id, node in prompt.items() if node["class_type"] in _SENDERS]


class FrameSpool:
    """The pictures of one target, in files of ours until they are fetched or the target closes."""

    def __init__(self) -> None:
        self._folder: TemporaryFolder | None = None
        self._count = 0

    def keep(self, content: bytes) -> Path:
        """Write a picture.

        Raises:
            LocalStorageError: It cannot be written, or the disk would be too full.
        """
        if self._folder is None:
            self._folder = TemporaryFolder("frames")
        self._count += 1
        path = Path(self._folder.name, f"{self._count}.png")
        DiskLimits.of().check_room(path, len(content))
        with storage_errors(path):
            path.write_bytes(content)
        return path

    def release(self, outputs: Collection[RemoteOutput]) -> None:
        """Delete the pictures of outputs that have been fetched."""
        for output in outputs:
            if output.source is not None and output.source.file is not None:
                discard(output.source.file)

    def close(self) -> None:
        """Delete all pictures."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


class SentFrames:
    """The pictures of one prompt.

    Args:
        prompt: Says which nodes feed others: their pictures are previews.
    """

    def __init__(self, spool: FrameSpool, prompt: Prompt) -> None:
        self._spool = spool
        self._prompt = prompt
        self._ends = frozenset(output_nodes(prompt))
        self._failure: LocalStorageError | None = None
        self.outputs: list[RemoteOutput] = []

    def is_output(self, message: PreviewMessage, node_id: str | None) -> bool:
        """Whether a picture is an output: a PNG of a node at the end. Previews are JPEG."""
        return message.media_type == "image/png" and node_id in self._ends

    def keep(self, message: PreviewMessage, node_id: str) -> RemoteOutput | None:
        """Write a picture; ``None`` if that fails, which `problems` then says. Blocking."""
        number = sum(output.node_id == node_id for output in self.outputs) + 1
        try:
            path = self._spool.keep(message.data)
        except LocalStorageError as error:
            self._failure = error
            return None
        output = RemoteOutput(
            node_id=node_id,
            kind="image",
            filename=f"websocket_{node_id}_{number:05}_.png",
            media_type="image/png",
            size=len(message.data),
            sha256=hashlib.sha256(message.data).hexdigest(),
            source=OutputSource(file=path),
            key="images",
        )
        self.outputs.append(output)
        return output

    def problems(self) -> list[OutputProblem]:
        """What is missing: one entry for each node whose pictures are not here."""
        reason = "its pictures are only sent while it runs, and none arrived here"
        if self._failure is not None:
            reason = f"one of its pictures could not be saved: {self._failure.message}"
        kept = {output.node_id for output in self.outputs} if self._failure is None else set()
        return [
            OutputProblem(node_id, self._prompt[node_id]["class_type"], None, reason)
            for node_id in senders(self._prompt)
            if node_id not in kept
        ]
