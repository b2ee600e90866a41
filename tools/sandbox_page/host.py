"""The sandbox as a host: page, lane and remote parts without a ComfyUI."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from comfy_remote.calls.values import ValueForm
from comfy_remote.node_pack.host import (
    FolderKind,
    Host,
    JobResult,
    LocalPrompt,
    QueueEntry,
    queue_entry,
)
from comfy_remote.node_pack.nodes.part_run import PartRun
from comfy_remote.node_pack.part_document import PartDocument
from comfy_remote.ready.local import LocalComfyUI, find_local
from comfy_remote.sandbox.engine import ENGINE, Engine, PartContext, PartRunner, ShownByNode
from comfy_remote.sandbox.nodes import NODES
from comfy_remote.sandbox.prompt_queue import QueuedPrompt
from comfy_remote.workflow.schema import Schemas

if TYPE_CHECKING:
    from PIL.Image import Image
    from pydantic import JsonValue

__all__ = ["SandboxHost", "part_runner"]


class SandboxHost:
    """The `Host` of a sandbox. Made by `SandboxServer`'s ``extend``::

        SandboxServer(extend=lambda app: install(SandboxHost(app)))

    Args:
        app: Holds the sandbox's parts, and has not started.
        identity: See `Host`; the sandbox's folder by default.
    """

    def __init__(self, app: web.Application, identity: str | None = None) -> None:
        self._app = app
        self._identity = identity
        self._keys = itertools.count()
        self._shown: dict[int, str] = {}
        self._engine.hooks.run_part = part_runner(self)

    @property
    def _engine(self) -> Engine:
        return self._app[ENGINE]

    @property
    def identity(self) -> str:
        """See `Host.identity`."""
        return self._identity or f"sandbox {self._engine.folders.root}"

    @property
    def several_users(self) -> bool:
        """See `Host.several_users`."""
        return False

    @property
    def app(self) -> web.Application:
        """See `Host.app`."""
        return self._app

    def add_routes(self, routes: web.RouteTableDef) -> None:
        """See `Host.add_routes`."""
        for route in routes:
            if isinstance(route, web.RouteDef):
                for prefix in ("", "/api"):
                    self._app.router.add_route(route.method, prefix + route.path, route.handler)

    def folder(self, kind: FolderKind) -> Path:
        """See `Host.folder`."""
        return self._engine.folders.root / kind

    def models_folder(self) -> Path:
        """See `Host.models_folder`."""
        return self._engine.folders.root / "models"

    def pack_folders(self) -> list[Path]:
        """See `Host.pack_folders`."""
        return []

    def base_folder(self) -> Path:
        """See `Host.base_folder`."""
        return self._engine.folders.root

    def program(self) -> None:
        """See `Host.program`: the sandbox imports no packs."""

    def schemas(self, classes: Collection[str]) -> Schemas:
        """See `Host.schemas`."""
        folders = self._engine.folders
        found = {n: NODES[n].schema.to_json(folders) for n in classes if n in NODES}
        return Schemas(found, "this sandbox")

    def comfyui(self) -> LocalComfyUI | None:
        """The sandbox has no models: those of a ComfyUI on this machine."""
        return find_local()

    def asset(self, reference: str) -> Path | None:
        """The sandbox keeps no assets."""
        del reference
        return None

    def register(self, shown: dict[str, JsonValue], prompt_id: str) -> dict[str, JsonValue]:
        """The sandbox keeps no assets."""
        del prompt_id
        return shown

    def on_prompt(self, change: Callable[[dict[str, JsonValue]], dict[str, JsonValue]]) -> None:
        """See `Host.on_prompt`."""
        self._engine.hooks.prompts.append(change)

    def before_prompt(self, body: dict[str, JsonValue]) -> dict[str, JsonValue]:
        """There are no other packs."""
        return body

    def next_number(self, *, front: bool) -> float:
        """See `Host.next_number`."""
        number = self._engine.queue.next_number()
        return -number if front else number

    def begin(self, entry: QueueEntry) -> int:
        """See `Host.begin`."""
        key = next(self._keys)
        self._shown[key] = entry.prompt_id
        self._engine.queue.show(
            QueuedPrompt(
                entry.number, entry.prompt_id, entry.prompt, entry.extra_data, entry.outputs
            )
        )
        return key

    def end(self, key: int, result: JobResult) -> None:
        """See `Host.end`."""
        history = {**result.history, "status": result.status}
        self._engine.queue.finish_shown(self._shown.pop(key), history)

    def posted(self, prompt_id: str) -> QueueEntry | None:
        """See `Host.posted`."""
        found = self._engine.queue.history(prompt_id).get(prompt_id, {})
        return queue_entry(prompt_id, found.get("prompt"))

    def queue_changed(self) -> None:
        """See `Host.queue_changed`."""
        self._engine.queue.announce()

    def local_prompt(self) -> LocalPrompt | None:
        """See `Host.local_prompt`."""
        item = self._engine.queue.running
        if item is None:
            return None
        client_id = item.extra_data.get("client_id")
        return LocalPrompt(item.prompt_id, client_id if isinstance(client_id, str) else None)

    def cancel_local(self, prompt_id: str) -> bool:
        """See `Host.cancel_local`."""
        queue = self._engine.queue
        waits = any(item.prompt_id == prompt_id for item in queue.snapshot()[1])
        queue.delete([prompt_id])
        # It may have begun between the two; then it is interrupted.
        return queue.interrupt_running(prompt_id) or waits

    def send(self, event: str, data: Mapping[str, JsonValue], client_id: str | None) -> None:
        """See `Host.send`."""
        self._engine.sockets.send(event, data, client_id)

    def send_preview(
        self,
        picture: bytes,
        media_type: str,
        metadata: Mapping[str, JsonValue],
        client_id: str | None,
    ) -> None:
        """See `Host.send_preview`."""
        self._engine.sockets.send_encoded_preview(picture, media_type, metadata, client_id)

    def send_text(self, text: str, node_id: str, client_id: str | None) -> None:
        """See `Host.send_text`."""
        self._engine.sockets.send_text(text, node_id, client_id)

    def connection(self, client_id: str) -> object | None:
        """See `Host.connection`."""
        return self._engine.sockets.connection(client_id)


def part_runner(host: Host) -> PartRunner:
    """What the sandbox's `ComfyRemotePart` calls, in the thread that runs prompts."""

    def run_part(
        context: PartContext, part: str, values: Sequence[list[object]]
    ) -> tuple[Sequence[list[object]], ShownByNode]:
        document = PartDocument.parse(part)
        workflow = context.extra_pnginfo.get("workflow")
        run = PartRun(
            host,
            document,
            _Watcher(context),
            form=ValueForm(),
            workflow=workflow if isinstance(workflow, dict) else None,
        )
        result = asyncio.run(run.run(values))
        # No node of the sandbox blocks anything.
        return [items or [] for items in result.values], result.shown

    return run_part


class _Watcher:
    """Tells the page of the part's own nodes, as of nodes that run in the sandbox."""

    def __init__(self, context: PartContext) -> None:
        self._context = context

    def say(self, text: str) -> None:
        """The sandbox's page does not show it."""

    def log(self, message: str, level: str) -> None:
        """The same."""

    def check(self) -> None:
        """Raises the sandbox's own exception when the prompt has been interrupted."""
        self._context.sleep(0)

    async def node_progress(
        self, node_id: str, done: float, total: float, picture: Image | None
    ) -> None:
        """Move the bar of a node, and show its work in progress."""
        self._context.report.node_progress(node_id, done, total, picture)

    def node_text(self, node_id: str, text: str) -> None:
        """The sandbox's page does not show it."""

    async def node_finished(self, node_id: str) -> None:
        """Fill the bar; the sandbox itself does that of the one that runs."""
        if node_id != self._context.node_id:
            self._context.report.node_finished(node_id, None, from_cache=False)
