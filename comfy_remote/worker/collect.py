"""A job's outputs, brought from the engine to files of ours, byte for byte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..outputs import RemoteOutput
from ..targets.base import Target
from ..targets.concurrent_map import concurrent_map
from ..targets.download import Downloaded, download

__all__ = ["CollectedOutput", "collect_outputs"]


@dataclass(frozen=True, slots=True)
class CollectedOutput:
    """An output, and its file; a text (``output.text``) has none."""

    output: RemoteOutput
    file: Downloaded | None


async def collect_outputs(
    target: Target, outputs: Sequence[RemoteOutput], folder: Path
) -> list[CollectedOutput]:
    """Stream every output into ``folder``, four side by side.

    Returns:
        In the order of ``outputs``.

    Raises:
        ComfyRemoteError: As `download` does; the files then in ``folder`` are of no use.
    """

    async def collect(numbered: tuple[int, RemoteOutput]) -> CollectedOutput:
        number, output = numbered
        if output.text is not None:
            return CollectedOutput(output, None)
        file = await download(target, output, folder / f"output-{number}")
        return CollectedOutput(output, file)

    return await concurrent_map(collect, enumerate(outputs))
