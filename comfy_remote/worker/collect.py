"""A job's outputs, copied from the engine to our files, byte for byte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..aio import concurrent_map
from ..errors import ComfyRemoteError, LocalStorageError, RateLimited, TargetUnreachable
from ..media.disk_space import DiskLimits
from ..media.receive import Received
from ..outputs import OutputProblem, RemoteOutput
from ..targets.base import Target
from ..targets.download import download
from ..workflow.prompt import Prompt

# From the engine on this machine; what the worker keeps has limits of its own.
_NO_LIMITS = DiskLimits(largest=2**63, free=0)

__all__ = ["Collected", "CollectedOutput", "collect_outputs"]


@dataclass(frozen=True, slots=True)
class CollectedOutput:
    """An output, and its file; a text (``output.text``) has none."""

    output: RemoteOutput
    file: Received | None


@dataclass(frozen=True, slots=True)
class Collected:
    """The outputs that could be brought here, and what is wrong with the others.

    Attributes:
        outputs: In the order in which they were wanted.
        problems: What is wrong with the others, and with those that are damaged.
        lost: The outputs that the engine does not have, and why.
    """

    outputs: list[CollectedOutput] = field(default_factory=list)
    problems: list[OutputProblem] = field(default_factory=list)
    lost: list[tuple[RemoteOutput, ComfyRemoteError]] = field(default_factory=list)


async def collect_outputs(
    target: Target, outputs: Sequence[RemoteOutput], folder: Path, prompt: Prompt
) -> Collected:
    """Stream every output into ``folder``, four side by side.

    One that the engine does not have, or not whole, does not cost the others.

    Raises:
        TargetUnreachable: The engine does not answer.
        LocalStorageError: It cannot be written (disk full).
    """

    async def collect(numbered: tuple[int, RemoteOutput]) -> CollectedOutput | ComfyRemoteError:
        number, output = numbered
        if output.text is not None:
            return CollectedOutput(output, None)
        try:
            file = await download(target, output, folder / f"output-{number}", limits=_NO_LIMITS)
        except LocalStorageError:
            raise
        except (TargetUnreachable, RateLimited) as error:
            if "http_status" not in error.details:
                raise
            return error  # it answers, and has no answer but that for this file
        except ComfyRemoteError as error:
            return error
        return CollectedOutput(output, file)

    collected = Collected()
    found = await concurrent_map(collect, enumerate(outputs))
    for output, here in zip(outputs, found, strict=True):
        if isinstance(here, ComfyRemoteError):
            collected.lost.append((output, here))
            reason = here.message
        else:
            collected.outputs.append(here)
            reason = here.file.doubt if here.file else ""
        if reason:
            node = prompt.get(output.node_id or "")
            collected.problems.append(
                OutputProblem(
                    output.node_id, node["class_type"] if node else None, output.filename, reason
                )
            )
    return collected
