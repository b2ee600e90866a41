"""Input files as assets of a server: sent once, by their blake3, and referred to by the prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pydantic import JsonValue, ValidationError

from ...aio import concurrent_map
from ...errors import ComfyRemoteError, RequestTooLarge, TargetError, TargetUnreachable
from ...media.files import blake3_of
from ...net.answers import BY_PROXY, REFUSALS, Response
from ...outputs import media_type_of
from ...units import size_text
from ...wire.comfy_api import Asset, AssetFromHash, asset_reference, blake3_hash
from ...workflow.files import rename_files
from ...workflow.prompt import Prompt
from ..base import InputFile, RunRequest, input_errors
from ..upload_progress import UploadProgress, opened_input
from .refusals import api_code
from .server import ApiServer

if TYPE_CHECKING:
    import aiohttp

__all__ = ["InputAssets"]

_TAGS = ["input"]
_MOST_REMEMBERED = 1000
# A job may wait before the server reads its files.
_LEFT_AT_LEAST = timedelta(minutes=30)


class InputAssets:
    """The files that this client has put on a server, and what they are called there."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self._known: dict[tuple[str, str], Asset] = {}
        self._hashes: dict[str, str] = {}

    async def in_prompt(self, request: RunRequest) -> Prompt:
        """The request's prompt, with a reference in place of each file's name.

        The files are there then: those whose bytes the server has are not sent.

        Raises:
            InputFileMissing: One cannot be read here.
            RequestTooLarge: The server does not take a file of that size.
            ComfyRemoteError: It could not be asked, or refused.
        """
        progress = UploadProgress(request.files, request.on_sent)
        assets = await concurrent_map(lambda file: self._asset_of(file, progress), request.files)
        prompt = request.prompt
        for file, asset in zip(request.files, assets, strict=True):
            reference = asset_reference(asset.id, blake3=asset.hash, file_path=_file_path(file))
            prompt = rename_files(prompt, {file.name: reference}, file.places)
        return prompt

    def forget(self) -> None:
        """Forget what is there: the server has just said that it is not."""
        self._known.clear()

    async def _asset_of(self, file: InputFile, progress: UploadProgress) -> Asset:
        key = (file.sha256, file.name)
        asset = self._known.get(key)
        if asset is None or _expires_soon(asset):
            asset = await self._put(file, progress)
            self._known[key] = asset
            if len(self._known) > _MOST_REMEMBERED:
                del self._known[next(iter(self._known))]
        progress.note(file, file.size)
        return asset

    async def _put(self, file: InputFile, progress: UploadProgress) -> Asset:
        blake3 = self._hashes.get(file.sha256)
        if blake3 is None:
            with input_errors(file.path):
                blake3 = blake3_hash(await asyncio.to_thread(blake3_of, file.path))
            if len(self._hashes) >= _MOST_REMEMBERED:
                self._hashes.clear()
            self._hashes[file.sha256] = blake3
        if (asset := await self._from_hash(file, blake3)) is not None:
            return asset
        try:
            return await self._uploaded(file, blake3, progress)
        except TargetError as error:
            if api_code(error) != "hash_mismatch":
                raise
            self._hashes.pop(file.sha256, None)
            return await self._uploaded(file, blake3, progress)  # damaged on its way, perhaps

    async def _from_hash(self, file: InputFile, blake3: str) -> Asset | None:
        """An asset of bytes that the server has; ``None`` if it does not have them."""
        asked = AssetFromHash(hash=blake3, file_path=_file_path(file), tags=_TAGS, expires_in=None)
        body = asked.model_dump_json(exclude_none=True).encode()
        try:
            answer = await self._server.post("assets", "from-hash", body=body)
        except TargetUnreachable:
            return None  # the upload is tried more often, and says what is wrong
        if answer.status in (401, 403):
            raise self._server.refused(answer)
        if answer.status >= 300:
            return None
        asset = _asset(answer)
        return asset if asset.hash in (None, blake3) else None

    async def _uploaded(self, file: InputFile, blake3: str, progress: UploadProgress) -> Asset:
        path = self._server.links.path("assets")
        refusals = tuple(REFUSALS - {429})
        try:
            answer = await self._server.http.post_form(
                path, lambda: _form(file, blake3, progress), file.size, accept=refusals
            )
            if answer.status >= 400:
                raise self._server.refused(answer)
        except RequestTooLarge as error:
            raise self._too_large(file, error) from error
        asset = _asset(answer)
        if asset.hash not in (None, blake3):
            raise TargetError(
                f"{self._server.name} has other bytes of {file.name} than those that were sent.",
                advice="It was damaged on its way, or something in between changes it. Run the "
                "workflow again.",
                details={"api_code": "hash_mismatch"},
            )
        return asset

    def _too_large(self, file: InputFile, error: ComfyRemoteError) -> RequestTooLarge:
        details: dict[str, JsonValue] = {**error.details, "name": file.name, "size": file.size}
        if error.details.get(BY_PROXY):
            return RequestTooLarge(
                f"The file {file.name} ({size_text(file.size)}) did not get through. "
                f"{error.message}",
                advice=error.advice,
                details=details,
            )
        return RequestTooLarge(
            f"{self._server.name} does not take the file {file.name} ({size_text(file.size)}).",
            advice="Servers of this kind take files of about 100 MB. Use a smaller file, or a "
            "target that takes larger ones; comfy-api-proxy has --max-upload-mb.",
            details=details,
        )


def _expires_soon(asset: Asset) -> bool:
    if asset.expires_at is None:
        return False
    return asset.expires_at - datetime.now(timezone.utc) < _LEFT_AT_LEAST


def _asset(answer: Response) -> Asset:
    try:
        return Asset.model_validate(answer.json())
    except ValidationError as error:
        raise TargetError(
            f"The server's answer about an input file is not Comfy API v2's: "
            f"{error.errors()[0]['msg']}.",
            advice="Check the address: another program may be there.",
        ) from error


def _file_path(file: InputFile) -> str:
    """Where a file belongs: paths begin at the folder that ComfyUI's own are in.

    A name without a folder is an input, as every server has it.
    """
    return f"input/{file.name}" if "/" in file.name else file.name


@contextmanager
def _form(file: InputFile, blake3: str, progress: UploadProgress) -> Iterator[aiohttp.FormData]:
    from aiohttp import FormData  # here: not on the way to `open_target`

    media_type = media_type_of(file.name)
    # What says how the bytes are to be taken comes before them. Names are in UTF-8.
    fields = {"content_type": media_type, "file_path": _file_path(file), "expected_hash": blake3}
    form = FormData({**fields, "tags": _TAGS[0]}, quote_fields=False)
    with opened_input(file, progress) as content:
        name = PurePosixPath(file.name).name
        form.add_field("file", content, filename=name, content_type=media_type)
        yield form
