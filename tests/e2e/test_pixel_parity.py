"""The sandbox beside a real ComfyUI: pixels, schemas, refusals, metadata and messages."""

from __future__ import annotations

import asyncio
import copy
import io
import json
import uuid
from typing import Any

import aiohttp
import pytest
from engine_client import EngineClient, pixel_digest
from parity_cases import cases, input_files, load, node, saved
from PIL import Image

from comfy_remote.sandbox.nodes import NODES

pytestmark = pytest.mark.comfyui

OURS = ("Sandbox", "ComfyRemote")
SHARED_NODES = sorted(name for name in NODES if not name.startswith(OURS))
EXTRA = {"extra_pnginfo": {"workflow": {"nodes": [], "title": "Grüße"}, "note": [1, 2.5, None]}}


@pytest.fixture(scope="module")
def comfyui(comfyui_url: str) -> EngineClient:
    return with_files(comfyui_url)


@pytest.fixture(scope="module")
def sandbox(sandbox_url: str) -> EngineClient:
    return with_files(sandbox_url)


@pytest.fixture(scope="module")
def same_release(comfyui: EngineClient, sandbox: EngineClient) -> bool:
    """Whether this is the ComfyUI that the sandbox is modelled on, or a later one."""

    def version(engine: EngineClient) -> tuple[int, ...]:
        text = engine.json("/system_stats")["system"]["comfyui_version"]
        return tuple(int(part) for part in text.split(".")[:2])

    return version(comfyui) >= version(sandbox)


def with_files(url: str) -> EngineClient:
    engine = EngineClient(url)
    for name, content in input_files().items():
        engine.upload(name, content)
    return engine


@pytest.mark.parametrize("name", cases())
def test_same_pixels(name: str, sandbox: EngineClient, comfyui: EngineClient) -> None:
    prompt = cases()[name]
    ours, theirs = (engine.pictures(engine.run(prompt)) for engine in (sandbox, comfyui))
    assert pixel_digest(ours) == pixel_digest(theirs)


# --- schemas ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHARED_NODES)
def test_same_schema(
    name: str, sandbox: EngineClient, comfyui: EngineClient, same_release: bool
) -> None:
    found = comfyui.json(f"/object_info/{name}")
    if name not in found:
        pytest.skip("this ComfyUI lacks it: SaveImageWebsocket is one of its custom nodes")
    ours, theirs = sandbox.json(f"/object_info/{name}")[name], found[name]
    for schema in (ours, theirs):
        if name in ("LoadImage", "LoadImageMask"):
            # The files in `input/`: other tests have left theirs there, too.
            files = schema["input"]["required"]["image"][0]
            files[:] = [file for file in files if file.startswith("parity_")]
    assert ours["input_order"] == theirs["input_order"]
    assert ours["output_node"] == theirs["output_node"]
    if same_release:
        assert without_tooltips(ours["input"]) == without_tooltips(theirs["input"])
        for key in ("output", "output_name", "output_is_list", "display_name", "category"):
            assert ours[key] == theirs[key], key
    else:
        assert essence(ours["input"]) == essence(theirs["input"])


def without_tooltips(inputs: Any) -> Any:
    """Tooltips are ComfyUI's prose, and not copied."""
    plain = copy.deepcopy(inputs)
    for group in plain.values():
        for entry in group.values():
            for options in entry[1:] if isinstance(entry, list) else []:
                options.pop("tooltip", None)
            if isinstance(entry, list) and entry[1:] == [{}] and entry[0] in ("IMAGE", "MASK"):
                del entry[1:]
    return plain


def essence(inputs: Any) -> Any:
    """Type, choices and limits, whichever way the release writes them."""
    found = {}
    for group in ("required", "optional"):
        for name, entry in inputs.get(group, {}).items():
            options = entry[1] if len(entry) > 1 else {}
            kind = options["options"] if entry[0] == "COMBO" else entry[0]
            found[name] = (kind, {k: options.get(k) for k in ("default", "min", "max", "step")})
    return found


# --- refusals --------------------------------------------------------------------------------


def scale(**changes: Any) -> dict[str, Any]:
    """A prompt whose ImageScale has inputs changed; ``None`` leaves one out."""
    inputs: dict[str, Any] = {
        "image": ["1", 0],
        "upscale_method": "area",
        "width": 8,
        "height": 8,
        "crop": "disabled",
    }
    inputs = {k: v for k, v in {**inputs, **changes}.items() if v is not None}
    return saved(load(), node("ImageScale", **inputs))


BAD_PROMPTS: dict[str, Any] = {
    "no nodes": {},
    "no output node": {"1": load()},
    "unknown class": {"1": node("NoSuchNode"), "2": node("SaveImage")},
    "unknown class with a title": {"1": {**node("NoSuchNode"), "_meta": {"title": "My node"}}},
    "no class": {"1": {"inputs": {}}},
    "missing input": scale(width=None),
    "missing inputs": scale(width=None, height=None, image=None),
    "not in list": scale(upscale_method="sharpest"),
    "too small": scale(width=-1),
    "too big": scale(height=99999),
    "no number": scale(width="wide"),
    "null for a number": {
        "1": node("EmptyImage", width=None, height=8, batch_size=1, color=0),
        "2": node("SaveImage", images=["1", 0], filename_prefix="x"),
    },
    "wrong type": scale(image=["1", 1]),
    "link of one": scale(image=["1"]),
    "link of three": scale(image=["1", 0, 0]),
    "link to nowhere": scale(image=["77", 0]),
    "link to an output that is not there": scale(image=["1", 5]),
    "missing file": saved(node("LoadImage", image="not_here.png")),
    "file outside": saved(node("LoadImage", image="../../etc/passwd")),
    "missing file for a mask": saved(
        node("LoadImageMask", image="not_here.png", channel="purple"),
        node("MaskToImage", mask=["1", 0]),
    ),
    "output with a bad input": {
        "1": load(),
        "9": node("SaveAnimatedWEBP", images=["1", 0], filename_prefix="x", fps=0, lossless=True,
                  quality=101, method="best"),
    },
    "two bad outputs": {
        **scale(width=-1),
        "10": node("PreviewImage", images=["2", 0]),
        "11": node("SaveImage", filename_prefix="x"),
    },
}  # fmt: skip

# What older releases let through, or run out of stack on.
NEWLY_REFUSED: dict[str, Any] = {
    "not in a V3 node's list": saved(
        load(),
        load(),
        node(
            "ImageBlend",
            image1=["1", 0],
            image2=["2", 0],
            blend_factor=2.5,
            blend_mode="burn",
        ),
    ),
    "cycle of one": saved(load(), node("ImageInvert", image=["2", 0])),
    "cycle of two": saved(node("ImageInvert", image=["2", 0]), node("ImageInvert", image=["1", 0])),
}


@pytest.mark.parametrize("name", BAD_PROMPTS)
def test_same_refusal(
    name: str, sandbox: EngineClient, comfyui: EngineClient, same_release: bool
) -> None:
    compare_refusals(BAD_PROMPTS[name], sandbox, comfyui, same_release)


@pytest.mark.parametrize("name", NEWLY_REFUSED)
def test_same_new_refusal(
    name: str, sandbox: EngineClient, comfyui: EngineClient, same_release: bool
) -> None:
    if not same_release:
        pytest.skip("this ComfyUI does not refuse it")
    compare_refusals(NEWLY_REFUSED[name], sandbox, comfyui, same_release)


def compare_refusals(
    prompt: Any, sandbox: EngineClient, comfyui: EngineClient, exactly: bool
) -> None:
    answers = []
    for engine in (sandbox, comfyui):
        status, body = engine.request("/prompt", {"prompt": prompt})
        assert status == 400, body
        answers.append(refusal(json.loads(body), exactly))
    assert answers[0] == answers[1]


def refusal(body: Any, exactly: bool) -> Any:
    """What must agree. The order of errors is random in ComfyUI, which walks over sets."""
    if not exactly:
        kind = body["error"]["type"].replace("invalid_prompt", "missing_node_type")
        return kind, {
            node_id: sorted(error["type"] for error in errors["errors"])
            for node_id, errors in body["node_errors"].items()
        }
    body["error"]["details"] = sorted(body["error"]["details"].split("\n"))
    for errors in body["node_errors"].values():
        del errors["dependent_outputs"]  # in ComfyUI, this hangs on that order, too
        errors["errors"].sort(key=lambda error: json.dumps(error["details"]))
        for error in errors["errors"]:
            error["extra_info"].pop("traceback", None)
            if config := error["extra_info"].get("input_config"):
                config[1].pop("tooltip", None)
    return body


@pytest.mark.parametrize("prompt_id", ["nonsense", "A1B2C3D4-E5F6-4A7B-8C9D-0E1F2A3B4C5D", 7])
def test_same_refusal_of_a_prompt_id(
    prompt_id: Any, sandbox: EngineClient, comfyui: EngineClient, same_release: bool
) -> None:
    if not same_release:
        pytest.skip("this ComfyUI takes any prompt id")
    answers = [
        e.request("/prompt", {"prompt": saved(load()), "prompt_id": prompt_id})
        for e in (sandbox, comfyui)
    ]
    assert [status for status, _ in answers] == [400, 400]
    assert json.loads(answers[0][1]) == json.loads(answers[1][1])


def test_good_outputs_run_beside_bad_ones(sandbox: EngineClient, comfyui: EngineClient) -> None:
    prompt = {**scale(), "10": node("PreviewImage", images=["77", 0])}
    for engine in (sandbox, comfyui):
        answer = engine.json("/prompt", {"prompt": prompt})
        assert list(answer["node_errors"]) == ["10"]
        entry = engine.wait(answer["prompt_id"])
        assert list(entry["outputs"]) == ["9"]
        assert entry["prompt"][4] == ["9"]


# --- files -----------------------------------------------------------------------------------


def test_same_png_metadata(sandbox: EngineClient, comfyui: EngineClient) -> None:
    ours, theirs = (png(e, "SaveImage", filename_prefix="meta") for e in (sandbox, comfyui))
    assert ours.info == theirs.info
    assert list(ours.info) == ["prompt", "workflow", "note"]
    assert json.loads(ours.info["prompt"])["9"]["inputs"]["filename_prefix"] == "meta"
    assert json.loads(ours.info["workflow"]) == EXTRA["extra_pnginfo"]["workflow"]
    assert png(sandbox, "PreviewImage").info == png(comfyui, "PreviewImage").info


def png(engine: EngineClient, class_type: str, **inputs: Any) -> Image.Image:
    # No LoadImage here: ComfyUI leaves a trace of its cache in that node's metadata.
    empty = node("EmptyImage", width=5, height=4, batch_size=1, color=9)
    prompt = {"1": empty, "9": node(class_type, images=["1", 0], **inputs)}
    picture = engine.pictures(engine.run(prompt, extra_data=copy.deepcopy(EXTRA)))[0]
    picture.load()
    return picture


def test_same_webp(sandbox: EngineClient, comfyui: EngineClient, same_release: bool) -> None:
    prompt = {
        "1": node("EmptyImage", width=50, height=40, batch_size=1, color=0x1234),
        "2": node("ImageInvert", image=["1", 0]),
        "3": node("ImageBatch", image1=["1", 0], image2=["2", 0]),
        "9": node("SaveAnimatedWEBP", images=["3", 0], filename_prefix="meta/clip", fps=7.0,
                  lossless=True, quality=80, method="fastest"),
    }  # fmt: skip
    entries = [e.run(prompt, extra_data=copy.deepcopy(EXTRA)) for e in (sandbox, comfyui)]
    ours, theirs = sandbox.pictures(entries[0])[0], comfyui.pictures(entries[1])[0]
    assert dict(ours.getexif()) == dict(theirs.getexif())
    assert len(dict(ours.getexif())) == 3
    assert getattr(ours, "n_frames", 1) == getattr(theirs, "n_frames", 1) == 2
    for frame in range(2):
        ours.seek(frame)
        theirs.seek(frame)
        assert ours.tobytes() == theirs.tobytes()
        assert ours.info["duration"] == theirs.info["duration"] == 142
    assert entries[0]["outputs"] == entries[1]["outputs"]


@pytest.mark.parametrize(
    "prefix",
    [
        "plain",
        "sub/folder/name",
        "%width%x%height%_%year%",
        "n%batch_num%",
        "a_00007_b",
        "dots.in.it",
    ],
)
def test_same_file_names(prefix: str, sandbox: EngineClient, comfyui: EngineClient) -> None:
    prefix = f"names/{prefix}"
    listed = []
    for engine in (sandbox, comfyui):
        prompt = {
            "1": node("EmptyImage", width=5, height=4, batch_size=2, color=1),
            "9": node("SaveImage", images=["1", 0], filename_prefix=prefix),
        }
        first = engine.run(prompt)["outputs"]["9"]["images"]
        prompt["1"]["inputs"]["color"] = 2
        listed.append(first + engine.run(prompt)["outputs"]["9"]["images"])
    assert listed[0] == listed[1]


@pytest.mark.parametrize("prefix", ["../outside", "/tmp/outside", "a/../../outside"])
def test_saving_outside_fails_in_both(
    prefix: str, sandbox: EngineClient, comfyui: EngineClient
) -> None:
    prompt = {"1": load(), "9": node("SaveImage", images=["1", 0], filename_prefix=prefix)}
    for engine in (sandbox, comfyui):
        status = engine.run(prompt)["status"]
        assert status["status_str"] == "error"
        assert status["messages"][-1][0] == "execution_error"
        assert status["messages"][-1][1]["node_id"] == "9"


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("filename=../input/parity_noise.png", 400),
        ("filename=/etc/passwd", 400),
        ("filename=", 400),
        ("", 404),
        ("filename=nothing.png", 404),
        ("filename=parity_noise.png&type=input&subfolder=../..", 403),
        ("filename=parity_noise.png&type=nowhere", 400),
        ("filename=parity_noise.png&type=input", 200),
        ("filename=parity_noise.png%20[input]", 200),
    ],
)
def test_view_answers_alike(
    query: str, status: int, sandbox: EngineClient, comfyui: EngineClient
) -> None:
    for engine in (sandbox, comfyui):
        assert engine.request(f"/view?{query}")[0] == status, engine.url


def test_view_gives_ranges(sandbox: EngineClient, comfyui: EngineClient) -> None:
    content = input_files()["parity_noise.png"]
    for engine in (sandbox, comfyui):
        status, part = engine.request(
            "/view?filename=parity_noise.png&type=input", Range="bytes=100-199"
        )
        assert (status, part) == (206, content[100:200])


def test_uploads_answer_alike(sandbox: EngineClient, comfyui: EngineClient) -> None:
    content, other = (input_files()[f"parity_{name}.png"] for name in ("noise", "gradient"))
    answers = [
        [
            engine.upload("up.png", content, subfolder="up/loads"),
            engine.upload("up.png", content, subfolder="up/loads"),
            engine.upload("up.png", other, subfolder="up/loads"),
            engine.upload("up.png", other, subfolder="up/loads"),
            engine.upload("up.png", other, subfolder="up/loads", overwrite="true"),
            engine.upload("up.png", content, type="temp"),
        ]
        for engine in (sandbox, comfyui)
    ]
    assert answers[0] == answers[1]
    assert answers[0][2]["name"] == "up (1).png"


# --- messages --------------------------------------------------------------------------------


async def messages_of(engine: EngineClient, *prompts: Any) -> list[list[Any]]:
    """What the socket says of each prompt, up to ``executing`` with no node."""
    client_id = uuid.uuid4().hex
    heard: list[list[Any]] = []
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{engine.url}/ws?clientId={client_id}") as socket,
    ):
        for prompt in prompts:
            heard.append([])
            await asyncio.to_thread(engine.submit, prompt, client_id=client_id)
            async for message in socket:
                assert message.type == aiohttp.WSMsgType.TEXT
                event = json.loads(message.data)
                if event["type"] == "status":
                    continue
                heard[-1].append(event)
                if event["type"] == "executing" and event["data"]["node"] is None:
                    break
    return heard


def plain(event: Any) -> Any:
    """An event without what differs from run to run."""
    data = {k: v for k, v in event["data"].items() if k not in ("prompt_id", "timestamp")}
    for state in data.get("nodes", {}).values() if event["type"] == "progress_state" else ():
        state.pop("prompt_id", None)
    if event["type"] == "execution_cached":
        data["nodes"] = sorted(data["nodes"])
    return event["type"], data


async def test_same_messages(sandbox: EngineClient, comfyui: EngineClient) -> None:
    seed = uuid.uuid4().int % 0xFFFFFF  # so that neither engine has the result already
    prompt = {
        "1": node("EmptyImage", width=8, height=8, batch_size=1, color=seed),
        "2": node("ImageInvert", image=["1", 0]),
        "9": node("SaveImage", images=["2", 0], filename_prefix=f"messages/{seed}"),
    }
    ours, theirs = [await messages_of(e, prompt, prompt) for e in (sandbox, comfyui)]
    for run in range(2):
        assert [plain(e) for e in ours[run]] == [plain(e) for e in theirs[run]]
    assert ours[1][1]["data"]["nodes"], "the second run is cached"


async def test_same_messages_of_a_failure(sandbox: EngineClient, comfyui: EngineClient) -> None:
    prompt = scale(upscale_method="bilinear")
    prompt["9"]["inputs"]["filename_prefix"] = "../no"
    ours, theirs = [await messages_of(e, prompt) for e in (sandbox, comfyui)]
    assert [e["type"] for e in ours[0]] == [e["type"] for e in theirs[0]]
    ours_error, their_error = (
        next(e["data"] for e in run if e["type"] == "execution_error")
        for run in (ours[0], theirs[0])
    )
    assert ours_error.keys() == their_error.keys()
    assert ours_error["node_type"] == their_error["node_type"] == "SaveImage"
    assert sorted(ours_error["executed"]) == sorted(their_error["executed"])


def test_same_history_shape(sandbox: EngineClient, comfyui: EngineClient) -> None:
    prompt = saved(load("gradient"))
    prompt["9"]["inputs"]["filename_prefix"] = uuid.uuid4().hex
    ours, theirs = (e.run(prompt, client_id="me", extra_data={"x": 1}) for e in (sandbox, comfyui))
    assert ours["outputs"] == theirs["outputs"]
    assert ours["meta"] == theirs["meta"]
    assert ours["prompt"][2] == theirs["prompt"][2]
    assert ours["prompt"][4] == theirs["prompt"][4]
    assert ours["prompt"][3].keys() >= theirs["prompt"][3].keys()
    for key in ("status_str", "completed"):
        assert ours["status"][key] == theirs["status"][key]
    kinds = [[event for event, _ in entry["status"]["messages"]] for entry in (ours, theirs)]
    assert kinds[0] == kinds[1]


def test_foreign_pages_are_refused_alike(
    sandbox: EngineClient, comfyui: EngineClient, same_release: bool
) -> None:
    for engine in (sandbox, comfyui):
        port = engine.url.rpartition(":")[2]
        for headers, status in (
            ({"Origin": "https://example.com"}, 403),
            ({"Origin": f"http://127.0.0.1:{int(port) - 1}"}, 403),
            ({"Origin": f"http://127.0.0.1:{port}"}, 200),
            ({"Sec-Fetch-Site": "cross-site"}, 403 if same_release else None),
        ):
            answered = engine.request("/prompt", **headers)[0]
            assert status is None or answered == status, (engine.url, headers)


def test_images_survive_the_trip(sandbox: EngineClient) -> None:
    """The helpers themselves: a saved picture is the loaded one."""
    picture = sandbox.pictures(sandbox.run(saved(load())))[0]
    original = Image.open(io.BytesIO(input_files()["parity_noise.png"]))
    assert picture.tobytes() == original.tobytes()
