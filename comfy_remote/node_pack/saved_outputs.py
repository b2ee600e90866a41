"""A remote job's outputs, saved in ComfyUI's folders under the names ComfyUI would give them."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from ..aio import concurrent_map
from ..errors import ComfyRemoteError, OutputLost
from ..events import ShownValues
from ..jobs.record import SavedOutput
from ..media.files import fitting, place_new, private_folder, safe_relative_path, subfolder_of
from ..media.receive import Received
from ..outputs import OutputProblem, RemoteOutput
from ..targets.base import Target, release
from ..targets.comfyui.history import named_file
from ..targets.download import download
from ..types import JsonValue
from .host import FolderKind, Host

__all__ = ["NO_NODE", "Deliver", "Deliveries", "OutputSaver"]

NO_NODE = "comfy_remote"
"""Stands for a node's id in the history, for outputs that may be of any of several nodes."""

# What ComfyUI's saving nodes call a file: "{prefix}_{counter:05}_.png".
_NUMBERED = re.compile(r"^(?P<prefix>.+)_(?P<counter>\d+)_?$")
_KEYS = {"image": "images", "video": "images", "audio": "audio", "3d": "3d", "text": "text"}
# Pictures that may move: the page plays them where `animated` says so.
_MAY_MOVE = frozenset({"image/webp", "image/png", "image/gif", "image/apng"})
_MOST_NAMES = 100_000


@dataclass(frozen=True, slots=True)
class _Here:
    """A file in one of the host's folders."""

    filename: str
    subfolder: str
    folder: FolderKind
    moves: bool

    @property
    def path(self) -> str:
        """Below its folder, as ComfyUI writes it."""
        return f"{self.subfolder}/{self.filename}".lstrip("/")


class OutputSaver:
    """Brings the outputs of one job here, each file once.

    Attributes:
        shown: By node id, what the page shows on the node, in ComfyUI's own form.
        saved: The files, for the record.
        received: The same, each with the output that it is.
        failure: Why an output could not be brought, with its ``node_id`` in the details. An
            `OutputLost` only if nothing else went wrong: the target does not have it.
        problems: Each output that the target does not have, or not whole.
    """

    def __init__(self, host: Host, target: Target, prompt_id: str) -> None:
        self.shown: dict[str, dict[str, JsonValue]] = {}
        self.saved: list[SavedOutput] = []
        self.received: list[tuple[RemoteOutput, Received]] = []
        self.failure: ComfyRemoteError | None = None
        self.problems: list[OutputProblem] = []
        self._host = host
        self._target = target
        self._prompt_id = prompt_id
        self._here: dict[tuple[object, ...], asyncio.Task[_Here]] = {}

    async def release(self, outputs: Sequence[RemoteOutput]) -> None:
        """Let the target delete these outputs, which are all here."""
        await release(self._target, outputs)

    async def bring(
        self,
        node_id: str | None,
        outputs: Sequence[RemoteOutput],
        values: ShownValues | None = None,
    ) -> dict[str, JsonValue]:
        """Save all that one node made; return what the page shows on it.

        Outputs whose node is not known (``None``) are shown under `NO_NODE`: in the history and
        the queue, on no node of the graph.

        If one cannot be brought here, the others are; see `failure`.
        """
        numbered = zip(outputs, (None, *outputs), strict=False)
        entries = await concurrent_map(lambda pair: self._entry_or_error(*pair), numbered)
        shown: dict[str, list[JsonValue]] = {}
        moves = False
        for output, entry in zip(outputs, entries, strict=True):
            if isinstance(entry, ComfyRemoteError):
                if node_id is not None:
                    entry.details.setdefault("node_id", node_id)
                if self.failure is None or isinstance(self.failure, OutputLost):
                    self.failure = entry
                self._note(output, entry.message)
                continue
            file, animated = entry
            key = output.key or _KEYS.get(output.kind, "files")
            shown.setdefault(key, []).append(file)
            moves = moves or (animated and key == "images")
        node: dict[str, JsonValue] = dict(shown)
        if values is not None:
            node = await self._with_values(node, values)
        elif moves:
            node["animated"] = [True]
        if not node:
            return node
        node = await asyncio.to_thread(self._host.register, node, self._prompt_id)
        self.shown[NO_NODE if node_id is None else node_id] = node
        return node

    def _note(self, output: RemoteOutput, reason: str) -> None:
        self.problems.append(OutputProblem(output.node_id, None, output.filename, reason))

    async def _with_values(
        self, outputs: dict[str, JsonValue], values: ShownValues
    ) -> dict[str, JsonValue]:
        """What a node shows, by its own keys in its own order, with the files' names here."""
        here: dict[object, _Here] = {
            file: task.result()
            for file, task in self._here.items()
            if task.done() and not task.cancelled() and task.exception() is None
        }
        node: dict[str, JsonValue] = {}
        for key, value in values.items():
            if value is not None:
                node[key] = self._renamed(key, value, here)
            elif key in outputs:
                node[key] = outputs[key]
        return {**node, **{key: value for key, value in outputs.items() if key not in values}}

    def _renamed(self, key: str, value: JsonValue, here: Mapping[object, _Here]) -> JsonValue:
        """A key's value. A file that did not arrive is left out."""
        if not isinstance(value, list):
            return value
        renamed: list[JsonValue] = []
        for one in value:
            file = named_file(key, one)
            if file is None:
                renamed.append(one)
                continue
            found = here.get(file)
            if found is None:
                continue
            if isinstance(one, dict):
                renamed.append({**one, **self._file_of(found, with_path="fullpath" in one)})
            else:
                renamed.append(found.path)
        return renamed

    def _file_of(self, here: _Here, *, with_path: bool) -> dict[str, JsonValue]:
        file: dict[str, JsonValue] = {
            "filename": here.filename,
            "subfolder": here.subfolder,
            "type": here.folder,
        }
        if with_path:
            file["fullpath"] = str(self._host.folder(here.folder) / here.path)
        return file

    async def _entry_or_error(
        self, output: RemoteOutput, before: RemoteOutput | None
    ) -> tuple[JsonValue, bool] | ComfyRemoteError:
        try:
            return await self._entry(output, before)
        except ComfyRemoteError as error:
            return error

    async def _entry(
        self, output: RemoteOutput, before: RemoteOutput | None
    ) -> tuple[JsonValue, bool]:
        if output.text is not None:
            return output.text, False
        if output.is_shown_text:
            return await self._text(output), False
        here = await self._file(output, before)
        if output.key == "result":
            return here.path, False
        entry = self._file_of(here, with_path=False)
        if output.key == "gifs":
            entry["format"] = output.media_type
        return entry, here.moves

    async def _text(self, output: RemoteOutput) -> str:
        """A text that was too long for an answer."""
        with private_folder(self._host.folder("temp")) as spool:
            fetched = await download(self._target, output, spool / "text")
            content = await asyncio.to_thread(fetched.path.read_bytes)
        return content.decode("utf-8", "replace")

    async def _file(self, output: RemoteOutput, before: RemoteOutput | None) -> _Here:
        """The file; fetched, unless it is here or being fetched already."""
        if output.file not in self._here:
            earlier = None if before is None else self._here.get(before.file)
            self._here[output.file] = asyncio.ensure_future(self._fetch(output, earlier))
        return await asyncio.shield(self._here[output.file])

    async def _fetch(self, output: RemoteOutput, before: asyncio.Task[_Here] | None) -> _Here:
        """Args:
        before: Gets its name first, so that a batch is numbered in its own order.
        """
        kind: FolderKind = "output" if output.folder == "output" else "temp"
        with private_folder(self._host.folder("temp")) as spool:
            fetched = await download(self._target, output, spool / uuid.uuid4().hex)
            if fetched.doubt:
                self._note(output, fetched.doubt)
            if before is not None:
                await asyncio.wait({before})
            # A prompt that runs here numbers its files from when it began to save, and would
            # write over one that took the next number meanwhile.
            mark = "remote_" if self._host.local_prompt() is not None else ""
            folder = self._host.folder(kind)
            path = await asyncio.to_thread(_place, fetched, output, folder, mark)
            moves = await asyncio.to_thread(_moves, output, path)
        self.received.append((output, replace(fetched, path=path)))
        self.saved.append(
            SavedOutput(
                path=path,
                node_id=output.node_id,
                kind=output.kind,
                filename=output.filename,
                sha256=fetched.sha256,
                size=fetched.size,
            )
        )
        relative = path.relative_to(folder)
        return _Here(relative.name, subfolder_of(relative), kind, moves)

    async def stop(self) -> None:
        """Cancel what is still being fetched."""
        for task in self._here.values():
            task.cancel()
        await asyncio.gather(*self._here.values(), return_exceptions=True)


def _place(fetched: Received, output: RemoteOutput, folder: Path, mark: str) -> Path:
    named = safe_relative_path(output.filename, output.subfolder)
    return place_new(fetched.path, _free_names(folder / fitting(folder, named), mark))


def _free_names(wanted: Path, mark: str) -> Iterator[Path]:
    """The names to try, in order: the next numbers in ComfyUI's way of counting."""
    numbered = _NUMBERED.match(wanted.stem)
    if numbered is None:
        if not mark:
            yield wanted
        prefix = wanted.stem
    else:
        prefix = numbered["prefix"]
    first = _highest_number(wanted.parent, prefix) + 1
    for counter in range(first, first + _MOST_NAMES):
        yield wanted.with_name(f"{prefix}_{counter:05}_{mark}{wanted.suffix}")


def _highest_number(folder: Path, prefix: str) -> int:
    pattern = re.compile(rf"{re.escape(prefix.casefold())}_(\d+)(?:[_.].*)?$", re.DOTALL)
    try:
        taken = [pattern.match(path.name.casefold()) for path in folder.iterdir()]
    except FileNotFoundError:
        return 0
    return max((int(match[1]) for match in taken if match), default=0)


def _moves(output: RemoteOutput, path: Path) -> bool:
    """Whether the page should play it."""
    if output.kind == "video":
        return True
    if output.media_type not in _MAY_MOVE:
        return False
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return bool(getattr(picture, "is_animated", False))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return False  # no picture that we know: the page shows it as it can


Deliver: TypeAlias = Callable[
    ["str | None", Sequence[RemoteOutput], "ShownValues | None"], Awaitable[None]
]
"""Brings what one node made and shows (``None`` where unknown)."""


class Deliveries:
    """Brings outputs here node by node, while the job goes on.

    A target reports a node's outputs one after the other; the page gets all of them at once.
    """

    def __init__(self, deliver: Deliver) -> None:
        self._deliver = deliver
        self._gathered: dict[str | None, list[RemoteOutput]] = {}
        self._shown: dict[str | None, ShownValues] = {}
        self._under_way: list[asyncio.Future[None]] = []
        self._known: set[tuple[object, ...]] = set()

    def add(self, output: RemoteOutput) -> None:
        """Note that an output exists. The same one may be reported twice."""
        identity = (output.node_id, *output.file)
        if identity not in self._known:
            self._known.add(identity)
            self._gathered.setdefault(output.node_id, []).append(output)

    def show(self, node_id: str, values: ShownValues) -> None:
        """Note what a node shows besides its outputs, which come next."""
        self._shown[node_id] = values
        if values:
            self._gathered.setdefault(node_id, [])

    def flush(self) -> None:
        """Bring what was gathered: another event came, so these nodes have no more."""
        gathered, self._gathered = self._gathered, {}
        for node_id, outputs in gathered.items():
            self._under_way.append(
                asyncio.ensure_future(self._deliver(node_id, outputs, self._shown.get(node_id)))
            )

    async def done(self) -> None:
        """Wait for all that can be brought here."""
        self.flush()
        await asyncio.gather(*self._under_way)

    async def stop(self) -> None:
        """Cancel what is still being fetched."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
