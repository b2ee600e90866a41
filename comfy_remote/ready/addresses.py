"""Where the models of a lock can be had: asked by hash, and by the addresses that it has.

- Hugging Face has no search by hash. The address of a file there, which a workflow often names,
  gives size and SHA-256 of it: so it is known whether it is the same file, and what a file is that
  is not here.
- Civitai finds a file by its SHA-256 (``GET /api/v1/model-versions/by-hash/{sha256}``,
  https://developer.civitai.com/site/reference/model-versions).
- The user's bucket (``R2_*``) is laid out like ComfyUI's ``models``: a file counts that is there
  under the model's name with its size.

Nobody else is asked: an address in a workflow may be anybody's. Tokens go to their own sites.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from urllib.parse import quote

from ..aio import concurrent_map, within
from ..errors import ComfyRemoteError
from ..net.retry import TryAgain
from ..units import counted
from ..wire.repo_list import ModelLine
from ..worker.models.civitai import CivitaiLink, file_by_hash
from ..worker.models.http import ModelHttp
from ..worker.models.huggingface import HuggingFaceLink
from ..worker.models.link import Link
from ..worker.models.settings import ModelSettings
from ..worker.models.sources import BucketLink, understand
from .lock import MOST_ADDRESSES, Address, Lock, LockedModel

__all__ = ["Addressed", "with_addresses"]

_MOST = 200  # models that are asked about
_AT_ONCE = 6


@dataclass(frozen=True, slots=True)
class Addressed:
    """A lock with the addresses that were found, and what did not go as hoped."""

    lock: Lock
    notes: tuple[str, ...] = ()


async def with_addresses(
    lock: Lock, settings: ModelSettings, *, patience: float = 60.0, each: float = 15.0
) -> Addressed:
    """The lock with all addresses that can be found. Raises nothing of what is asked.

    Args:
        patience: Seconds for all of it; what is not answered by then is left out, and said.
        each: Seconds for each model.
    """
    asked, rest = lock.models[:_MOST], lock.models[_MOST:]
    notes: list[str] = []
    if rest:
        notes.append(f"Only the first {_MOST} models were looked for elsewhere.")
    found: dict[str, LockedModel] = {}

    async def one(model: LockedModel) -> None:
        asking = _Asking(model, settings, http)
        try:
            await within(asking.ask(), each)
        except asyncio.TimeoutError:
            asking.silent.add("a site")
        silent.update(asking.silent)
        notes.extend(asking.notes)
        found[model.path] = asking.model

    silent: set[str] = set()
    async with ModelHttp(settings, timeout=each) as http:
        try:
            await within(concurrent_map(one, asked, at_a_time=_AT_ONCE), patience)
        except asyncio.TimeoutError:
            left = len(asked) - len(found)
            notes.append(f"{counted(left, 'model')} could not be looked for within {patience:g} s.")
    if silent:
        notes.append(
            f"Not all models could be looked for: {', '.join(sorted(silent))} did not answer."
        )
    models = tuple(found.get(model.path, model) for model in lock.models)
    return Addressed(lock.model_copy(update={"models": models}), tuple(notes))


class _Asking:
    """The questions about one model."""

    def __init__(self, model: LockedModel, settings: ModelSettings, http: ModelHttp) -> None:
        self.model = model
        self._settings = settings
        self._http = http
        self.notes: list[str] = []
        self.silent: set[str] = set()

    async def ask(self) -> None:
        for address in self.model.addresses:
            link = self._link(address)
            if link is not None:
                await self._check(address, link)
        if self.model.sha256 is not None:
            await self._by_hash(self.model.sha256)
            if self.model.folder is not None and self._settings.bucket is not None:
                await self._in_bucket(self.model.folder)

    def _link(self, address: Address) -> Link | None:
        """The link of an address to a site that may be asked; ``None`` for any other."""
        try:
            link = understand(ModelLine(0, self.model.folder or "", address.url), self._settings)
        except ComfyRemoteError:
            return None
        return link if isinstance(link, HuggingFaceLink | CivitaiLink) else None

    async def _check(self, address: Address, link: Link) -> None:
        """What is at an address: completes the model, or takes the address away."""
        try:
            location = await link.locate(self._http.json)
            sha256, size = location.sha256, None
            if location.etag_is_sha256:
                answer = await self._http.probe(location)
                sha256, size = answer.sha256, answer.size
        except TryAgain:
            self.silent.add("Hugging Face" if isinstance(link, HuggingFaceLink) else "Civitai")
            return
        except ComfyRemoteError as error:
            self.notes.append(f"{self.model.path}: {error.message}")
            return
        known = self.model.sha256
        if sha256 is None:
            return
        if known is not None and known != sha256:
            others = tuple(one for one in self.model.addresses if one != address)
            self.model = self.model.model_copy(update={"addresses": others})
            self.notes.append(
                f"{self.model.path}: {address.shown} has another file than the one that is needed "
                "(its SHA-256 differs), so that address is left out."
            )
            return
        # What is exactly needed is known now, wherever the file is.
        changes = {"sha256": sha256, "size": self.model.size or size, "unknown": None}
        self.model = self.model.model_copy(update=changes)

    async def _by_hash(self, sha256: str) -> None:
        try:
            url = await file_by_hash(sha256, self._settings, self._http.json)
        except ComfyRemoteError:
            self.silent.add("Civitai")
        else:
            if url is not None:
                self._add("civitai", url)

    async def _in_bucket(self, folder: str) -> None:
        key = quote(f"{folder}/{self.model.name}")
        link = BucketLink.parse(f"r2:{key}", folder, self._settings)
        if link is None:
            return
        try:
            answer = await self._http.probe(await link.locate(self._http.json))
        except TryAgain:
            self.silent.add("the bucket")
        except ComfyRemoteError as error:
            if error.details.get("http_status") != 404:
                self.notes.append(f"The bucket could not be asked: {error.message}")
        else:
            if answer.size == self.model.size:
                self._add("bucket", f"r2:{key}")

    def _add(self, by: str, url: str) -> None:
        if all(one.url != url for one in self.model.addresses):
            addresses = (*self.model.addresses[: MOST_ADDRESSES - 1], Address(by=by, url=url))
            self.model = self.model.model_copy(update={"addresses": addresses})
