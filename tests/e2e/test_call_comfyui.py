"""Calling a workflow on a real ComfyUI with the pack: every type of value, bit for bit."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yarl
from pack import ROOT, PackServer, comfyui_with_pack
from test_call import call_files

from comfy_remote.calls.target import call
from comfy_remote.calls.values import ValueFile
from comfy_remote.errors import ExecutionFailed, WorkflowInvalid
from comfy_remote.jobs.client import Client
from comfy_remote.jobs.record import Record
from comfy_remote.workflow.prompt import Prompt
from comfy_remote.workflow.schema import Schemas

pytestmark = pytest.mark.comfyui

KINDS = [
    "IMAGE",
    "IMAGE, a view",
    "MASK",
    "LATENT",
    "LATENT, bf16",
    "LATENT, fp8",
    "CONDITIONING",
    "AUDIO",
    "SIGMAS",
    "STRING",
    "INT",
    "FLOAT",
    "BOOLEAN",
    "VIDEO",
    "VIDEO, a file",
    "NESTED",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PackServer]:
    base = tmp_path_factory.mktemp("comfyui")
    nodes = base / "custom_nodes" / "value_nodes"
    shutil.copytree(ROOT / "tests/data/value_nodes", nodes)
    with comfyui_with_pack(base) as running:
        yield running


@pytest.fixture
async def client(server: PackServer, tmp_path: Path) -> AsyncIterator[Client]:
    with Record(tmp_path / "home") as record:
        async with Client(server.url, record=record) as client:
            yield client


def node(class_type: str, **inputs: Any) -> Any:
    return {"class_type": class_type, "inputs": inputs}


def output(source: str, key: str = "result") -> Any:
    return node("ComfyRemoteOutput", value=[source, 0], key=key)


def passing() -> Prompt:
    return {"1": node("ComfyRemoteInput", key="x"), "2": output("1")}


@pytest.mark.parametrize("kind", KINDS)
async def test_every_type_crosses_bit_for_bit(client: Client, tmp_path: Path, kind: str) -> None:
    if kind == "NESTED" and "0.3." in str((await client.target.describe(set())).engine):
        pytest.skip("this ComfyUI has no nested tensors")
    make: Prompt = {
        "1": node("TestMakeValue", kind=kind),
        "2": output("1", "made"),
        "3": node("TestDigest", value=["1", 0]),
        "4": output("3", "digest"),
    }
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir()
    second.mkdir()
    made = await call_files(client, make, {}, first)
    digests = await call(client, make, {})
    there: Prompt = {
        "1": node("ComfyRemoteInput", key="x"),
        "2": node("TestDigest", value=["1", 0]),
        "3": output("2", "digest"),
        "4": output("1", "again"),
    }
    crossed = await call(client, there, {"x": digests["made"]})
    assert crossed["digest"].value == digests["digest"].value
    # The file itself, passed on undecoded, and written again by ComfyUI: the same bytes.
    again = await call_files(client, passing(), {"x": made["made"]}, second)
    assert again["result"].sha256 == made["made"].sha256


async def test_a_list_crosses_item_by_item(client: Client) -> None:
    make: Prompt = {"1": node("TestMakeList"), "2": output("1", "list")}
    made = (await call(client, make, {}))["list"]
    assert made.type == "IMAGE"
    items: Any = made.value
    assert [item.shape for item in items] == [(1, 3 + n, 4, 3) for n in range(3)]
    prompt: Prompt = {
        "1": node("ComfyRemoteInput", key="x"),
        "2": node("ImageInvert", image=["1", 0]),
        "3": output("2"),
    }
    results: Any = (await call(client, prompt, {"x": made}))["result"].value
    for item, result in zip(items, results, strict=True):
        assert np.array_equal(result, np.float32(1) - item)


async def test_the_type_of_a_result_is_told(client: Client) -> None:
    prompt: Prompt = {
        "1": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "2": output("1"),
    }
    assert (await call(client, prompt, {}))["result"].type == "LATENT"


async def test_what_cannot_travel_is_refused_by_its_place(client: Client) -> None:
    prompt: Prompt = {"1": node("TestMakeValue", kind="CONTROLLED"), "2": output("1")}
    with pytest.raises(ExecutionFailed, match=r"control.*Controlled"):
        await call(client, prompt, {})


async def test_a_fallback_runs_only_when_it_is_needed(client: Client) -> None:
    prompt: Prompt = {
        "1": node("TestMakeValue", kind="STRING"),
        "2": node("ComfyRemoteInput", key="x", fallback=["1", 0], value='"given"'),
        "3": output("2"),
    }
    ran: list[str | None] = []
    results = await call(
        client, prompt, {}, on_event=lambda event: ran.append(getattr(event, "node_id", None))
    )
    assert results["result"].value == ["given"]
    assert "1" not in ran
    del prompt["2"]["inputs"]["value"]
    results = await call(client, prompt, {})
    assert results["result"].value == ["Grüße\n\x00 ${HOME} 😀"]


async def test_a_remote_input_with_nothing_at_all_says_so(client: Client) -> None:
    prompt: Prompt = {
        "1": node("ComfyRemoteInput", key="x"),
        "2": node("ComfyRemoteOutput", value=["1", 0], key="result", send=True),
    }
    job = await client.submit(prompt)
    with pytest.raises(ExecutionFailed, match="no value for the key 'x'"):
        await job.outputs()


async def test_a_value_file_that_is_not_there_is_refused(client: Client) -> None:
    body = {
        "1": node("ComfyRemoteInput", key="x", file="comfy_remote/missing.safetensors"),
        "2": output("1"),
    }
    with pytest.raises(WorkflowInvalid, match=r"ComfyRemoteInput .* is not here"):
        await client.submit(body)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a\x00b"])
async def test_a_value_file_elsewhere_is_not_read(
    client: Client, server: PackServer, name: str
) -> None:
    import aiohttp

    prompt = {"1": node("ComfyRemoteInput", key="x", file=name), "2": output("1")}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{server.url}/prompt", json={"prompt": prompt}) as answer,
    ):
        assert answer.status == 400
        assert "Invalid value file" in await answer.text()


async def test_many_calls_at_once_do_not_mix(client: Client) -> None:
    prompt: Prompt = {
        "1": node("ComfyRemoteInput", key="image"),
        "2": node("ImageInvert", image=["1", 0]),
        "3": output("2"),
        "4": node("ComfyRemoteInput", key="number"),
        "5": output("4", "number"),
    }
    images = [np.full((1, 4, 4, 3), n / 16, np.float32) for n in range(12)]
    answers = await asyncio.gather(
        *(call(client, prompt, {"image": image, "number": n}) for n, image in enumerate(images))
    )
    for n, (answer, image) in enumerate(zip(answers, images, strict=True)):
        value: Any = answer["result"].value
        assert np.array_equal(value[0], np.float32(1) - image)
        assert answer["number"].value == [n]


async def test_an_unchanged_value_comes_from_the_cache(client: Client, tmp_path: Path) -> None:
    prompt: Prompt = {
        "1": node("ComfyRemoteInput", key="image"),
        "2": node("ImageInvert", image=["1", 0]),
        "3": output("2"),
    }
    image = np.full((1, 4, 4, 3), 0.123, np.float32)
    first = await call(client, prompt, {"image": image})
    ran: list[str | None] = []
    again = await call(
        client,
        prompt,
        {"image": image},
        on_event=lambda event: ran.append(getattr(event, "node_id", None)),
    )
    assert np.array_equal(first["result"].value, again["result"].value)  # type: ignore[arg-type]
    assert "2" not in ran


async def test_the_schemas_say_that_any_type_is_taken(client: Client) -> None:
    nodes = (await client.target.describe({"ComfyRemoteInput", "ComfyRemoteOutput"})).nodes
    schemas = Schemas(nodes or {}, "the test's")
    entry, leave = schemas.get("ComfyRemoteInput"), schemas.get("ComfyRemoteOutput")
    assert entry is not None
    assert leave is not None
    assert [(spec.name, spec.type, spec.optional) for spec in entry.inputs] == [
        ("key", "STRING", False),
        ("fallback", "*", True),
        ("value", "STRING", True),
        ("file", "STRING", True),
    ]
    assert [(spec.name, spec.type, spec.optional) for spec in leave.inputs] == [
        ("value", "*", False),
        ("key", "STRING", False),
        ("send", "BOOLEAN", True),
        ("images", "COMBO", True),
    ]
    assert leave.output_node
    for name in ("ComfyRemoteInput", "ComfyRemoteOutput"):
        known, here = Schemas.bundled().get(name), schemas.get(name)
        assert known is not None
        assert here is not None
        assert [(spec.name, spec.type, spec.optional) for spec in known.inputs] == [
            (spec.name, spec.type, spec.optional) for spec in here.inputs
        ]
        assert (known.title, known.outputs, known.output_node) == (
            here.title,
            here.outputs,
            here.output_node,
        )
        document = schemas.document(name)
        assert document is not None
        assert (document["category"], document["output"]) == ("utils/remote", ["*"])
        assert document["output_is_list"] == [True]


async def test_a_program_in_the_process_hands_payloads_over(client: Client) -> None:
    async def texts(prompt: Prompt) -> list[str]:
        return [one.text() for one in await (await client.submit(prompt)).outputs()]

    assert await texts({"1": node("TestInjected", node_id="7", text="hello")}) == ["injected"]
    run: Prompt = {
        "7": node("ComfyRemoteInput", key="x"),
        "8": output("7", "made"),
        "9": node("PreviewAny", source=["8", 0]),
    }
    assert await texts(run) == ["hello"]
    taken = await texts({"1": node("TestInjected", node_id="8", text="")})
    assert taken == ["{'made': 'hello'}"]
    assert await texts({"1": node("TestInjected", node_id="8", text="")}) == ["None"]


async def test_a_large_value_file_is_streamed(client: Client, tmp_path: Path) -> None:
    """More than ComfyUI takes by its own upload (100 MB)."""
    from comfy_remote.media.values import encode

    image = np.zeros((2, 2048, 2304, 3), np.float32)
    image[..., 0] = np.arange(2304, dtype=np.float32)
    file = ValueFile.of(encode(image, "IMAGE").write_into(tmp_path / "sent"))
    assert file.size > 105_000_000
    here = tmp_path / "here"
    here.mkdir()
    results = await call_files(client, passing(), {"x": file}, here)
    assert results["result"].size >= file.size


async def test_a_damaged_or_misnamed_file_is_not_taken(server: PackServer) -> None:
    import aiohttp

    wanted = hashlib.sha256(b"right").hexdigest()
    address = f"{server.url}/remote/inputs"
    async with aiohttp.ClientSession() as session:
        for path, body, status in [
            (f"a/b.bin?sha256={wanted}", b"wrong", 400),
            (f"..%2fb.bin?sha256={wanted}", b"right", 400),
            ("b.bin?sha256=1", b"right", 400),
            (f"a/b.bin?sha256={wanted}", b"right", 200),
        ]:
            async with session.put(
                yarl.URL(f"{address}/{path}", encoded=True), data=body
            ) as answer:
                assert answer.status == status, await answer.text()
        async with session.get(f"{address}/a/b.bin?sha256={wanted}") as answer:
            assert await answer.json() == {"there": True}
        async with session.put(
            f"{address}/a/c.bin?sha256={wanted}",
            data=b"right",
            headers={"Origin": "http://elsewhere.example"},
        ) as answer:
            assert answer.status == 403
    folder = server.directory / "input"
    assert (folder / "a/b.bin").read_bytes() == b"right"
    assert [path.name for path in folder.rglob("*") if path.is_file()].count("b.bin") == 1
    assert not list(folder.glob(".comfy-remote-*"))
    assert not (folder / "a/c.bin").exists()
