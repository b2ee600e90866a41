"""Pictures that a node sends on the socket instead of saving them (core's SaveImageWebsocket).

They are sent once, like previews, and the history does not list them, so we save them at once. A
PNG of a node at the end is an output; another picture may be a preview, until the history counts
what the node has sent.

Source of facts: ComfyUI's ``websocket_image_save.py``, and ``ui`` of the nodes of external tooling.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from ...errors import LocalStorageError
from ...events import ShownValues
from ...media.disk_space import DiskLimits
from ...media.file_changes import discard
from ...media.files import storage_errors
from ...media.temporary import TemporaryFolder
from ...outputs import OutputProblem, OutputSource, RemoteOutput, media_type_of
from ...workflow.graph import output_nodes
from ...workflow.prompt import Prompt
from .messages import PreviewMessage

__all__ = ["FrameSpool", "SentFrames", "senders"]

_MOST_UNDECIDED = 256  # pictures of a node, each in a file
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

    def keep(self, content: bytes, ending: str) -> Path:
        """Write a picture, in a file with this ending.

        Raises:
            LocalStorageError: It cannot be written, or the disk would be too full.
        """
        if self._folder is None:
            self._folder = TemporaryFolder("frames")
        self._count += 1
        path = Path(self._folder.name, f"{self._count}{ending}")
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

    Attributes:
        outputs: The pictures that are outputs, as far as is known.
    """

    def __init__(self, spool: FrameSpool, prompt: Prompt) -> None:
        self._spool = spool
        self._prompt = prompt
        self._ends = frozenset(output_nodes(prompt))
        self._senders = frozenset(senders(prompt))
        self._failure: LocalStorageError | None = None
        self._maybe: dict[str, list[RemoteOutput]] = {}
        self._sent: dict[str, int] = {}
        self.outputs: list[RemoteOutput] = []

    @property
    def undecided(self) -> bool:
        """Whether there are pictures of which `settle` decides. Otherwise, it does not block."""
        return bool(self._maybe)

    def may_be_output(self, node_id: str | None) -> bool:
        """Whether a picture of a node may be an output: it feeds no other."""
        return node_id in self._ends

    def keep(self, message: PreviewMessage, node_id: str) -> RemoteOutput | None:
        """Write a picture. Blocking.

        Returns:
            The output; ``None`` if it may be a preview, or could not be written, which `problems`
            then says.
        """
        number = sum(output.node_id == node_id for output in self.outputs) + 1
        ending = _ending(message.data)
        try:
            path = self._spool.keep(message.data, ending)
        except LocalStorageError as error:
            self._failure = error
            return None
        output = RemoteOutput(
            node_id=node_id,
            kind="image",
            filename=_name(node_id, number, ending),
            media_type=media_type_of(path.name),
            size=len(message.data),
            sha256=hashlib.sha256(message.data).hexdigest(),
            source=OutputSource(file=path),
            key="images",
        )
        if ending == ".png" or node_id in self._senders:
            self.outputs.append(output)
            return output
        maybe = self._maybe.setdefault(node_id, [])
        maybe.append(output)
        if len(maybe) > _MOST_UNDECIDED:
            self._spool.release([maybe.pop(0)])
        return None

    def settle(self, shown: Mapping[str, ShownValues]) -> None:
        """Decide which pictures are outputs: nodes that send some count them in their ``ui``."""
        self._sent = {node_id: n for node_id, ui in shown.items() if (n := _sent(ui))}
        for node_id, maybe in self._maybe.items():
            known = sum(output.node_id == node_id for output in self.outputs)
            # Previews come before what they are a preview of.
            last = maybe[max(0, len(maybe) - max(0, self._sent.get(node_id, 0) - known)) :]
            self._spool.release(maybe[: len(maybe) - len(last)])
            for number, output in enumerate(last, known + 1):
                ending = Path(output.filename).suffix
                self.outputs.append(replace(output, filename=_name(node_id, number, ending)))
        self._maybe.clear()

    def problems(self) -> list[OutputProblem]:
        """What is missing: one entry for each node whose pictures are not all here."""
        arrived = Counter(output.node_id for output in self.outputs)
        wanted = {**dict.fromkeys(senders(self._prompt), 1), **self._sent}
        return [
            OutputProblem(node_id, self._prompt[node_id]["class_type"], None, reason)
            for node_id, count in wanted.items()
            if node_id in self._prompt
            and (reason := self._missing(arrived[node_id], count)) is not None
        ]

    def _missing(self, arrived: int, sent: int) -> str | None:
        if self._failure is not None:
            return f"one of its pictures could not be saved: {self._failure.message}"
        if arrived >= sent:
            return None
        here = f"{arrived} of {sent}" if arrived else "none"
        return f"its pictures are only sent while it runs, and {here} arrived here"


def _sent(ui: ShownValues) -> int:
    """How many pictures a node says that it has sent on the socket."""
    return sum(
        isinstance(value, dict) and value.get("source") == "websocket"
        for values in ui.values()
        if isinstance(values, list)
        for value in values
    )


def _name(node_id: str, number: int, ending: str) -> str:
    return f"websocket_{node_id}_{number:05}_{ending}"


def _ending(content: bytes) -> str:
    """By the content: ComfyUI announces whatever is no PNG as a JPEG."""
    if content.startswith(b"\x89PNG"):
        return ".png"
    return ".webp" if content[:4] == b"RIFF" and content[8:12] == b"WEBP" else ".jpg"
