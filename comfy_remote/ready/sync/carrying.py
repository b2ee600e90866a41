"""A plan carried out, node packs first, then model by model: each is checked, and noted when it is
there.

What fails is said and leaves the others be; nothing lies half under its final name, so the same
sync again goes on where this one stopped.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from ...errors import (
    AuthenticationError,
    ComfyRemoteError,
    ConfigurationError,
    InputFileMissing,
    LocalStorageError,
    ModelUnavailable,
    NodesUnavailable,
    OutputError,
    RateLimited,
    TargetUnreachable,
)
from ...json_text import problems_in
from ...media.files import OWN_DATA, storage_errors
from ...media.temporary import ProcessLock
from ...targets.base import DescribesByJob, InputFile, MayTake, Target
from ...targets.models import ensure_models, place_model, send_model
from ...targets.nodes import install_packs
from ...types import JsonValue
from ...wire.models import EnsureAnswer, FilePart, PlaceRequest
from ...worker.models.folders import folder_of
from ..lock import LockedModel
from .brought import Brought, BroughtRecord
from .here import with_hash
from .lines import repo_line
from .packs import PackStep
from .parts import DIRECT_PART_SIZE, read_parts
from .planning import Sources
from .steps import Step, SyncPlan, Way
from .stores import BucketStore, OnBytes, VolumeStore

__all__ = ["Ended", "Moved", "alone", "carry_out"]

_HOPELESS = (AuthenticationError, TargetUnreachable, RateLimited, ConfigurationError)


@dataclass(frozen=True, slots=True)
class Moved:
    """How far a model, or a node pack, is.

    Attributes:
        step: Of packs, the first: they are installed together.
        message: For people, where the target says more than bytes.
        done: Bytes of this model that are there; ``None`` where only the message says it.
    """

    step: Step | PackStep
    message: str = ""
    done: int | None = None
    total: int | None = None

    def to_json(self) -> dict[str, JsonValue]:
        """A description for programs; ``model`` is empty for packs."""
        model = "" if isinstance(self.step, PackStep) else self.step.item.name
        return {"model": model, "message": self.message, "done": self.done, "total": self.total}


@dataclass(frozen=True, slots=True)
class Ended:
    """How one step has ended.

    Attributes:
        how: ``there`` (another was quicker), ``linked``, ``fetched``, ``sent`` or ``installed``;
            empty if it failed.
        error: Why it failed.
        notes: What its target says of it besides, sentences: what is left to do there.
    """

    step: Step | PackStep
    how: str = ""
    seconds: float = 0.0
    error: ComfyRemoteError | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, JsonValue]:
        """A description for programs."""
        is_pack = isinstance(self.step, PackStep)
        return {
            "pack" if is_pack else "model": self.step.item.name,
            "way": self.step.way.value,
            "how": self.how,
            "size": self.step.size,
            "seconds": round(self.seconds, 3),
            "error": None if self.error is None else str(self.error),
            **({"notes": list(self.notes)} if is_pack else {}),
        }


OnMoved = Callable[[Moved], None]
OnEnded = Callable[[Ended], None]


@asynccontextmanager
async def alone(home: Path, target: str) -> AsyncIterator[None]:
    """While inside, no other sync of this user brings anything to that target.

    Raises:
        ConfigurationError: One does.
    """
    name = hashlib.sha256(target.encode()).hexdigest()[:16]
    path = home / "sync" / f"{name}.lock"
    with storage_errors(path, denied=OWN_DATA):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        lock = await asyncio.to_thread(ProcessLock, path)
    except sqlite3.Error:
        raise ConfigurationError(
            f"Another sync to {target} runs on this machine.",
            advice="Wait for it, or stop it; then try again: what has come stays.",
        ) from None
    try:
        yield
    finally:
        lock.close()


async def carry_out(
    plan: SyncPlan, target: Target, sources: Sources, on_moved: OnMoved, on_ended: OnEnded
) -> list[Ended]:
    """Do what a plan says; what became of each step that changes something.

    A node pack is code: call it for a plan with packs (`SyncPlan.code`) only if the owner of this
    machine has agreed to these. If the target cannot be reached any more, the steps that are left
    fail with the same error.

    Args:
        target: Open.
        sources: As the plan was made with.
        on_moved: Called while models are on their way.
        on_ended: Called after each.
    """
    carrying = _Carrying(plan.plan.target, target, sources, BroughtRecord(sources.home), on_moved)
    ended: list[Ended] = []
    hopeless: ComfyRemoteError | None = None
    models = [one for one in plan.steps if one.way in _ORDER]
    async with alone(sources.home, plan.plan.target):
        for one in await carrying.packs([p for p in plan.packs if p.way is Way.INSTALL]):
            hopeless = one.error if isinstance(one.error, _HOPELESS) else None
            ended.append(one)
            on_ended(one)
        for step in sorted(models, key=lambda one: _ORDER.index(one.way)):
            if hopeless is not None:
                one = Ended(step, error=hopeless)
            else:
                one = await carrying.step(step)
            if isinstance(one.error, _HOPELESS):
                hopeless = one.error
            ended.append(one)
            on_ended(one)
        if any(one.how for one in ended) and isinstance(target, DescribesByJob):
            await _described_again(target)
    return ended


_ORDER = [Way.LINK, Way.FETCH, Way.VOLUME, Way.SEND, Way.BUCKET]


async def _described_again(target: DescribesByJob) -> None:
    """What is noted of the target is out of date; if it cannot be asked, it will be later."""
    try:
        await target.describe_again()
    except ComfyRemoteError:
        return


@dataclass(frozen=True, slots=True)
class _Carrying:
    """One sync."""

    name: str
    target: Target
    sources: Sources
    record: BroughtRecord
    on_moved: OnMoved

    async def packs(self, steps: Sequence[PackStep]) -> list[Ended]:
        """Install some packs: all of them, or none. Noted if it went well."""
        if not steps:
            return []
        began = time.monotonic()
        wanted = [one.wanted for one in steps if one.wanted is not None]
        try:
            answer = await install_packs(self.target, wanted, self._say(steps[0]))
        except ComfyRemoteError as error:
            return _none_installed(steps, error, time.monotonic() - began)
        seconds = time.monotonic() - began
        there = {name.casefold() for name in answer.there}
        ended = []
        for one, pack in zip(steps, wanted, strict=True):
            how = "there" if pack.name.casefold() in there else "installed"
            ended.append(Ended(one, how, seconds, notes=tuple(answer.notes)))
            if how == "installed":
                brought = Brought(
                    *(time.time(), self.name, one.named, None, None),
                    *(one.way.value, seconds, self.name),
                )
                try:
                    await self._note(brought)
                except LocalStorageError as error:
                    ended[-1] = replace(ended[-1], how="", error=error)
        return ended

    async def step(self, step: Step) -> Ended:
        """Do one step; noted if it went well."""
        began = time.monotonic()
        try:
            how = await self._done(step)
            seconds = time.monotonic() - began
            if how != "there":
                await self._note(
                    Brought(
                        *(time.time(), self.name, step.item.name, step.size, step.model.sha256),
                        *(step.way.value, seconds, self._destination(step)),
                    )
                )
        except ComfyRemoteError as error:
            return Ended(step, "", time.monotonic() - began, error)
        return Ended(step, how, seconds)

    async def _note(self, brought: Brought) -> None:
        try:
            await asyncio.to_thread(self.record.add, brought)
        except LocalStorageError as error:
            error.message = (
                f"{brought.model} is there, but that could not be noted. {error.message}"
            )
            raise

    def _destination(self, step: Step) -> str:
        volume = self.sources.volume
        return volume.volume.title if step.way is Way.VOLUME and volume is not None else self.name

    async def _done(self, step: Step) -> str:
        match step.way:
            case Way.LINK:
                # A workflow may name its SHA-256 without its size; the file there has both.
                model = step.model.model_copy(update={"size": step.item.size})
                answer = await place_model(self.target, _placed(model), self._say(step))
                return "linked" if answer.how == "linked" else "there"
            case Way.FETCH:
                return await self._fetch(step)
            case Way.SEND:
                return await self._send(step)
            case Way.VOLUME if self.sources.volume is not None:
                return await self._to_volume(step, self.sources.volume)
            case Way.BUCKET if self.sources.bucket is not None:
                return await self._by_bucket(step, self.sources.bucket)
            case _:
                raise ConfigurationError(f"{step.item.name} cannot be brought by {step.way.value}.")

    async def _fetch(self, step: Step) -> str:
        line = repo_line(step.model, step.address.url if step.address is not None else "")
        answer = await ensure_models(self.target, line, self._say(step), prune=False)
        self._check_folder(step.model, answer)
        return "fetched" if answer.fetched else "there"

    async def _send(self, step: Step) -> str:
        """In parts, by their hashes: what is there of them from before is not sent."""
        here, target = step.here, self.target
        if here is None:
            raise ConfigurationError(f"{step.item.name} is not on this machine.")
        say = self._say(step)
        say("reading it for its SHA-256")
        smaller = {"part_size": DIRECT_PART_SIZE} if isinstance(target, MayTake) else {}
        read = await read_parts(here.file.path, step.item.name, **smaller)
        model = _checked(step, read.sha256, read.size)
        wanted = _placed(model, read.parts)
        answer = await send_model(target, wanted, read.parts, say, self._sent(step))
        return {"received": "sent"}.get(answer.how, answer.how)

    async def _to_volume(self, step: Step, volume: VolumeStore) -> str:
        path, model, sha256 = await self._known(step)
        sent = await volume.put(path, model, sha256, self._sent(step), self._say(step))
        return "sent" if sent else "there"

    async def _by_bucket(self, step: Step, bucket: BucketStore) -> str:
        """To the bucket, from there by the worker, and out of the bucket again. If the worker
        cannot have it, it stays there for the next try.
        """
        path, model, sha256 = await self._known(step)
        copy = await bucket.put(
            path, model, sha256, self._sent(step), self._say(step), target=self.name
        )
        line = repo_line(model, copy.url)
        try:
            answer = await ensure_models(self.target, line, self._say(step), prune=False)
        except ComfyRemoteError as error:
            stays = (
                f"The file stays in {bucket.title} for the next try, and costs what files there "
                "cost until it is given up."
            )
            error.advice = " ".join(filter(None, [error.advice, stays]))
            raise
        self._check_folder(model, answer)
        try:
            await bucket.remove(copy)
        except OutputError as error:
            error.advice = (
                f"{step.item.name} is on {self.name}; only its copy in {bucket.title} stays, and "
                "costs what files there cost, until it is given up."
            )
            raise
        return "sent" if answer.fetched else "there"

    def _check_folder(self, model: LockedModel, answer: EnsureAnswer) -> None:
        """See that an older worker did not take another folder.

        Raises:
            ModelUnavailable: It did.
        """
        path = f"{folder_of(model.folder or '')}/{model.name}"
        for ensured in answer.ensured:
            if ensured != path and ensured.lower() == path.lower():
                raise ModelUnavailable(
                    f"{self.name} has fetched {path}, but as {ensured}: its worker is older than "
                    "this Comfy Remote, and writes folders without capitals.",
                    advice="Update the worker, or move that file there.",
                )

    async def _known(self, step: Step) -> tuple[Path, LockedModel, str]:
        """A model's file here, which is the one that the lock names; with its SHA-256."""
        if step.here is None:
            raise ConfigurationError(f"{step.item.name} is not on this machine.")
        path = step.here.file.path
        self.on_moved(Moved(step, "reading it for its SHA-256"))
        here = await with_hash(step.here)
        if here.sha256 is None:
            raise InputFileMissing(
                f"{path} cannot be read, or changes.", advice="Wait until it is complete."
            )
        return path, _checked(step, here.sha256, here.file.size), here.sha256

    def _sent(self, step: Step) -> OnBytes:
        return lambda done, total: self.on_moved(Moved(step, "", done, total))

    def _say(self, step: Step | PackStep) -> Callable[[str], None]:
        return lambda words: self.on_moved(Moved(step, words))


def _none_installed(
    steps: Sequence[PackStep], error: ComfyRemoteError, seconds: float
) -> list[Ended]:
    """All of them failed; the one that is to blame, if that is known, has the error's own words."""
    to_blame = error.details.get("pack")
    known = [one for one in steps if one.wanted is not None and one.wanted.name == to_blame]
    if not known or len(steps) == 1:
        return [Ended(one, "", seconds, error) for one in steps]
    because = NodesUnavailable(
        f"It was not installed, since {known[0].item.name} could not be: packs are installed "
        "together, or none of them."
    )
    ended = [Ended(one, "", seconds, error if one in known else because) for one in steps]
    return sorted(ended, key=lambda one: one.step not in known)


def _placed(model: LockedModel, parts: Sequence[InputFile] = ()) -> PlaceRequest:
    """The request for a model; without parts, it can only be linked."""
    files = [FilePart(name=one.name, sha256=one.sha256, size=one.size) for one in parts]
    try:
        return PlaceRequest.model_validate(
            {**model.model_dump(include={"folder", "name", "size", "sha256"}), "files": files}
        )
    except ValidationError as error:
        raise ModelUnavailable(
            f"{model.path} cannot be named to a worker: {problems_in(error, 'it')}.",
            advice="Make the lock again where the model is, in a folder of ComfyUI's models.",
        ) from None


def _checked(step: Step, sha256: str, size: int) -> LockedModel:
    """The model with what its file here turned out to be.

    Raises:
        InputFileMissing: It is another file than the lock says.
    """
    model, path = step.model, step.here.file.path if step.here is not None else ""
    if model.sha256 not in (None, sha256):
        raise InputFileMissing(
            f"{path} is not the {model.path} that the lock names: its SHA-256 is another.",
            advice="Make the lock again, or put the right file there.",
        )
    return model.model_copy(update={"sha256": sha256, "size": size})
