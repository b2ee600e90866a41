"""RunPod Remote Execute in a real ComfyUI: remote, through a gateway, and local."""

from __future__ import annotations

import io
import json
import os
import re
import secrets
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from engine_client import EngineClient, pixel_digest
from helpers import real_comfyui, stop
from pack import PackServer, comfyui_with_pack
from PIL import Image

from comfy_remote.workflow.prompt import Prompt

pytestmark = [pytest.mark.comfyui, pytest.mark.timeout(240)]

NODE = "7"
KEY = secrets.token_urlsafe(24)


@contextmanager
def endpoint(log: Path) -> Iterator[str]:
    """A gateway with one worker and the sandbox; its base URL."""
    serve = [sys.executable, "-m", "comfy_remote", "serve", "--port=0", "--engine=sandbox"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*serve, "--endpoint=desk"],
            env={**os.environ, "PYTHONUNBUFFERED": "1", "COMFY_REMOTE_TOKEN": KEY},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 60
        while "Ready." not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        found = re.search(r"Endpoint desk at (\S+)/desk", log.read_text())
        assert found, log.read_text()
        yield found[1]
    finally:
        stop(process)


@dataclass
class Setting:
    """A ComfyUI with the pack, and the endpoint that its environment names."""

    server: PackServer
    engine: EngineClient
    endpoint: str

    def jobs(self) -> dict[str, int]:
        """What the endpoint counts: jobs by state."""
        header = {"Authorization": f"Bearer {KEY}"}
        url = f"{self.endpoint}/desk/health"
        return json.loads(EngineClient(url).request("", None, **header)[1])["jobs"]


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    real_comfyui()
    base = tmp_path_factory.mktemp("node")
    (base / "user" / "default" / "workflows").mkdir(parents=True)
    (base / "user" / "default" / "workflows" / "twice.json").write_text(json.dumps(INVERT))
    with endpoint(base / "endpoint.log") as url:
        environment = {
            "RUNPOD_API_KEY": KEY,
            "RUNPOD_ENDPOINT_ID": "desk",
            "RUNPOD_ENDPOINT_BASE_URL": url,
        }
        with comfyui_with_pack(base, environment=environment, folder_name="a pack-1.0") as server:
            yield Setting(server, EngineClient(server.url), url)


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


INVERT = {
    "3": node("LoadImage", image="not-here.png"),
    "5": node("ImageInvert", image=["3", 0]),
    "9": node("SaveImage", images=["5", 0], filename_prefix="inverted"),
}
SLOW = {
    "1": node("EmptyImage", width=32, height=32, batch_size=1, color=255),
    "2": node("SandboxSlow", image=["1", 0], steps=600, seconds_per_step=0.1, preview=True),
    "3": node("SaveImage", images=["2", 0], filename_prefix="slow"),
}


def graph(workflow: Any = "", *, remote: bool, batch: int = 1, **inputs: Any) -> dict[str, Any]:
    """The open graph: pictures, our node, and a node that saves what comes out of it."""
    text = workflow if isinstance(workflow, str) else json.dumps(workflow)
    inputs = {"input_images": ["2", 0], **inputs}
    return {
        "1": node("EmptyImage", width=60, height=40, batch_size=batch, color=0x336699),
        "2": node("ImageBatch", image1=["1", 0], image2=["4", 0]),
        "4": node("EmptyImage", width=60, height=40, batch_size=1, color=0xAA0511),
        NODE: node(
            "RunPodRemoteExecute",
            workflow_json=text,
            enable_remote=remote,
            **{key: value for key, value in inputs.items() if value is not None},
        ),
        "8": node("SaveImage", images=[NODE, 0], filename_prefix="outer"),
    }


def outer_pictures(setting: Setting, prompt: dict[str, Any]) -> list[Image.Image]:
    entry = setting.engine.run(prompt)
    assert entry["status"]["completed"], entry["status"]["messages"]
    listed = entry["outputs"]["8"]["images"]
    return [Image.open(io.BytesIO(setting.engine.file(one))) for one in listed]


def error_of(setting: Setting, prompt: dict[str, Any]) -> str:
    entry = setting.engine.run(prompt)
    assert not entry["status"]["completed"]
    name, data = entry["status"]["messages"][-1]
    assert name == "execution_error", entry["status"]["messages"]
    assert data["node_id"] == NODE
    return str(data["exception_message"])


TWO_INPUTS = {
    "10": node("LoadImage", image="second.png"),
    "9": node("LoadImage", image="first.png"),
    "11": node("ImageBlend", image1=["9", 0], image2=["10", 0], blend_factor="0.3")
    | {"_meta": {"title": "Blend"}},
    "12": node("MaskToImage", mask=["9", 1]),
    "13": node("ImageScale", image=["12", 0], upscale_method="bicubic", width=60, height=40)
    | {"_meta": {}},
    "20": node("SaveImage", images=["11", 0], filename_prefix="blend"),
    "21": node("SaveImage", images=["13", 0], filename_prefix="mask"),
    "22": node("PreviewImage", images=["9", 0]),
}
TWO_INPUTS["11"]["inputs"]["blend_mode"] = "multiply"
TWO_INPUTS["13"]["inputs"]["crop"] = "center"


@pytest.mark.parametrize(
    ("workflow", "batch", "pictures"),
    [(INVERT, 1, 2), (INVERT, 3, 4), (TWO_INPUTS, 1, 2)],
    ids=["a batch into one node", "a larger batch", "one picture for each node"],
)
def test_local_and_remote_give_the_same_pixels(
    setting: Setting, workflow: Prompt, batch: int, pictures: int
) -> None:
    local = outer_pictures(setting, graph(workflow, remote=False, batch=batch))
    remote = outer_pictures(setting, graph(workflow, remote=True, batch=batch))
    assert len(local) == len(remote) == pictures
    assert pixel_digest(local) == pixel_digest(remote)
    if workflow is INVERT:
        # ComfyUI cuts off where it makes bytes of colours: one less is the same colour.
        expected = [(0xCC, 0x99, 0x66)] * batch + [(0x55, 0xFA, 0xEE)]
        for picture, colour in zip(local, expected, strict=True):
            pixel = picture.getpixel((0, 0))
            assert isinstance(pixel, tuple)
            assert all(abs(a - b) <= 1 for a, b in zip(pixel, colour, strict=True)), pixel


def test_colours_between_the_steps_of_8_bits_are_the_same(setting: Setting) -> None:
    """The pictures that go in have values that a PNG rounds; so has what comes out."""
    workflow = {**INVERT, "5": node("ImageBlend", image1=["3", 0], image2=["3", 0])}
    workflow["5"]["inputs"] |= {"blend_factor": 0.37, "blend_mode": "soft_light"}

    def prompt(remote: bool) -> dict[str, Any]:
        wanted = graph(workflow, remote=remote)
        wanted["5"] = node("ImageBlend", image1=["1", 0], image2=["4", 0], blend_factor=0.41)
        wanted["5"]["inputs"]["blend_mode"] = "screen"
        wanted[NODE]["inputs"]["input_images"] = ["5", 0]
        # Makes a difference of less than one step visible.
        wanted["6"] = node("ImageBlend", image1=[NODE, 0], image2=["1", 0], blend_factor=0.5)
        wanted["6"]["inputs"]["blend_mode"] = "multiply"
        wanted["8"]["inputs"]["images"] = ["6", 0]
        return wanted

    local = outer_pictures(setting, prompt(remote=False))
    assert pixel_digest(local) == pixel_digest(outer_pictures(setting, prompt(remote=True)))


def test_a_workflow_in_ui_format_and_one_from_a_file(setting: Setting) -> None:
    invert = {
        "nodes": [
            {"id": 1, "type": "LoadImage", "outputs": [{"name": "IMAGE", "links": [1]}]}
            | {"widgets_values": ["x.png", "image"], "mode": 0, "inputs": []},
            {"id": 2, "type": "ImageInvert", "inputs": [{"name": "image", "link": 1}]}
            | {"outputs": [{"name": "IMAGE", "links": [2]}], "mode": 0},
            {"id": 3, "type": "SaveImage", "inputs": [{"name": "images", "link": 2}]}
            | {"widgets_values": ["ui"], "mode": 0, "outputs": []},
        ],
        "links": [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"]],
        "version": 0.4,
    }
    expected = pixel_digest(outer_pictures(setting, graph(INVERT, remote=False)))
    for remote in (False, True):
        pasted = outer_pictures(setting, graph(invert, remote=remote))
        saved = outer_pictures(setting, graph(remote=remote, workflow_file="twice.json"))
        assert pixel_digest(pasted) == pixel_digest(saved) == expected


def test_saved_workflows_are_listed(setting: Setting) -> None:
    info = setting.engine.json("/object_info/RunPodRemoteExecute")["RunPodRemoteExecute"]
    assert info["category"] == "RunPod"
    assert info["display_name"] == "RunPod Remote Execute"
    assert info["output"] == ["IMAGE", "VIDEO"]
    assert info["output_node"] is True
    inputs = {**info["input"]["required"], **info["input"]["optional"]}
    assert list(inputs)[:3] == ["workflow_json", "enable_remote", "input_images"]
    assert inputs["enable_remote"][1]["label_on"] == "RunPod"
    assert inputs["enable_remote"][1]["default"] is False  # on, it spends money
    assert inputs["enable_remote"][1]["label_off"] == "Local"
    assert "twice.json" in json.dumps(inputs["workflow_file"])
    assert "sandbox" in json.dumps(inputs["target"])  # a choice, of the targets that are known
    assert inputs["target"][1]["default"] == ""
    assert not any("key" in name for name in inputs)


def test_a_file_outside_of_the_folders_is_refused_before_anything_runs(setting: Setting) -> None:
    prompt = graph(remote=True, workflow_file="../../../a pack-1.0/pyproject.toml")
    status, body = setting.engine.request("/prompt", {"prompt": prompt})
    answer = json.loads(body)
    assert "There is no workflow file" in json.dumps(answer["node_errors"][NODE]), status


async def test_the_open_graph_runs_there_and_not_here(setting: Setting) -> None:
    prompt = graph(remote=True)
    prompt["1"]["inputs"]["color"] = 0x102030  # not in ComfyUI's cache
    prompt["5"] = node("ImageInvert", image=["2", 0])
    prompt[NODE]["inputs"]["input_images"] = ["5", 0]
    seen = await watched(setting, prompt)
    assert seen.error is None, seen.error
    assert seen.executed_nodes == {NODE, "8"}
    here = graph(remote=False)
    here["1"]["inputs"]["color"] = 0x102030
    here["5"], here[NODE]["inputs"]["input_images"] = prompt["5"], ["5", 0]
    local = outer_pictures(setting, here)
    assert len(local) == 2
    assert pixel_digest(outer_pictures(setting, prompt)) == pixel_digest(local)


def test_what_has_run_is_not_run_again(setting: Setting) -> None:
    prompt = graph(INVERT, remote=True, batch=2)
    outer_pictures(setting, prompt)
    before = setting.jobs()["completed"]
    outer_pictures(
        setting,
        {
            **prompt,
            "8": {**prompt["8"], "inputs": {**prompt["8"]["inputs"], "filename_prefix": "again"}},
        },
    )
    assert setting.jobs()["completed"] == before


@pytest.mark.parametrize("remote", [True, False], ids=["remote", "local"])
def test_it_works_as_the_only_node(setting: Setting, remote: bool) -> None:
    """What comes back is in ComfyUI's output folder, readable by its owner only, and is shown."""
    color = 0x0A0B0C if remote else 0x0D0E0F
    workflow = {
        "1": node("EmptyImage", width=16, height=8, batch_size=2, color=color),
        "9": node("SaveImage", images=["1", 0], filename_prefix=f"alone/{remote}"),
    }
    prompt = {NODE: node("RunPodRemoteExecute", workflow_json=json.dumps(workflow))}
    prompt[NODE]["inputs"]["enable_remote"] = remote
    entry = setting.engine.run(prompt)
    assert entry["status"]["completed"], entry["status"]["messages"]
    (shown,) = entry["outputs"].values()
    assert len(shown["images"]) == 2
    for one in shown["images"]:
        path = setting.server.directory / "output" / one["subfolder"] / one["filename"]
        assert (one["type"], path.stat().st_size > 0) == ("output", True)
        picture = Image.open(io.BytesIO(setting.engine.file(one)))
        pixel = picture.convert("RGB").getpixel((0, 0))
        assert pixel == tuple(color.to_bytes(3, "big"))
        if remote and os.name == "posix":
            assert path.stat().st_mode & 0o777 == 0o600


@pytest.fixture(scope="module")
def films(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a ComfyUI elsewhere, confirmed: the sandbox makes no films."""
    with comfyui_with_pack(tmp_path_factory.mktemp("films")) as server:
        header = {"Origin": setting.server.url}
        body = {"target": server.url}
        status, answer = setting.engine.request("/remote/addresses", body, **header)
        assert status == 200, answer
        yield server.url


FILM = {
    "1": node("EmptyImage", width=64, height=48, batch_size=5, color=0x3366CC),
    "2": node("CreateVideo", images=["1", 0], fps=8.0),
    "3": node("SaveVideo", video=["2", 0], filename_prefix="film", format="mp4", codec="h264"),
}
FRAMES = {
    "1": FILM["1"],
    "3": node("SaveWEBM", images=["1", 0], filename_prefix="film", codec="vp9", fps=8.0, crf=20.0),
}


@pytest.mark.parametrize("workflow", [FILM, FRAMES], ids=["of a video", "of frames"])
@pytest.mark.parametrize("remote", [True, False], ids=["remote", "local"])
def test_a_workflow_that_makes_a_film(
    setting: Setting, films: str, workflow: Prompt, remote: bool
) -> None:
    prompt = graph(workflow, remote=remote, input_images=None, target=films)
    prompt["9"] = {**FILM["3"], "inputs": {**FILM["3"]["inputs"], "video": [NODE, 1]}}
    prompt["9"]["inputs"]["filename_prefix"] = "outer film"
    prompt["10"] = node("GetVideoComponents", video=[NODE, 1])
    prompt["11"] = node("PreviewAny", source=["10", 2])
    entry = setting.engine.run(prompt)
    assert entry["status"]["completed"], entry["status"]["messages"]
    frames = [Image.open(io.BytesIO(setting.engine.file(one))) for one in pictures(entry, "8")]
    assert [frame.size for frame in frames] == [(64, 48)] * 5
    for frame in frames:
        pixel = frame.convert("RGB").getpixel((30, 20))
        assert isinstance(pixel, tuple)
        assert all(abs(a - b) < 8 for a, b in zip(pixel, (0x33, 0x66, 0xCC), strict=True)), pixel
    (film,) = pictures(entry, "9")
    assert setting.engine.file(film)[4:8] == b"ftyp"
    assert entry["outputs"]["11"]["text"] == ["8.0"]


def pictures(entry: dict[str, Any], node_id: str) -> list[dict[str, Any]]:
    return list(entry["outputs"][node_id]["images"])


async def test_what_wants_a_film_where_there_is_none_says_why(setting: Setting) -> None:
    prompt = graph(INVERT, remote=False)
    prompt["9"] = node("SaveVideo", video=[NODE, 1], filename_prefix="x", format="auto")
    prompt["9"]["inputs"]["codec"] = "auto"
    seen = await watched(setting, prompt)
    assert "add a Save Video node" in str(seen.error)


@dataclass
class Seen:
    """What a page is sent while a prompt runs."""

    texts: list[str] = field(default_factory=list)
    fractions: list[float] = field(default_factory=list)
    previews: int = 0
    executed_nodes: set[str] = field(default_factory=set)
    error: Any = None
    interrupted: bool = False


async def watched(setting: Setting, prompt: dict[str, Any], interrupt_at: float = 2.0) -> Seen:
    """Run it, and interrupt it once its bar has come so far (never, above 1)."""
    seen, client_id = Seen(), uuid.uuid4().hex
    url = setting.server.url
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{url}/ws?clientId={client_id}", timeout=aiohttp.ClientWSTimeout()) as ws,
    ):
        flags = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
        await ws.send_json(flags)
        body = {"prompt": prompt, "client_id": client_id}
        async with http.post(f"{url}/prompt", json=body) as answer:
            assert answer.status == 200, await answer.text()
        async for message in ws:
            if message.type is aiohttp.WSMsgType.BINARY:
                kind = int.from_bytes(message.data[:4], "big")
                seen.previews += kind in (1, 4)
                if kind == 3:
                    length = int.from_bytes(message.data[4:8], "big")
                    assert message.data[8 : 8 + length].decode() == NODE
                    seen.texts.append(message.data[8 + length :].decode())
                continue
            event = json.loads(message.data)
            data = event["data"]
            match event["type"]:
                case "executing" if data["node"] is None:
                    return seen
                case "executing":
                    seen.executed_nodes.add(data["display_node"])
                case "progress_state":
                    state = data["nodes"].get(NODE, {"value": 0, "max": 1})
                    seen.fractions.append(state["value"] / state["max"])
                    if seen.fractions[-1] >= interrupt_at and seen.previews:
                        interrupt_at = 2.0
                        await http.post(f"{url}/interrupt", json={})
                case "execution_error":
                    seen.error = data["exception_message"]
                    return seen
                case "execution_interrupted":
                    seen.interrupted = True
                    return seen
    raise AssertionError("the socket closed")


async def test_progress_is_shown_and_an_interrupt_reaches_the_endpoint(setting: Setting) -> None:
    seen = await watched(setting, graph(SLOW, remote=True, input_images=None), interrupt_at=0.35)
    assert seen.interrupted, seen
    assert seen.previews > 0
    assert any("SandboxSlow" in text for text in seen.texts), seen.texts
    assert seen.texts[-1] == "Cancelled on runpod:desk"
    assert seen.fractions == sorted(seen.fractions)
    assert idle(setting)


def test_a_run_that_takes_too_long_is_cancelled(setting: Setting) -> None:
    message = error_of(setting, graph(SLOW, remote=True, input_images=None, timeout=2))
    assert "did not end on runpod:desk within 2 s. It was cancelled there." in message
    assert idle(setting)


def idle(setting: Setting) -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        jobs = setting.jobs()
        if not jobs["inProgress"] and not jobs["inQueue"]:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("remote", [True, False], ids=["remote", "local"])
@pytest.mark.parametrize(
    ("workflow", "words"),
    [
        ("{'1': }", ["workflow_json is not valid JSON", "Save (API Format)"]),
        ("[1, 2]", ["not a workflow"]),
        (
            {"1": node("EmptyImage", width=8, height=8, batch_size=1, color=0)},
            ["no Load Image node", "disconnect input_images"],
        ),
        (
            {**TWO_INPUTS, "1": node("RunPodRemoteExecute", workflow_json="", enable_remote=True)},
            ["contains this node itself"],
        ),
        ({**INVERT, "5": node("NoSuchNode", image=["3", 0])}, ["NoSuchNode"]),
        ({**INVERT, "5": node("ImageBlend", image1=["3", 0])}, ["image2"]),
    ],
    ids=["no JSON", "no workflow", "no Load Image", "itself", "unknown node", "missing input"],
)
def test_errors_say_what_to_do(
    setting: Setting, workflow: Prompt | str, words: list[str], remote: bool
) -> None:
    message = error_of(setting, graph(workflow, remote=remote))
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("remote", [True, False], ids=["remote", "local"])
def test_a_workflow_without_pictures_says_so(setting: Setting, remote: bool) -> None:
    workflow = {
        "1": node("PrimitiveString", value="x"),
        "2": node("PreviewAny", source=["1", 0]),
    }
    message = error_of(setting, graph(workflow, remote=remote, input_images=None))
    assert ("Add a Save Image node" in message) or (remote and "PrimitiveString" in message)


def test_nothing_to_run_and_an_unknown_target(setting: Setting) -> None:
    message = error_of(setting, graph(remote=True, input_images=None))
    assert "nothing to run" in message
    elsewhere = graph(INVERT, remote=True, target="http://192.0.2.1:8188")
    status, body = setting.engine.request("/prompt", {"prompt": elsewhere})
    refusal = json.loads(body)
    assert (status, refusal["error"]["type"]) == (400, "not_trusted")
    assert "an address that you have not confirmed" in refusal["error"]["message"]
    assert [*refusal["node_errors"]] == [NODE]
    message = error_of(setting, graph(INVERT, remote=True, target="runpod:other"))
    assert "There is no endpoint 'other'" in message


def test_the_key_is_nowhere(setting: Setting) -> None:
    """Planted in the environment, used by every remote run above, and in no file here."""
    outer_pictures(setting, graph(INVERT, remote=True, batch=4))
    files = [path for path in setting.server.directory.rglob("*") if path.is_file()]
    assert any(path.suffix == ".png" for path in files)
    holders = [path for path in files if KEY.encode() in path.read_bytes()]
    assert holders == []
    assert KEY.encode() not in setting.engine.request("/history")[1]


def test_nothing_of_a_run_stays_in_the_temporary_folder(setting: Setting) -> None:
    outer_pictures(setting, graph(INVERT, remote=True, batch=5))
    temporary = setting.server.directory / "temp"
    assert [path.name for path in temporary.rglob("input_*")] == []
