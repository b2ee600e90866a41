"""What people complain of in the public workers: from the engine's HTTP to the worker's answer.

Each of their complaints, and the tests that fail where the worker does not see to it (the names of
files are those in ``tests/``; with * also on a real ComfyUI):

=========================================  ======================================================
Videos and audio are not returned          here: `test_films_sounds_and_models_come_back`;
                                           e2e/test_worker_film_and_sound.py:
                                           `test_a_film_and_a_sound_come_back_as_comfyui_wrote_
                                           them` *; unit/test_worker_result.py:
                                           `test_saved_files_of_every_kind_are_returned`
Results over the limit are lost            unit/test_worker_result.py: `test_without_a_store_the_
                                           error_names_sizes_and_a_way_out`,
                                           `test_a_dialect_without_a_place_for_addresses_says_so_
                                           loudly`; e2e/test_worker_sdk.py:
                                           `test_large_outputs_go_to_the_store`;
                                           e2e/test_worker_actions.py:
                                           `test_outputs_that_do_not_fit_are_taken_in_parts`
Models and custom nodes on the volume      e2e/test_start_sh.py: `test_models_and_nodes_on_the_
are not found                              volume_are_comfyuis` *; unit/test_containers.py:
                                           `test_every_kind_of_model_folder_of_comfyui_is_on_the_
                                           volume` *; unit/test_models_folders.py:
                                           `test_the_volume_goes_before_the_engine_in_both_layouts`
A socket is lost just as the job ends,     here: `test_a_socket_that_is_lost_as_the_job_ends`
and then it waits for ever
Out of memory                              unit/test_worker_handler.py: `test_what_fits_once_memory_
                                           is_free_succeeds`, `test_out_of_memory_frees_the_engines`
A cached prompt returns nothing            here: `test_a_prompt_that_is_wholly_cached`;
                                           e2e/test_worker_engine_care.py:
                                           `test_a_job_that_is_wholly_cached_has_its_outputs` *
Images come in the wrong order, names      e2e/test_worker_engine_care.py: `test_images_come_in_
collide                                    order_and_names_that_collide_are_kept_apart` *;
                                           unit/test_worker_result.py:
                                           `test_names_that_are_the_same_are_told_apart`
Tests do not run                           e2e/test_worker_sdk.py: `test_the_worker_tries_itself_
                                           out`, `test_one_job_from_the_command_line`,
                                           `test_the_sdks_own_server_in_place_of_a_queue`
=========================================  ======================================================
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from fake_comfyui import PROMPT, FakeComfyUI
from scripted_server import Answer as Said

from comfy_remote.wire.answer import Answer
from comfy_remote.worker.engine import Engine
from comfy_remote.worker.handler import JobHandler
from comfy_remote.worker.settings import WorkerSettings

GIF = b"GIF89a\x01\x00\x01\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"


class Comfy(FakeComfyUI):
    """Whose prompts run as soon as they are posted, and end when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.posted: asyncio.Queue[str] = asyncio.Queue()
        self.on("GET /system_stats", Said({"system": {"comfyui_version": "1.2.3"}}))
        self.on("POST /history", Said(None))

    def wait_in_queue(self, prompt_id: str, number: float = 5) -> None:
        super().wait_in_queue(prompt_id, number)
        self.start(prompt_id)
        self.posted.put_nowait(prompt_id)


@pytest.fixture
async def server() -> AsyncIterator[Comfy]:
    async with Comfy() as made:
        yield made


async def silent(snapshot: dict[str, Any]) -> None:
    return None


def job(server: Comfy, folder: Path, dialect: str = "comfy-remote/1") -> asyncio.Task[Any]:
    handler = JobHandler(Engine.named(server.url), WorkerSettings(folder=folder))
    return asyncio.create_task(handler("j", {"workflow": PROMPT, "format": dialect}, silent))


@pytest.mark.parametrize("dialect", ["comfy-remote/1", "worker-comfyui", "plain", "images-b64"])
async def test_films_sounds_and_models_come_back(
    server: Comfy, tmp_path: Path, dialect: str
) -> None:
    """As ComfyUI's own nodes list them, VideoHelperSuite, and a pack with a key of its own."""

    def file(name: str) -> dict[str, str]:
        return {"filename": name, "subfolder": "", "type": "output"}

    files = {
        "film.avi": b"RIFF\x04\x00\x00\x00AVI ",
        "tone.wav": b"RIFF\x04\x00\x00\x00WAVE",
        "loop.gif": GIF,
        "thing.obj": b"v 0 0 0\n",
        "words.srt": b"1\n00:00:00,000 --> 00:00:01,000\nx\n",
    }
    listed: dict[str, Any] = {
        "images": [file("film.avi")],
        "animated": [True],
        "audio": [file("tone.wav")],
        "gifs": [file("loop.gif")],
        "3d": [file("thing.obj")],
        "subtitles": [file("words.srt")],
    }

    async def view(request: web.Request) -> web.StreamResponse:
        return Said(files[request.query["filename"]]).response()

    server.on("GET /view", view)
    running = job(server, tmp_path, dialect)
    server.finish(await server.posted.get(), {"2": listed})
    result = await asyncio.wait_for(running, 60)
    assert "error" not in result, result
    match dialect:
        case "comfy-remote/1":
            outputs = Answer.model_validate(result).outputs
            found = {one.filename: one.data or "" for one in outputs}
        case "worker-comfyui":
            found = {one["filename"]: one["data"] for one in result["images"]}
        case "plain":
            found = dict(zip(result["filenames"], result["images"], strict=True))
        case _:
            found = {one["name"]: one["b64"] for one in result["images"]}
    assert {name: base64.b64decode(data) for name, data in found.items()} == files


@pytest.mark.parametrize("lost", ["cut", "refused ever after", "there, and silent"])
async def test_a_socket_that_is_lost_as_the_job_ends(
    server: Comfy, tmp_path: Path, lost: str
) -> None:
    """The message that it is over never comes: neither waited for, nor anything run again."""
    server.on("GET /view", Said(GIF))
    running = job(server, tmp_path)
    prompt_id = await server.posted.get()
    while not server.sockets:
        await asyncio.sleep(0.01)
    await server.say("execution_start", prompt_id=prompt_id)
    await server.say("executing", node="2", prompt_id=prompt_id)
    await asyncio.sleep(0.05)
    if lost == "refused ever after":
        server.on("GET /ws", Said(None, 503))
    if lost != "there, and silent":
        await server.cut_sockets()
    server.finish(prompt_id, {"2": {"images": [{"filename": "x.gif", "type": "output"}]}})
    result = await asyncio.wait_for(running, 60)
    assert [one["filename"] for one in result["outputs"]] == ["x.gif"]
    assert server.posted.empty()


async def test_a_prompt_that_is_wholly_cached(server: Comfy, tmp_path: Path) -> None:
    """No node runs, no ``executed`` is said; the history has the outputs all the same."""
    server.on("GET /view", Said(GIF))
    running = job(server, tmp_path)
    prompt_id = await server.posted.get()
    while not server.sockets:
        await asyncio.sleep(0.01)
    await server.say("execution_start", prompt_id=prompt_id)
    await server.say("execution_cached", nodes=["1", "2"], prompt_id=prompt_id)
    server.finish(prompt_id, {"2": {"images": [{"filename": "x.gif", "type": "output"}]}})
    await server.say("executing", node=None, prompt_id=prompt_id)
    result = await asyncio.wait_for(running, 60)
    assert [one["filename"] for one in result["outputs"]] == ["x.gif"]
