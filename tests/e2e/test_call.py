"""Calling a workflow on the sandbox: values go in and come out, bit for bit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comfy_remote.calls.target import TargetCall, call
from comfy_remote.calls.values import ValueFile
from comfy_remote.calls.workflow import CallableWorkflow
from comfy_remote.errors import ExecutionFailed, JobTimedOut, WorkflowInvalid
from comfy_remote.events import Event, Progress, Started
from comfy_remote.jobs.client import Client
from comfy_remote.jobs.record import Record
from comfy_remote.media.values import DecodedValue, encode, read_value
from comfy_remote.targets.base import RemoteRef, RunRequest
from comfy_remote.workflow.prompt import Prompt


@pytest.fixture
async def client(sandbox_url: str, tmp_path: Path) -> AsyncIterator[Client]:
    with Record(tmp_path / "home") as record:
        async with Client(sandbox_url, record=record) as client:
            yield client


async def call_files(
    client: Client, prompt: Prompt, inputs: dict[str, Any], folder: Path
) -> dict[str, ValueFile]:
    made = TargetCall(client, CallableWorkflow.of_prompt(prompt), inputs)
    return await made.whole(lambda: made.files(folder))


def remote_input(key: str, **inputs: Any) -> Any:
    return {"class_type": "ComfyRemoteInput", "inputs": {"key": key, **inputs}}


def remote_output(source: str, key: str = "result") -> Any:
    return {"class_type": "ComfyRemoteOutput", "inputs": {"value": [source, 0], "key": key}}


def passing() -> Prompt:
    return {"1": remote_input("x"), "2": remote_output("1")}


def inverting() -> Prompt:
    return {
        "1": remote_input("image", fallback=["9", 0]),
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": remote_output("2"),
        "9": {
            "class_type": "EmptyImage",
            "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 255},
        },
    }


def picture(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).random(shape or (1, 9, 7, 3), dtype=np.float32)


def same(first: object, second: object) -> bool:
    """Equal bit for bit, NaN and minus zero included."""
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        alike = first.dtype == second.dtype and first.shape == second.shape
        return alike and first.tobytes() == second.tobytes()
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, (list, tuple)) and type(first) is type(second):
        assert isinstance(second, (list, tuple))
        return len(first) == len(second) and all(map(same, first, second))
    return type(first) is type(second) and repr(first) == repr(second)


async def test_a_picture_goes_in_and_comes_out_changed(client: Client) -> None:
    image = picture(1)
    results = await call(client, inverting(), {"image": image})
    assert (results["result"].type, results["result"].is_list) == ("IMAGE", True)
    assert same(results["result"].value, [np.float32(1) - image])


async def test_without_a_value_the_fallback_is_used(client: Client) -> None:
    results = await call(client, inverting(), {})
    value: Any = results["result"].value
    assert value[0].shape == (1, 8, 8, 3)


@pytest.mark.parametrize(
    "value",
    [
        5,
        -0.0,
        True,
        None,
        "",
        "ä 😀\n${HOME}",
        "long " * 20_000,
        float("nan"),
        float("-inf"),
        b"\x00\xff",
        [1, [2.5, "x"], (None, True)],
        {"samples": np.zeros((1, 4, 2, 2), np.float16), "noise_mask": np.ones((1, 2, 2))},
        [[np.full((1, 77, 8), np.nan, np.float32), {"pooled_output": None, "$": 1, 2: "two"}]],
        {"waveform": np.arange(6, dtype=np.float32)[::2].reshape(1, 1, 3), "sample_rate": 44100},
        np.array(3, np.int64),
        np.zeros((0, 4), np.uint8),
    ],
)
async def test_any_value_comes_back_bit_for_bit(client: Client, value: Any) -> None:
    results = await call(client, passing(), {"x": value})
    assert same(results["result"].value, [value])


async def test_a_list_of_values_runs_the_nodes_for_each(client: Client) -> None:
    images = [picture(1), picture(2, 2, 4, 5, 3)]
    results = await call(client, inverting(), {"image": DecodedValue("IMAGE", True, images)})
    assert same(results["result"].value, [np.float32(1) - image for image in images])


async def test_a_shorter_list_goes_on_with_its_last_item(client: Client) -> None:
    prompt: Prompt = {
        "1": remote_input("a"),
        "2": remote_input("b"),
        "3": {
            "class_type": "ImageBatch",
            "inputs": {"image1": ["1", 0], "image2": ["2", 0]},
        },
        "4": remote_output("3"),
    }
    first = [picture(n) for n in range(3)]
    second = [picture(n) for n in range(10, 12)]
    results = await call(
        client,
        prompt,
        {"a": DecodedValue("IMAGE", True, first), "b": DecodedValue("IMAGE", True, second)},
    )
    pairs = zip(first, [*second, second[-1]], strict=True)
    assert same(results["result"].value, [np.concatenate(pair) for pair in pairs])


async def test_several_keys_do_not_mix(client: Client) -> None:
    prompt: Prompt = {
        "1": remote_input("a"),
        "2": remote_input("b"),
        "3": remote_output("2", "from b"),
        "4": remote_output("1", "from a"),
        "5": remote_output("1", "from a, too"),
    }
    results = await call(client, prompt, {"a": picture(1), "b": 7})
    assert list(results) == ["from b", "from a", "from a, too"]
    assert same(results["from a"].value, [picture(1)])
    assert same(results["from a, too"].value, [picture(1)])
    assert results["from b"].value == [7]


async def test_calls_at_once_do_not_mix(client: Client) -> None:
    answers = await asyncio.gather(
        *(call(client, inverting(), {"image": picture(n)}) for n in range(12))
    )
    for n, answer in enumerate(answers):
        assert same(answer["result"].value, [np.float32(1) - picture(n)])


async def test_the_same_call_again_comes_from_the_cache_and_gives_the_same(
    client: Client,
) -> None:
    prompt: Prompt = {
        "1": remote_input("image"),
        "2": {
            "class_type": "SandboxSlow",
            "inputs": {
                "image": ["1", 0],
                "steps": 4,
                "seconds_per_step": 0.5,
                "preview": False,
            },
        },
        "3": remote_output("2"),
    }
    stepped: list[bool] = []
    results = []
    for _ in range(2):
        events: list[Event] = []
        results.append(await call(client, prompt, {"image": picture(5)}, on_event=events.append))
        stepped.append(any(isinstance(event, Progress) and event.step for event in events))
    assert stepped == [True, False]
    first, again = results
    assert same(first["result"].value, again["result"].value)


async def test_value_files_pass_through_undecoded(client: Client, tmp_path: Path) -> None:
    sent = encode(picture(3), "IMAGE").write_into(tmp_path / "sent")
    here = tmp_path / "here"
    here.mkdir()
    files = await call_files(client, inverting(), {"image": ValueFile.of(sent)}, here)
    file = files["result"]
    assert (file.type, file.path.parent, file.size) == ("IMAGE", here, file.path.stat().st_size)
    decoded = read_value(file.path, tensors="numpy")
    assert same(decoded.value, [np.float32(1) - picture(3)])


async def test_only_results_are_fetched_not_what_the_workflow_saves(
    client: Client, tmp_path: Path
) -> None:
    prompt = inverting()
    prompt["4"] = {
        "class_type": "SaveImage",
        "inputs": {"images": ["2", 0], "filename_prefix": "call"},
    }
    files = await call_files(client, prompt, {}, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [
        files["result"].path.name
    ]


async def test_events_are_told(client: Client) -> None:
    seen: list[object] = []
    await call(client, passing(), {"x": 1}, on_event=seen.append)
    assert any(isinstance(event, Started) for event in seen)


async def test_a_node_that_cannot_use_the_value_fails_the_call(client: Client) -> None:
    with pytest.raises(ExecutionFailed, match="ImageInvert"):
        await call(client, inverting(), {"image": "not a picture"})


async def test_a_missing_value_is_told_before_anything_is_sent(client: Client) -> None:
    with pytest.raises(WorkflowInvalid, match="needs a value for x"):
        await call(client, passing(), {})


def slow() -> Prompt:
    return {
        "1": remote_input("image"),
        "2": {
            "class_type": "SandboxSlow",
            "inputs": {
                "image": ["1", 0],
                "steps": 100,
                "seconds_per_step": 0.3,
                "preview": False,
            },
        },
        "3": remote_output("2"),
    }


async def wait_until_idle(client: Client) -> None:
    for _ in range(600):
        health = await client.target.health()
        if not health.running and not health.queued:
            return
        await asyncio.sleep(0.1)
    pytest.fail("the job was not cancelled")


async def test_a_cancelled_call_is_cancelled_on_the_target(client: Client) -> None:
    started = asyncio.Event()
    task = asyncio.create_task(
        call(
            client,
            slow(),
            {"image": picture(1)},
            on_event=lambda event: started.set() if isinstance(event, Started) else None,
        )
    )
    await asyncio.wait_for(started.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await wait_until_idle(client)


async def test_so_is_one_whose_submission_has_not_been_answered(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived = asyncio.Event()
    submit = client.target.submit

    async def answered_late(request: RunRequest) -> RemoteRef:
        ref = await submit(request)
        arrived.set()
        await asyncio.sleep(0.5)
        return ref

    monkeypatch.setattr(client.target, "submit", answered_late)
    task = asyncio.create_task(call(client, slow(), {"image": picture(1)}))
    await asyncio.wait_for(arrived.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await wait_until_idle(client)


async def test_a_call_that_takes_too_long_is_cancelled_on_the_target(client: Client) -> None:
    with pytest.raises(JobTimedOut):
        await call(client, slow(), {"image": picture(1)}, timeout=2)
    await wait_until_idle(client)


async def test_a_call_can_be_followed_as_a_job(client: Client, tmp_path: Path) -> None:
    made = TargetCall(client, CallableWorkflow.of_prompt(passing()), {"x": [1, 2]})
    await made.start()
    assert (await made.job.wait()).error is None
    results = await made.results(tmp_path)
    assert results["result"].value == [[1, 2]]


async def test_a_value_file_that_is_saved_is_called_by_its_key(
    client: Client, tmp_path: Path
) -> None:
    prompt = inverting()
    prompt["3"]["inputs"] |= {"send": True, "key": "../my result"}
    job = await client.submit(prompt)
    saved = await job.save_outputs(tmp_path / "out")
    (only,) = saved
    assert only.path == tmp_path / "out" / "_.._my result.safetensors"
    value: Any = read_value(only.path, tensors="numpy").value
    assert value[0].shape == (1, 8, 8, 3)
    (output,) = await job.outputs()
    assert output.filename == "_.._my result.safetensors"
