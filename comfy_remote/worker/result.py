"""A job's answer in the dialect asked for, and no larger than the queue accepts.

Sizes are computed before anything is read: base64 takes four characters for three bytes,
and no character of it is escaped in JSON. So an answer of gigabytes is refused without ever
having been in memory.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pydantic import JsonValue

from ..errors import ExecutionFailed, OutputLost, OutputTooLarge
from ..outputs import RemoteOutput
from ..targets.download import Downloaded
from ..wire.answer import Answer, AnswerOutput
from ..wire.request import COMFY_REMOTE_1, AnswerFormat
from ..wire.worker_comfyui import WorkerComfyUIAnswer, WorkerComfyUIImage
from .collect import CollectedOutput
from .store import ResultStore

__all__ = ["AnswerFacts", "build_answer", "wanted_outputs"]

_NO_OUTPUT = "The workflow ran and made no output."
_ADD_A_NODE = "Add a Save Image node (or another that saves) to it."


_Content: TypeAlias = Callable[[Downloaded], str]
"""What to write for a file: its base64, or nothing while sizes are being counted."""


@dataclass(frozen=True, slots=True)
class AnswerFacts:
    """What an answer tells beside the outputs; see `Answer`."""

    timings: dict[str, float]
    engine: str | None = None
    worker: str | None = None


def wanted_outputs(
    outputs: Sequence[RemoteOutput], dialect: AnswerFormat
) -> tuple[RemoteOutput, ...]:
    """Those that the dialect has a place for, in the same order.

    Raises:
        OutputLost: ``comfy-remote/1``, and there is none at all.
        ExecutionFailed: ``worker-comfyui``, and there is none at all: that worker fails such
            a job, and says ``success_no_images`` only if there were other outputs.
    """
    if not outputs:
        kind = OutputLost if dialect == COMFY_REMOTE_1 else ExecutionFailed
        raise kind(_NO_OUTPUT, advice=_ADD_A_NODE)
    if dialect == COMFY_REMOTE_1:
        return tuple(outputs)
    # ComfyUI's SaveVideo lists its file under `images`, and that worker returns what stands there.
    return tuple(o for o in outputs if o.kind in ("image", "video") and o.folder == "output")


async def build_answer(
    collected: Sequence[CollectedOutput],
    dialect: AnswerFormat,
    facts: AnswerFacts,
    *,
    job_id: str,
    limit: int,
    store: ResultStore | None,
) -> dict[str, JsonValue]:
    """The answer, with the outputs' bytes in it as far as they fit.

    Args:
        limit: Bytes that the serialised result may have.
        store: Takes the largest outputs until the rest fits. Not used for
            ``worker-comfyui``, whose clients could not fetch them from there.

    Raises:
        OutputTooLarge: They do not fit, and there is no store.
        OutputError: The store would not take one.
    """

    def render(content: _Content) -> dict[str, JsonValue]:
        if dialect == COMFY_REMOTE_1:
            return _comfy_remote(collected, facts, urls, content)
        return _worker_comfyui(collected, content)

    urls: dict[int, str] = {}
    files = {number: one.file for number, one in enumerate(collected) if one.file}
    largest_first = sorted(files, key=lambda number: files[number].size, reverse=True)
    spills = iter(largest_first if store is not None and dialect == COMFY_REMOTE_1 else ())
    while (size := _size(render(_nothing), files, urls)) > limit:
        number = next(spills, None)
        if number is None or store is None:
            raise _too_large(size, limit, [collected[n] for n in largest_first if n not in urls])
        file = files[number]
        urls[number] = await store.put(job_id, file.path, file.sha256)
    return await asyncio.to_thread(render, _base64)


def _comfy_remote(
    collected: Sequence[CollectedOutput],
    facts: AnswerFacts,
    urls: Mapping[int, str],
    content: _Content,
) -> dict[str, JsonValue]:
    def described(number: int, one: CollectedOutput) -> AnswerOutput:
        output, file = one.output, one.file
        return AnswerOutput(
            node_id=output.node_id,
            kind=output.kind,
            filename=output.filename,
            subfolder=output.subfolder,
            folder=output.folder,
            media_type=output.media_type,
            size=file.size if file else None,
            sha256=file.sha256 if file else None,
            text=output.text,
            key=output.key,
            url=urls.get(number),
            data=content(file) if file and number not in urls else None,
        )

    return Answer(
        outputs=[described(number, one) for number, one in enumerate(collected)],
        timings=facts.timings,
        engine=facts.engine,
        worker=facts.worker,
    ).model_dump(mode="json", exclude_none=True)


def _worker_comfyui(
    collected: Sequence[CollectedOutput], content: _Content
) -> dict[str, JsonValue]:
    return WorkerComfyUIAnswer(
        images=[
            WorkerComfyUIImage(filename=one.output.filename, type="base64", data=content(one.file))
            for one in collected
            if one.file
        ],
        status=None if collected else "success_no_images",
    ).model_dump(mode="json", exclude_none=True)


def _nothing(_file: Downloaded) -> str:
    return ""


def _base64(file: Downloaded) -> str:
    return base64.b64encode(file.path.read_bytes()).decode("ascii")


def _size(
    bare: dict[str, JsonValue], files: Mapping[int, Downloaded], urls: Mapping[int, str]
) -> int:
    """Bytes of the result as the SDK sends it, of which ``bare`` lacks the files' content."""
    body = json.dumps({"output": bare}, ensure_ascii=False).encode()
    inline = (file.size for number, file in files.items() if number not in urls)
    return len(body) + sum((size + 2) // 3 * 4 for size in inline)


def _too_large(size: int, limit: int, largest: Sequence[CollectedOutput]) -> OutputTooLarge:
    sizes = [(one.output.filename, one.file.size) for one in largest if one.file]
    named = ", ".join(f"{name} ({_megabytes(each)})" for name, each in sizes[:5])
    return OutputTooLarge(
        f"The result would be {_megabytes(size)}, and {_megabytes(limit)} can be returned. "
        f"Its largest outputs: {named or 'texts'}.",
        advice="Save fewer or smaller files (JPEG or WebP, a smaller size or batch). A worker of "
        "`comfy-remote serve` has a store for large outputs (format comfy-remote/1).",
        details={
            "size": size,
            "limit": limit,
            "outputs": [{"filename": name, "size": each} for name, each in sizes],
        },
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
