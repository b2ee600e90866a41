"""A job's answer, no larger than the queue accepts: what does not fit goes elsewhere.

Sizes are computed before anything is read: base64 takes four characters for three bytes,
and no character of it is escaped in JSON. So an answer of gigabytes is refused without ever
having been in memory.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import JsonValue

from ..errors import ComfyRemoteError, OutputTooLarge
from ..events import ShownValues
from ..media.files import storage_errors
from ..media.receive import Received
from ..secrets import redact
from ..units import size_text
from .collect import CollectedOutput
from .dialects import DIALECTS, AnswerFacts, Content, Dialect, Draft
from .storage import Store, StoredFile

__all__ = ["build_answer", "shown_within"]

# Bytes of JSON of all nodes together: it is meant to be looked at, and files are outputs.
_MOST_SHOWN = 1_000_000
_SHORTEST_FILE = 16 * 1024  # characters of a text: a shorter one saves little


async def build_answer(
    collected: Sequence[CollectedOutput],
    dialect: Dialect,
    facts: AnswerFacts,
    *,
    job_id: str,
    limit: int,
    folder: Path,
    stores: Sequence[Store] = (),
    warnings: Sequence[str] = (),
) -> dict[str, JsonValue]:
    """The answer as JSON, at most ``limit`` bytes of it.

    Args:
        limit: Bytes of ``{"output": answer}``.
        folder: For texts that do not fit.
        stores: Where the largest outputs go, in this order, until the rest fits; of those, the
            ones that the dialect can name. One that fails is reported in the answer's warnings,
            and the next one is tried.
        warnings: What has gone wrong without failing the job.

    Raises:
        OutputTooLarge: They do not fit, and there is no store for them.
    """
    usable = dialect.usable(stores)
    answer = _Answer([*collected], dialect, facts, job_id, folder, usable, [*warnings])
    while True:
        everything = dialect.stores_all and answer.stores
        if not everything and answer.size <= limit:
            return await asyncio.to_thread(answer.rendered, _base64)
        if not await answer.store_largest() and not await answer.text_as_file():
            if answer.size <= limit:
                return await asyncio.to_thread(answer.rendered, _base64)
            raise answer.too_large(limit)


@dataclass(eq=False)
class _Answer:
    """An answer in the making."""

    collected: list[CollectedOutput]
    dialect: Dialect
    facts: AnswerFacts
    job_id: str
    folder: Path
    stores: list[Store]
    warnings: list[str]
    failures: list[str] = field(default_factory=list)
    stored: dict[int, StoredFile] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.files = {number: one.file for number, one in enumerate(self.collected) if one.file}
        self.inline = sorted(self.files, key=lambda n: self.files[n].size)

    @property
    def size(self) -> int:
        """Bytes of the result as the SDK sends it."""
        bare = self.rendered(lambda _file: "")
        body = json.dumps({"output": bare}, ensure_ascii=False).encode()
        return len(body) + sum((self.files[n].size + 2) // 3 * 4 for n in self.inline)

    def rendered(self, content: Content) -> dict[str, JsonValue]:
        """The answer as it stands."""
        warnings = [redact(warning) for warning in self.warnings]
        draft = Draft(self.collected, self.facts, self.stored, warnings, content)
        return self.dialect.answer(draft)

    async def store_largest(self) -> bool:
        """Put the largest that is still part of the answer elsewhere; whether that was done."""
        if not self.inline:
            return False
        number = self.inline[-1]
        name = self.collected[number].output.filename
        while self.stores:
            try:
                stored = await self.stores[0].put(self.job_id, name, self.files[number])
            except ComfyRemoteError as error:
                self.warnings.append(str(error))
                self.failures.append(str(error))
                del self.stores[0]
            else:
                self.stored[number] = stored
                self.inline.pop()
                return True
        return False

    async def text_as_file(self) -> bool:
        """Make the longest text a file, which can be stored; whether that was done."""
        texts = {
            number: one.output.text
            for number, one in enumerate(self.collected)
            if one.output.text is not None and len(one.output.text) >= _SHORTEST_FILE
        }
        if not self.dialect.has_texts or not self.stores or not texts:
            return False
        number = max(texts, key=lambda n: len(texts[n]))
        path = self.folder / f"text-{number}"
        file = await asyncio.to_thread(_written, path, texts[number])
        self.collected[number] = CollectedOutput(
            replace(self.collected[number].output, text=None), file
        )
        self.files[number] = file
        self.inline.append(number)
        return True

    def too_large(self, limit: int) -> OutputTooLarge:
        """The error, with the sizes of what does not fit."""
        size = self.size
        sizes = [
            (self.collected[n].output.filename, self.files[n].size) for n in reversed(self.inline)
        ]
        named = ", ".join(f"{name} ({size_text(each)})" for name, each in sizes[:5])
        failed = "".join(f" {failure}" for failure in self.failures)
        return OutputTooLarge(
            f"The result would be {size_text(size)}; at most {size_text(limit)} can be returned. "
            f"Its largest outputs: {named or 'texts'}.{failed}",
            advice="Give the worker a bucket (BUCKET_ENDPOINT_URL, BUCKET_ACCESS_KEY_ID, "
            f"BUCKET_SECRET_ACCESS_KEY){self._other_format()}, or save fewer or smaller files "
            "(JPEG or WebP, a smaller size or batch).",
            details={
                "size": size,
                "limit": limit,
                "outputs": [{"filename": name, "size": each} for name, each in sizes],
            },
        )

    def _other_format(self) -> str:
        if self.dialect.has_addresses:
            return ""
        others = " or ".join(one.name for one in DIALECTS if one.has_addresses)
        return f" and ask for the format {others} ({self.dialect.name} cannot name an address)"


def _written(path: Path, text: str) -> Received:
    content = text.encode("utf-8", "replace")
    with storage_errors(path):
        path.write_bytes(content)
    return Received(path, len(content), hashlib.sha256(content).hexdigest())


def _base64(file: Received) -> str:
    return base64.b64encode(file.path.read_bytes()).decode("ascii")


def shown_within(
    shown: Mapping[str, ShownValues], limit: int = _MOST_SHOWN
) -> tuple[dict[str, ShownValues], list[str]]:
    """As many nodes as fit, in their order, and a warning for each that does not."""
    fits: dict[str, ShownValues] = {}
    warnings: list[str] = []
    left = limit
    for node_id, values in shown.items():
        size = len(json.dumps(values, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        if size > left:
            warnings.append(
                f"Node {node_id} shows {size_text(size)} besides its outputs, too much to be "
                "returned; its outputs are complete."
            )
            continue
        fits[node_id] = values
        left -= size
    return fits, warnings
