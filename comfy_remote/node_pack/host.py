"""The server whose page shows the jobs: all that the rest of the pack knows of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, cast

from aiohttp import web

from ..ready.local import LocalComfyUI
from ..types import JsonValue
from ..workflow.prompt import Prompt
from ..workflow.schema import Schemas

__all__ = [
    "FolderKind",
    "Host",
    "JobResult",
    "LocalPrompt",
    "QueueEntry",
    "StatusMessage",
    "queue_entry",
]

FolderKind: TypeAlias = Literal["input", "output", "temp"]

StatusMessage: TypeAlias = tuple[str, dict[str, "JsonValue"]]
"""A message that the history keeps: ``("execution_start", {"prompt_id", "timestamp"})``."""


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """A job as the server's queue shows it.

    Attributes:
        number: Its position in the order of all prompts; lower ones run first.
        prompt_id: A lower-case UUID; also the job's id in the record.
        prompt: All of it, as the page sent it.
        extra_data: As the page sent it (``extra_pnginfo``, ``client_id``, …), without secrets,
            and with ``create_time`` in ms since the epoch.
        outputs: The output nodes that were asked for.
    """

    number: float
    prompt_id: str
    prompt: Prompt
    extra_data: dict[str, JsonValue]
    outputs: list[str] = field(default_factory=list)

    @property
    def client_id(self) -> str | None:
        """The page that sent it; ``None`` for a script that listens to nothing."""
        client_id = self.extra_data.get("client_id")
        return client_id if isinstance(client_id, str) else None


def queue_entry(prompt_id: str, posted: object) -> QueueEntry | None:
    """A job as a history has it, in ComfyUI's own form; ``None`` for anything else.

    Args:
        posted: ``(number, id, prompt, extra_data, outputs)``, perhaps with more behind it.
    """
    match posted:
        case [int() | float() as number, _, dict(prompt), dict(extra_data), [*outputs], *_]:
            found = cast("Prompt", prompt)
            return QueueEntry(number, prompt_id, found, dict(extra_data), [str(o) for o in outputs])
        case _:
            return None


@dataclass(frozen=True, slots=True)
class JobResult:
    """A job that has ended, for the history.

    Attributes:
        outputs: By node id, what the node showed: ``{"images": [{"filename", …}], …}``.
        messages: From ``execution_start`` to the end.
    """

    succeeded: bool
    outputs: Mapping[str, Mapping[str, JsonValue]]
    messages: Sequence[StatusMessage]

    @property
    def status(self) -> dict[str, object]:
        """Its ``status`` in the history."""
        return {
            "status_str": "success" if self.succeeded else "error",
            "completed": self.succeeded,
            "messages": list(self.messages),
        }

    @property
    def history(self) -> dict[str, object]:
        """The rest of its history entry."""
        return {
            "outputs": dict(self.outputs),
            "meta": {
                node_id: {
                    "node_id": node_id,
                    "display_node": node_id,
                    "parent_node": None,
                    "real_node_id": node_id,
                }
                for node_id in self.outputs
            },
        }


@dataclass(frozen=True, slots=True)
class LocalPrompt:
    """The prompt that this machine itself is running."""

    prompt_id: str
    client_id: str | None


class Host(Protocol):
    """A ComfyUI, or the sandbox. Called on its event loop; what is blocking, in a thread."""

    @property
    def identity(self) -> str:
        """Identifies this server among the user's servers, also after a restart."""

    @property
    def several_users(self) -> bool:
        """Whether people share the server, each with settings of their own (``--multi-user``)."""

    @property
    def app(self) -> web.Application:
        """The server's application, not yet started when the pack is installed."""

    def add_routes(self, routes: web.RouteTableDef) -> None:
        """Serve routes, also below ``/api``. Before the app starts."""

    def folder(self, kind: FolderKind) -> Path:
        """One of ComfyUI's three folders."""

    def models_folder(self) -> Path:
        """ComfyUI's own ``models`` folder."""

    def pack_folders(self) -> list[Path]:
        """The folders that node packs are imported from."""

    def base_folder(self) -> Path:
        """ComfyUI's own folder, or the one that it was started with in place of it."""

    def program(self) -> tuple[Path, str, tuple[str, ...]] | None:
        """How it was started: the folder with its ``main.py``, Python, arguments; ``None`` if it
        cannot be started like that.
        """

    def schemas(self, classes: Collection[str]) -> Schemas:
        """The schemas of some of its node classes. Blocking."""

    def comfyui(self) -> LocalComfyUI | None:
        """The folders in which its models and packs are, if it has any. Blocking."""

    def asset(self, reference: str) -> Path | None:
        """The file behind ``blake3:…``, if the server has it. Blocking."""

    def register(self, shown: dict[str, JsonValue], prompt_id: str) -> dict[str, JsonValue]:
        """Let the server enter new files into its list of assets, if it keeps one. Blocking.

        Returns:
            The same, with what the server adds to it.
        """

    def on_prompt(self, change: Callable[[dict[str, JsonValue]], dict[str, JsonValue]]) -> None:
        """Let a function change what is posted to ``/prompt``, before it is checked and queued.

        Args:
            change: Called in the request's own task with the body; returns the body to use.
                It raises nothing and does not wait.
        """

    def before_prompt(self, body: dict[str, JsonValue]) -> dict[str, JsonValue]:
        """Let other packs change what a page posted to ``/prompt``, as for a local prompt."""

    def next_number(self, *, front: bool) -> float:
        """The queue number for a new prompt."""

    def begin(self, entry: QueueEntry) -> int:
        """Show a job among those that run; returns the key for `end`."""

    def end(self, key: int, result: JobResult) -> None:
        """Move a job into the history."""

    def posted(self, prompt_id: str) -> QueueEntry | None:
        """A prompt of the history, as it was queued; ``None`` if it is no longer there."""

    def queue_changed(self) -> None:
        """Have all pages read the queue again."""

    def local_prompt(self) -> LocalPrompt | None:
        """The prompt that the server itself is running."""

    def cancel_local(self, prompt_id: str) -> bool:
        """Stop or unqueue a prompt of the server's own; ``False`` if there is none."""

    def send(self, event: str, data: Mapping[str, JsonValue], client_id: str | None) -> None:
        """Send a message to a page's WebSocket; to all of them for ``None``."""

    def send_preview(
        self,
        picture: bytes,
        media_type: str,
        metadata: Mapping[str, JsonValue],
        client_id: str | None,
    ) -> None:
        """Send a picture of work in progress, in the form that the page understands.

        Args:
            media_type: ``image/jpeg``, ``image/png`` or ``image/webp``.
            metadata: ``node_id``, ``prompt_id`` and so on; old pages get none.
        """

    def send_text(self, text: str, node_id: str, client_id: str | None) -> None:
        """Show a text on a node while it runs, instead of the one before."""

    def connection(self, client_id: str) -> object | None:
        """The page's WebSocket, to distinguish a new connection from an old one."""
