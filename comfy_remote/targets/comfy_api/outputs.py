"""The outputs of one job, as its server describes them. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath

from ...media.remote_values import VALUES_KEY, sha256_in_name
from ...outputs import (
    TEXT_KEYS,
    OutputKind,
    OutputProblem,
    OutputSource,
    RemoteOutput,
    in_prompt_order,
    kind_of,
    media_type_of,
)
from ...wire.comfy_api import ApiJob, ApiOutput, OutputType, blake3_digits
from ...workflow.interface import REMOTE_OUTPUT
from ...workflow.output_nodes import OUTPUT_NODES
from ...workflow.prompt import Prompt
from .links import Links

__all__ = ["JobOutputs", "not_returned"]

_KINDS: Mapping[OutputType, OutputKind] = {
    OutputType.IMAGE: "image",
    OutputType.VIDEO: "video",
    OutputType.AUDIO: "audio",
    OutputType.TEXT: "text",
}


class JobOutputs:
    """Reads what a server says of a job's outputs, again and again while it runs.

    Args:
        links: Where their bytes may be read with the server's key.
    """

    def __init__(self, prompt: Prompt, links: Links) -> None:
        self._prompt, self._links = prompt, links
        self._known: dict[tuple[str, str], RemoteOutput] = {}
        self._names: Counter[tuple[str, str]] = Counter()

    def read(self, said: ApiOutput) -> tuple[RemoteOutput, bool]:
        """An output, and whether it is a new one: more may be known of it the next time."""
        key = (said.id, said.node_id)
        known = self._known.get(key)
        output = self._known[key] = self._described(said, known)
        return output, known is None

    def of(self, job: ApiJob) -> tuple[RemoteOutput, ...]:
        """Those in an answer, all of which have been read, in the order of the prompt's nodes.

        Live events may have announced others, which are not there after all.
        """
        here = {(one.id, one.node_id) for one in job.outputs}
        known = (output for key, output in self._known.items() if key in here)
        return in_prompt_order(known, self._prompt)

    def _described(self, said: ApiOutput, known: RemoteOutput | None) -> RemoteOutput:
        path = PurePosixPath(said.name.replace("\\", "/"))
        name = path.name or f"{said.node_id}_output"
        folder = "" if str(path.parent) == "." else str(path.parent)
        if known is not None:
            number = known.number
        else:
            # The API gives no folders, so two may have one name.
            number = self._names[folder, name] or None
            self._names[folder, name] += 1
        kind = kind_of(name)
        if kind == "file":
            kind = _KINDS.get(said.type, kind)
        media_type = said.content_type.partition(";")[0].strip().lower()
        # The API has no names for what a node gives: that of a Remote Output is one value file.
        node = self._prompt.get(said.node_id)
        value = node is not None and node["class_type"] == REMOTE_OUTPUT
        value = value and name.endswith(".safetensors")
        shown = next((key for key in TEXT_KEYS if name.startswith(f"{said.node_id}_{key}_")), None)
        # By its id, since a link of its own may have expired when it is read.
        content = self._links.path("assets", said.id, "content").lstrip("/")
        return RemoteOutput(
            node_id=said.node_id or None,
            kind=kind,
            filename=name,
            subfolder=folder,
            media_type=media_type or media_type_of(name),
            # A server that has not looked yet says 0.
            size=said.size_bytes or None,
            sha256=sha256_in_name(name) if value else None,
            blake3=blake3_digits(said.hash or ""),
            source=OutputSource(path=content),
            key=VALUES_KEY if value else shown if said.type is OutputType.TEXT else None,
            number=number,
        )


def not_returned(
    prompt: Prompt, outputs: tuple[RemoteOutput, ...], name: str
) -> tuple[OutputProblem, ...]:
    """The nodes that save or show something of which the server returned nothing.

    Args:
        name: Of the target.
    """
    returned = {output.drawn_node for output in outputs}
    return tuple(
        OutputProblem(node_id, node["class_type"], None, f"{name} returned no output of it")
        for node_id, node in prompt.items()
        if node_id not in returned
        and (known := OUTPUT_NODES.get(node["class_type"])) is not None
        and (not known.preview or known.kind == "text")
    )
