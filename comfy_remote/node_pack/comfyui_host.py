"""A real ComfyUI as a host: all that differs between its versions.

Known: a queue item has 5 fields, and 6 since 0.3.67 (``sensitive`` last; `task_done` then takes
``process_item``, and the history keeps 5). ``interrupt_if_running`` exists since 0.25, assets
since 0.3.76. Nothing here is patched: the queue's own lock, dictionary and methods are used as
ComfyUI's worker thread uses them.
"""

from __future__ import annotations

import inspect
import json
import logging
import struct
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from ..aio import Background
from ..errors import ConfigurationError
from ..ready.local import LocalComfyUI
from ..types import JsonValue
from ..workflow.schema import Schemas
from .host import FolderKind, JobResult, LocalPrompt, QueueEntry, queue_entry

__all__ = ["ComfyUIHost"]

_log = logging.getLogger(__name__)

# ComfyUI's numbers (protocol.py) for binary messages, and of formats in the first of them.
_PREVIEW_IMAGE = 1
_PREVIEW_IMAGE_WITH_METADATA = 4
_JPEG, _PNG = 1, 2

_SERVER_NEEDS = (
    *(
        "add_on_prompt_handler",
        "app",
        "number",
        "prompt_queue",
        "queue_updated",
        "routes",
        "send_bytes",
        "send_sync",
    ),
    *("sockets", "sockets_metadata", "trigger_on_prompt"),
)
_QUEUE_NEEDS = (
    *("currently_running", "delete_queue_item", "get_history", "mutex", "task_counter"),
    "task_done",
)


class ComfyUIHost:
    """The `Host` of the ComfyUI that this pack is installed in.

    Raises:
        ConfigurationError: This ComfyUI lacks something that the pack needs.
    """

    # ComfyUI's modules have no types: everything of theirs is Any, and stays in this module.
    def __init__(self, server: Any = None) -> None:
        if server is None:
            from server import PromptServer

            server = PromptServer.instance
        _check(server, _SERVER_NEEDS)
        _check(server.prompt_queue, _QUEUE_NEEDS)
        self._server = server
        self._queue = server.prompt_queue
        self._six_fields = "process_item" in inspect.signature(self._queue.task_done).parameters
        self._ours: set[int] = set()
        self._sending = Background()

    @property
    def identity(self) -> str:
        """Output folder and port: two servers that run at once differ in one of them."""
        from comfy.cli_args import args

        return f"comfyui {self.folder('output')} {args.port}"

    @property
    def several_users(self) -> bool:
        """Whether it was started with ``--multi-user``."""
        from comfy.cli_args import args

        return bool(getattr(args, "multi_user", False))

    @property
    def app(self) -> web.Application:
        app: web.Application = self._server.app
        return app

    def add_routes(self, routes: web.RouteTableDef) -> None:
        """Add them to ComfyUI's own table, from which it serves each also below ``/api``."""
        for route in routes:
            if isinstance(route, web.RouteDef):
                self._server.routes.route(route.method, route.path, **route.kwargs)(route.handler)

    def folder(self, kind: FolderKind) -> Path:
        import folder_paths

        return Path(folder_paths.get_directory_by_type(kind))

    def models_folder(self) -> Path:
        import folder_paths

        return Path(folder_paths.models_dir)

    def pack_folders(self) -> list[Path]:
        import folder_paths

        return [Path(folder) for folder in folder_paths.get_folder_paths("custom_nodes")]

    def base_folder(self) -> Path:
        import folder_paths

        return Path(folder_paths.base_path)

    def program(self) -> tuple[Path, str, tuple[str, ...]] | None:
        import folder_paths

        folder = Path(folder_paths.__file__).absolute().parent
        if not (folder / "main.py").is_file() or not sys.executable:
            return None
        return folder, sys.executable, tuple(sys.argv[1:])

    def schemas(self, classes: Collection[str]) -> Schemas:
        from .nodes.comfyui import local_schemas

        return local_schemas(classes)

    def comfyui(self) -> LocalComfyUI:
        """See `Host.comfyui`. Its packs may have added folders of models while they were loaded."""
        import folder_paths

        folders = {
            name: tuple(Path(folder) for folder in entry[0])
            for name, entry in folder_paths.folder_names_and_paths.items()
        }
        source = Path(folder_paths.__file__).parent
        return LocalComfyUI(
            Path(folder_paths.base_path), source, "the one that is running", folders=folders
        )

    def asset(self, reference: str) -> Path | None:
        try:
            from app.assets.services.asset_management import resolve_hash_to_path
        except ImportError:
            return None  # before assets
        try:
            found = resolve_hash_to_path(reference)
        except Exception as error:  # noqa: BLE001 - its database may be missing, locked, off …
            _log.warning("ComfyUI could not look for %s: %s", reference, error)
            return None
        return Path(found.abs_path) if found is not None else None

    def register(self, shown: dict[str, JsonValue], prompt_id: str) -> dict[str, JsonValue]:
        """See `Host.register`. ComfyUI keeps assets when started with ``--enable-assets``."""
        from comfy.cli_args import args

        if not getattr(args, "enable_assets", False):
            return shown
        try:
            from app.assets.services import register_output_files
            from comfy_execution.asset_enrichment import enrich_output_with_assets

            enriched: dict[str, JsonValue] = enrich_output_with_assets(shown)
            register_output_files(self._paths(shown), job_id=prompt_id)
        except Exception as error:  # noqa: BLE001 - its database may be missing, locked, other …
            _log.warning("ComfyUI could not enter the outputs into its assets: %s", error)
            return shown
        return enriched

    def _paths(self, shown: Mapping[str, JsonValue]) -> list[str]:
        paths = []
        for entries in shown.values():
            for entry in entries if isinstance(entries, list) else ():
                match entry:
                    case {
                        "filename": str(name),
                        "subfolder": str(subfolder),
                        "type": "output" | "temp" as kind,
                    }:
                        folder: FolderKind = "output" if kind == "output" else "temp"
                        paths.append(str(self.folder(folder) / subfolder / name))
        return paths

    def on_prompt(self, change: Callable[[dict[str, JsonValue]], dict[str, JsonValue]]) -> None:
        self._server.add_on_prompt_handler(change)

    def before_prompt(self, body: dict[str, JsonValue]) -> dict[str, JsonValue]:
        changed = self._server.trigger_on_prompt(body)
        return changed if isinstance(changed, dict) else body

    def next_number(self, *, front: bool) -> float:
        number: float = self._server.number
        self._server.number += 1
        return -number if front else number

    def begin(self, entry: QueueEntry) -> int:
        item: tuple[object, ...] = (
            entry.number,
            entry.prompt_id,
            entry.prompt,
            entry.extra_data,
            entry.outputs,
        )
        with self._queue.mutex:
            key: int = self._queue.task_counter
            self._queue.task_counter += 1
            self._queue.currently_running[key] = (*item, {}) if self._six_fields else item
            self._ours.add(key)
        self._server.queue_updated()
        return key

    def end(self, key: int, result: JobResult) -> None:
        status = self._queue.ExecutionStatus(**result.status)
        with self._queue.mutex:
            self._ours.discard(key)
            if self._six_fields:
                self._queue.task_done(
                    key, result.history, status, process_item=lambda item: item[:5]
                )
            else:
                self._queue.task_done(key, result.history, status)

    def posted(self, prompt_id: str) -> QueueEntry | None:
        found = self._queue.get_history(prompt_id=prompt_id).get(prompt_id, {})
        return queue_entry(prompt_id, found.get("prompt"))

    def queue_changed(self) -> None:
        self._server.queue_updated()

    def local_prompt(self) -> LocalPrompt | None:
        with self._queue.mutex:
            for key, item in self._queue.currently_running.items():
                if key not in self._ours:
                    client_id = item[3].get("client_id")
                    return LocalPrompt(item[1], client_id if isinstance(client_id, str) else None)
        return None

    def cancel_local(self, prompt_id: str) -> bool:
        if self._queue.delete_queue_item(lambda item: item[1] == prompt_id):
            return True
        with self._queue.mutex:
            # Under the lock, the prompt that runs cannot end, and another begin, in between.
            local = self.local_prompt()
            if local is None or local.prompt_id != prompt_id:
                return False
            from nodes import interrupt_processing

            interrupt_processing()
            return True

    def send(self, event: str, data: Mapping[str, JsonValue], client_id: str | None) -> None:
        self._server.send_sync(event, dict(data), client_id)

    def send_preview(
        self,
        picture: bytes,
        media_type: str,
        metadata: Mapping[str, JsonValue],
        client_id: str | None,
    ) -> None:
        """Send the bytes as they are: ComfyUI's own sender takes a decoded picture."""
        known = self._server.sockets_metadata.get(client_id, {}) if client_id else {}
        if known.get("feature_flags", {}).get("supports_preview_metadata"):
            text = json.dumps({**metadata, "image_type": media_type}).encode()
            event, header = _PREVIEW_IMAGE_WITH_METADATA, struct.pack(">I", len(text)) + text
        else:
            kind = _PNG if media_type == "image/png" else _JPEG
            event, header = _PREVIEW_IMAGE, struct.pack(">I", kind)
        self._sending.start(self._server.send_bytes(event, header + picture, client_id))

    def send_text(self, text: str, node_id: str, client_id: str | None) -> None:
        self._server.send_progress_text(text, node_id, client_id)

    def connection(self, client_id: str) -> object | None:
        socket: object | None = self._server.sockets.get(client_id)
        return socket


def _check(part: object, names: tuple[str, ...]) -> None:
    missing = [name for name in names if not hasattr(part, name)]
    if missing:
        raise ConfigurationError(
            "Remote is not available: this ComfyUI lacks what Comfy Remote needs of it "
            f"({type(part).__name__} has no {', '.join(missing)}).",
            advice="Update Comfy Remote. ComfyUI itself works as before.",
        )
