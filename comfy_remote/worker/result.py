"""A job's answer, no larger than the queue accepts: what does not fit goes elsewhere.

Sizes are computed before anything is read: base64 takes four characters for three bytes,
and no character of it is escaped in JSON. So an answer of gigabytes is refused without ever
having been in memory.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from ..errors import ComfyRemoteError, OutputTooLarge
from ..events import ShownValues
from ..media.receive import Received
from ..secrets import redact
from ..units import size_text
from .collect import CollectedOutput
from .dialects import DIALECTS, AnswerFacts, Content, Dialect
from .storage import Store, StoredFile

__all__ = ["MOST_SHOWN", "build_answer", "shown_within"]

MOST_SHOWN = 1_000_000
"""Bytes of JSON of all nodes together: it is meant to be looked at, and files are outputs."""


async def build_answer(
    collected: Sequence[CollectedOutput],
    dialect: Dialect,
    facts: AnswerFacts,
    *,
    job_id: str,
    limit: int,
    stores: Sequence[Store] = (),
    warnings: Sequence[str] = (),
) -> dict[str, JsonValue]:
    """The answer as JSON, at most ``limit`` bytes of it.

    Args:
        limit: Bytes of ``{"output": answer}``.
        stores: Where the largest outputs go, in this order, until the rest fits; of those, the
            ones that the dialect can name. One that fails is reported in the answer's warnings,
            and the next one is tried.
        warnings: What has gone wrong without failing the job.

    Raises:
        OutputTooLarge: They do not fit, and there is no store for them.
    """
    answer = _Answer(collected, dialect, facts, job_id, dialect.usable(stores), warnings)
    while True:
        everything = dialect.stores_all and answer.has_store
        if not everything and answer.size <= limit:
            return await asyncio.to_thread(answer.rendered, _base64)
        if not await answer.store_largest():
            if answer.size <= limit:
                return await asyncio.to_thread(answer.rendered, _base64)
            raise answer.too_large(limit)


class _Answer:
    """An answer in the making."""

    def __init__(
        self,
        collected: Sequence[CollectedOutput],
        dialect: Dialect,
        facts: AnswerFacts,
        job_id: str,
        stores: list[Store],
        warnings: Sequence[str],
    ) -> None:
        self._collected = collected
        self._dialect = dialect
        self._facts = facts
        self._job_id = job_id
        self._stores = stores
        self._files = {number: one.file for number, one in enumerate(collected) if one.file}
        self._inline = sorted(self._files, key=lambda n: self._files[n].size)
        self._stored: dict[int, StoredFile] = {}
        self._warnings = list(warnings)
        self._failures: list[str] = []

    @property
    def has_store(self) -> bool:
        """Whether there is still one that has not failed."""
        return bool(self._stores)

    @property
    def size(self) -> int:
        """Bytes of the result as the SDK sends it."""
        bare = self.rendered(lambda _file: "")
        body = json.dumps({"output": bare}, ensure_ascii=False).encode()
        return len(body) + sum((self._files[n].size + 2) // 3 * 4 for n in self._inline)

    def rendered(self, content: Content) -> dict[str, JsonValue]:
        """The answer as it stands."""
        warnings = [redact(warning) for warning in self._warnings]
        return self._dialect.answer(self._collected, self._facts, self._stored, warnings, content)

    async def store_largest(self) -> bool:
        """Put the largest that is still part of the answer elsewhere; whether that was done."""
        if not self._inline:
            return False
        number = self._inline[-1]
        name = self._collected[number].output.filename
        while self._stores:
            try:
                stored = await self._stores[0].put(self._job_id, name, self._files[number])
            except ComfyRemoteError as error:
                self._warnings.append(str(error))
                self._failures.append(str(error))
                del self._stores[0]
            else:
                self._stored[number] = stored
                self._inline.pop()
                return True
        return False

    def too_large(self, limit: int) -> OutputTooLarge:
        """The error, with the sizes of what does not fit."""
        size = self.size
        sizes = [
            (self._collected[n].output.filename, self._files[n].size)
            for n in reversed(self._inline)
        ]
        named = ", ".join(f"{name} ({size_text(each)})" for name, each in sizes[:5])
        failed = "".join(f" {failure}" for failure in self._failures)
        return OutputTooLarge(
            f"The result would be {size_text(size)}, and {size_text(limit)} can be returned. "
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
        if self._dialect.has_addresses:
            return ""
        others = " or ".join(one.name for one in DIALECTS if one.has_addresses)
        return f" and ask for the format {others} ({self._dialect.name} cannot name an address)"


def _base64(file: Received) -> str:
    return base64.b64encode(file.path.read_bytes()).decode("ascii")


def shown_within(
    shown: Mapping[str, ShownValues], limit: int = MOST_SHOWN
) -> tuple[dict[str, ShownValues], list[str]]:
    """As many nodes as fit, in their order, and a warning for each that does not."""
    fits: dict[str, ShownValues] = {}
    warnings: list[str] = []
    left = limit
    for node_id, values in shown.items():
        size = len(json.dumps(values, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        if size > left:
            warnings.append(
                f"Node {node_id} shows {size_text(size)} besides its outputs, more than is "
                "returned; its outputs are complete."
            )
            continue
        fits[node_id] = values
        left -= size
    return fits, warnings
