"""Whether what is sent and what comes back fits through the target's queue."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...types import JsonValue
from ...units import size_text
from ..files import FileSearch, every_file_use
from ..prompt import Prompt
from ..schema import Schemas
from .report import Problem
from .sizes import SAVERS, Pictures

__all__ = ["Limits", "file_problems", "request_size", "result_size"]

_ENVELOPE = 200
_AROUND_FILE = 120


@dataclass(frozen=True, slots=True)
class Limits:
    """What a target takes and returns, in bytes of JSON; ``None``: no limit."""

    request: int | None = None
    result: int | None = None


def file_problems(
    prompt: Prompt, search: FileSearch, live: Sequence[str], schemas: Schemas
) -> tuple[list[Problem], dict[str, Path]]:
    """The files that are missing; and those that are here, by name.

    One that is named in another of ComfyUI's folders (``a.png [output]``) may be the target's own.
    """
    problems: list[Problem] = []
    found: dict[str, Path] = {}
    for use in every_file_use({node_id: prompt[node_id] for node_id in live}, schemas):
        path = search.find(use.name, use.folder)
        if path is not None:
            found[use.name if use.folder == "input" else use.value] = path
        elif use.folder == "input" and not use.on_target and use.name not in search.on_target:
            refused = search.refusal(use.name)
            why = f", {refused}, is not sent" if refused else " is not here"
            problems.append(
                Problem(
                    "missing_file",
                    f"The file {use.name[:200]!r}{why}. Looked in: {search.folders()}.",
                    use.node_id,
                    prompt[use.node_id]["class_type"],
                    use.input,
                    search.advice(use.name),
                    details={"name": use.name},
                )
            )
    return problems, found


def request_size(
    prompt: Prompt,
    workflow: Mapping[str, JsonValue] | None,
    files: Mapping[str, Path],
    limits: Limits,
) -> Iterator[Problem]:
    """Whether the request is larger than the target accepts. Files travel as base64 in it."""
    if limits.request is None:
        return
    documents = [document for document in (prompt, workflow) if document is not None]
    sizes = {name: path.stat().st_size for name, path in files.items() if path.is_file()}
    size = sum(len(json.dumps(document).encode()) for document in documents) + _ENVELOPE
    size += sum((each + 2) // 3 * 4 + _AROUND_FILE for each in sizes.values())
    if size <= limits.request:
        return
    named = ", ".join(
        f"{name} ({size_text(each)})"
        for name, each in sorted(sizes.items(), key=lambda item: -item[1])[:5]
    )
    yield Problem(
        "request_too_large",
        f"The request would be {size_text(size)}, and the target accepts "
        f"{size_text(limits.request)}. Input files: {named or 'none'}.",
        advice="Use smaller files (JPEG or WebP), store them on the target, or use a pod or "
        "another ComfyUI URL, which has no such limit.",
        details={"size": size, "limit": limits.request},
    )


def result_size(
    prompt: Prompt, live: Sequence[str], sizes: Mapping[str, Pictures], limits: Limits
) -> Iterator[Problem]:
    """Whether the outputs are larger than the target can return, as far as they can be estimated.

    An error where even files of half the usual detail would not fit, else a warning.
    """
    if limits.result is None:
        return
    expected: dict[str, tuple[int, int]] = {}
    for node_id in live:
        kind = SAVERS.get(prompt[node_id]["class_type"])
        if kind is not None and node_id in sizes:
            pixels = sizes[node_id].pixels
            least = kind.least if sizes[node_id].sampled else 0.0
            expected[node_id] = (int(pixels * least * 4 / 3), int(pixels * kind.typical * 4 / 3))
    at_least = sum(low for low, _ in expected.values())
    about = sum(typical for _, typical in expected.values())
    if not expected or about <= limits.result:
        return
    largest = max(expected, key=lambda node_id: expected[node_id][1])
    yield Problem(
        "output_too_large",
        f"The outputs would be about {size_text(about)} (as base64), and the target returns "
        f"{size_text(limits.result)}. The most comes from this node: {sizes[largest]}.",
        largest,
        prompt[largest]["class_type"],
        advice="Save as a video, JPEG or WebP, make fewer or smaller pictures, give the worker a "
        "store for large outputs, or run on a pod or another ComfyUI URL.",
        severity="error" if at_least > limits.result else "warning",
        details={"estimate": about, "at_least": at_least, "limit": limits.result},
    )
