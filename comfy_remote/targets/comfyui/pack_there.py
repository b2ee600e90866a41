"""Our node pack in a ComfyUI elsewhere, whose owner lets models and node packs be brought to it.

See `wire.receiving` for what is said. The token is not sent: each request is signed with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from ...advice import Hint
from ...aio import in_thread, within
from ...clean import cleaned_error, cleaned_json, cleaned_text, one_line
from ...errors import (
    AuthenticationError,
    ComfyRemoteError,
    ConfigurationError,
    InputFileMissing,
    JobNotFound,
    JobTimedOut,
    RateLimited,
    TargetError,
    TargetNotFound,
    TargetUnreachable,
    ValueInvalid,
    error_from_json,
)
from ...json_text import parse_json
from ...media.receive import file_chunks
from ...net.answers import Response, error_of
from ...net.http import HttpClient
from ...net.retry import Backoff, Retries, retried
from ...net.signed import CHALLENGE, SIGNATURE_HEADER, signature
from ...types import JsonValue
from ...wire.installed import ModelFile
from ...wire.receiving import INSTALLED, RECEIVING, Hello, InstalledAnswer, JobState
from ..base import Capabilities, InputFile, Takes, input_errors

if TYPE_CHECKING:
    from pydantic import SecretStr

__all__ = ["PackThere"]

_NO_PACK = "it is a ComfyUI without Comfy Remote's node pack, or with an older one"
_NOT_ALLOWED = (
    "the owner of that ComfyUI has not allowed it: ACCEPT_MODELS=true (for node packs, "
    "ALLOW_NODE_INSTALL=true) and a COMFY_REMOTE_SYNC_TOKEN, in the environment that it "
    "starts in"
)
_NOT_SET_HERE = (
    "it needs its owner's token, which is not set here: set a variable to it, and name "
    "that variable in the target's settings (sync_token_env)"
)

_REFUSALS = (400, 401, 403, 404, 409, 413, 429, 504, 507)
_AGAIN = (TargetUnreachable, RateLimited, ValueInvalid, JobTimedOut)
_LONGEST_LINE = 500
_CANCEL_WITHIN = 5.0  # seconds
_PACE = 0.1  # seconds from one question for what is new to the next, at least
_SPARE = 10  # parts that may be asked for again, beside each one once
_Say = Callable[[str], None]
_Model = TypeVar("_Model", bound=BaseModel)


class PackThere:
    """The node pack.

    Args:
        name: The target's, for people.
        token: Its owner's; ``None`` where it is not set here.
        patience: Seconds for it to say what it has.
    """

    def __init__(
        self,
        http: HttpClient,
        name: str,
        token: SecretStr | None,
        backoff: Backoff,
        patience: float,
    ) -> None:
        self._http = http
        self.name = name
        self._token = token
        self.backoff = backoff
        self._patience = patience
        self._hello: Hello | None = None
        self._challenge = ""
        self._why_not = ""

    async def takes(self) -> Takes:
        """What it takes from here."""
        hello = await self._greeted()
        if hello is None:
            return Takes(why=self._why_not or _NO_PACK)
        takes = Takes(
            frozenset(hello.takes_models),
            frozenset(hello.takes_nodes),
            no_nodes=_line(hello.no_nodes),
        )
        if not hello.token or not (takes.models or takes.nodes or takes.no_nodes):
            return Takes(why=_NOT_ALLOWED)
        if self._token is None:
            return Takes(why=_NOT_SET_HERE)
        return takes

    async def with_installed(self, said: Capabilities) -> Capabilities:
        """With what it takes, its packs' versions and commits, and its models' hashes."""
        takes = await self.takes()
        if takes.why:
            return said
        asked = self.act({"action": INSTALLED})
        try:
            answer = _read(InstalledAnswer, await within(asked, self._patience), self.name)
        except asyncio.TimeoutError:
            raise JobTimedOut(
                f"{self.name} has not said within {self._patience:g} s what it has.",
                advice="Look at its log, and try again.",
            ) from None
        said = replace(
            said, takes_models=takes.models, takes_nodes=takes.nodes, no_nodes=takes.no_nodes
        )
        if said.installed is None:
            return said
        known = {pack.name: pack for pack in answer.packs}
        packs = [known.get(pack.name, pack) for pack in said.installed.packs]
        models = {
            folder: _with_hashes(files, answer.models.get(folder, ()))
            for folder, files in said.installed.models.items()
        }
        exactly = said.installed.model_copy(update={"packs": packs, "models": models})
        return replace(said, installed=exactly)

    async def act(
        self,
        payload: Mapping[str, JsonValue],
        say: _Say | None = None,
        parts: Sequence[InputFile] = (),
        on_sent: Callable[[int, int], None] | None = None,
    ) -> JsonValue:
        """See `targets.base.Acts`; with parts of a model, `targets.base.MayTake.send_model`."""
        takes = await self.takes()
        if takes.why:
            raise ConfigurationError(
                f"Nothing can be brought to {self.name}: {takes.why}.",
                advice="" if self._hello is not None else Hint.WORKER_TARGET(),
            )
        restarts = Retries(self.backoff)
        while True:
            job = _Job(self, uuid.uuid4().hex, parts, say, on_sent)
            try:
                return await job.run(payload)
            except JobNotFound as error:
                await restarts.wait_after(error)

    async def _greeted(self) -> Hello | None:
        if self._hello is None:
            answer = await retried(
                lambda: self._http.get_once(RECEIVING, accept=_REFUSALS),
                self.backoff,
                TargetUnreachable,
            )
            if answer.status >= 300:
                refusal = self._refusal(answer)
                if not isinstance(refusal, TargetNotFound):
                    self._why_not = _line(f"it does not say what it takes: {refusal}").rstrip(".")
                return None
            try:
                self._hello = Hello.model_validate_json(answer.body)
            except ValidationError:
                return None  # another answer than ours: a proxy's page, say
            self._challenge = self._hello.challenge
        return self._hello

    async def post(self, path: str, body: Mapping[str, JsonValue]) -> JobState:
        """A signed request, which may safely arrive twice."""
        data = json.dumps(body).encode()
        content = hashlib.sha256(data).hexdigest()
        retries = Retries(self.backoff)
        while True:
            try:
                return await self._signed(
                    "POST",
                    path,
                    content,
                    lambda headers: self._http.post_once(
                        path, data, headers=headers, accept=_REFUSALS
                    ),
                )
            except (TargetUnreachable, RateLimited) as error:
                await retries.wait_after(error)

    async def put(
        self, path: str, part: InputFile, chunks: Callable[[], AsyncGenerator[bytes, None]]
    ) -> JobState:
        """A part of a model, once."""
        return await self._signed(
            "PUT",
            path,
            part.sha256,
            lambda headers: self._http.put_once(
                path, part.size, chunks(), headers=headers, accept=_REFUSALS
            ),
        )

    async def _signed(
        self,
        method: str,
        path: str,
        content: str,
        send: Callable[[dict[str, str]], Awaitable[Response]],
    ) -> JobState:
        if self._token is None:
            raise ConfigurationError(f"The token of {self.name} is not set here.")
        for _ in range(2):
            signed = signature(self._token, self._challenge, method, path, content)
            response = await send({SIGNATURE_HEADER: signed})
            if response.status < 300:
                return _read(JobState, parse_json(response.body), self.name)
            error = self._refusal(response)
            challenge = error.details.get(CHALLENGE)
            if not isinstance(challenge, str) or challenge == self._challenge:
                break
            self._challenge = challenge  # it was restarted, or has answered very often
        if isinstance(error, AuthenticationError):
            error.message = f"{self.name} refused it. {error.message}"
        raise error

    def _refusal(self, response: Response) -> ComfyRemoteError:
        """Its own error; of anything in between, what the status says."""
        try:
            said = parse_json(response.body)
        except ValueError:
            said = None
        error = said.get("error") if isinstance(said, dict) else None
        if not isinstance(error, dict):
            return error_of(response, self.name)
        return cleaned_error(error_from_json(error))


class _Job:
    """One job there, followed to its end."""

    def __init__(
        self,
        pack: PackThere,
        job_id: str,
        parts: Sequence[InputFile],
        say: _Say | None,
        on_sent: Callable[[int, int], None] | None,
    ) -> None:
        self._pack = pack
        self._path = f"{RECEIVING}/jobs/{job_id}"
        self._parts = {part.sha256: part for part in parts}
        self._before: dict[str, int] = {}
        self._total = 0
        for part in parts:
            self._before.setdefault(part.sha256, self._total)
            self._total += part.size
        self._say = say
        self._on_sent = on_sent
        self._retries = Retries(pack.backoff)
        self._failed: ComfyRemoteError | None = None
        self._said = ""
        self._most_sent = 2 * len(parts) + _SPARE
        self._asked = float("-inf")

    async def run(self, payload: Mapping[str, JsonValue]) -> JsonValue:
        """Its answer. If this is cancelled, so is the job."""
        try:
            state = await self._pack.post(self._path, payload)
            while state.state == "running":
                self._tell(state)
                state = await self._next(state)
        except JobNotFound:
            raise
        except (ComfyRemoteError, asyncio.CancelledError):
            with contextlib.suppress(ComfyRemoteError, asyncio.TimeoutError):
                await within(self._pack.post(f"{self._path}/cancel", {}), _CANCEL_WITHIN)
            raise
        if state.error is not None:
            raise cleaned_error(error_from_json(state.error))
        if self._on_sent is not None and self._total:
            self._on_sent(self._total, self._total)
        return cleaned_json(state.answer) if isinstance(state.answer, dict) else state.answer

    async def _next(self, state: JobState) -> JobState:
        if state.wants is None:
            pause = self._asked + _PACE - time.monotonic()
            if pause > 0:  # it answered at once, and nothing says that it will not for ever
                await asyncio.sleep(pause)
            self._asked = time.monotonic()
            return await self._pack.post(f"{self._path}/wait", {"number": state.number})
        part = self._parts.get(state.wants)
        if part is None or self._most_sent == 0:
            what = "parts that are not this model's" if part is None else "the same again and again"
            raise TargetError(
                f"{self._pack.name} asks for {what}.", advice="Update Comfy Remote there, or here."
            )
        path = f"{self._path}/parts/{part.sha256}"
        try:
            after = await self._pack.put(path, part, lambda: self._chunks(part))
        except _AGAIN as error:
            if self._failed is not None:
                # What goes wrong here is, to aiohttp, a connection that broke.
                raise self._failed from None
            if isinstance(error, ValueInvalid) and not await in_thread(_is_same, part):
                raise _changed(part) from None
            await self._retries.wait_after(error)
            # It may have come, and only the answer was lost.
            return await self._pack.post(f"{self._path}/wait", {"number": -1})
        self._most_sent -= 1
        self._retries.progressed()
        return after

    def _tell(self, state: JobState) -> None:
        if self._say is not None and state.said and state.said != self._said:
            self._said = state.said
            self._say(_line(state.said))

    async def _chunks(self, part: InputFile) -> AsyncGenerator[bytes, None]:
        sent = self._before[part.sha256]
        try:
            with input_errors(part.path):
                async with aclosing(file_chunks(part.path, part.offset, part.size)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                        sent += len(chunk)
                        if self._on_sent is not None:
                            self._on_sent(sent, self._total)
            if sent != self._before[part.sha256] + part.size:
                raise _changed(part)
        except ComfyRemoteError as error:
            self._failed = error
            raise


def _is_same(part: InputFile) -> bool:
    """Whether a part has the bytes still that it had when the file was read for its hash."""
    with input_errors(part.path), part.path.open("rb") as file:
        file.seek(part.offset)
        return hashlib.sha256(file.read(part.size)).hexdigest() == part.sha256


def _changed(part: InputFile) -> InputFileMissing:
    return InputFileMissing(
        f"{part.path} has changed while it was sent.", advice="Wait until it is complete."
    )


def _line(words: str) -> str:
    """What it says, as it may be shown."""
    return one_line(cleaned_text(words))[:_LONGEST_LINE]


def _with_hashes(files: Sequence[ModelFile], known: Sequence[ModelFile]) -> list[ModelFile]:
    """The files that ComfyUI lists, with the hashes of those that the pack knows."""
    hashes = {(one.name, one.size): one.sha256 for one in known}
    return [
        one.model_copy(update={"sha256": one.sha256 or hashes.get((one.name, one.size))})
        for one in files
    ]


def _read(model: type[_Model], answer: JsonValue, name: str) -> _Model:
    try:
        return model.model_validate(answer)
    except ValidationError:
        raise TargetError(
            f"{name} did not answer as Comfy Remote's node pack does.",
            advice="Update Comfy Remote there, or here.",
        ) from None
