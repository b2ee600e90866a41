"""What each kind of client sends, and what it is answered."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from fake_target import output
from pydantic import JsonValue
from worker_fakes import EngineTarget, FakeEngine, connect_to, succeeded

from comfy_remote.errors import ExecutionFailed, JobTimedOut, WorkflowInvalid
from comfy_remote.events import Finished, JobState, Started
from comfy_remote.outputs import RemoteOutput
from comfy_remote.targets.runpod.status import StatusReader
from comfy_remote.wire.request import FORMATS
from comfy_remote.wire.runpod import JobStatus
from comfy_remote.worker.dialects import DIALECTS, dialect_of
from comfy_remote.worker.handler import JobHandler
from comfy_remote.worker.settings import WorkerSettings

# The ids that system 5's clients count on, as in ComfyUI's Flux template.
FLUX: dict[str, Any] = {
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["11", 0]}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["13", 0], "vae": ["10", 0]}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "a"}},
    "10": {"class_type": "VAELoader", "inputs": {"vae_name": "ae.safetensors"}},
    "11": {"class_type": "DualCLIPLoader", "inputs": {"clip_name1": "a", "clip_name2": "b"}},
    "12": {"class_type": "UNETLoader", "inputs": {"unet_name": "flux.safetensors"}},
    "13": {
        "class_type": "SamplerCustomAdvanced",
        "inputs": {"noise": ["25", 0], "guider": ["22", 0], "latent_image": ["27", 0]},
    },
    "22": {"class_type": "BasicGuider", "inputs": {"model": ["12", 0], "conditioning": ["6", 0]}},
    "25": {"class_type": "RandomNoise", "inputs": {"noise_seed": 1}},
    "27": {
        "class_type": "EmptySD3LatentImage",
        "inputs": {"width": 1024, "height": 1024, "batch_size": 1},
    },
}
# The same meanings under other ids.
RENAMED: dict[str, Any] = json.loads(
    json.dumps(FLUX).replace('"6"', '"106"').replace('"25"', '"125"').replace('"27"', '"127"')
)
UI: dict[str, Any] = {
    "version": 0.4,
    "last_node_id": 2,
    "last_link_id": 1,
    "nodes": [
        {
            "id": 1,
            "type": "EmptyImage",
            "mode": 0,
            "inputs": [],
            "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1]}],
            "widgets_values": [64, 32, 1, 255],
        },
        {
            "id": 2,
            "type": "SaveImage",
            "mode": 0,
            "inputs": [{"name": "images", "type": "IMAGE", "link": 1}],
            "outputs": [],
            "widgets_values": ["ui"],
        },
    ],
    "links": [[1, 1, 0, 2, 0, "IMAGE"]],
}
SCHEMAS: dict[str, JsonValue] = {
    "EmptyImage": {
        "input": {
            "required": {
                "width": ["INT", {"default": 512}],
                "height": ["INT", {"default": 512}],
                "batch_size": ["INT", {"default": 1}],
                "color": ["INT", {"default": 0}],
            }
        },
        "output": ["IMAGE"],
    },
    "SaveImage": {
        "input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING", {}]}},
        "output": [],
        "output_node": True,
    },
}


async def silent(snapshot: dict[str, JsonValue]) -> None:
    return None


def good_target() -> EngineTarget:
    return EngineTarget(succeeded(output("a.bmp", "9")), {"a.bmp": b"abc"}, nodes=SCHEMAS)


async def run(
    payload: JsonValue, target: EngineTarget | None = None, **environ: str
) -> tuple[dict[str, Any], EngineTarget]:
    target = target or good_target()
    handler = JobHandler(
        FakeEngine(), WorkerSettings(), connect=connect_to(target), environ=environ
    )
    return await handler("job", payload, silent), target


async def prompt_run(**fields: JsonValue) -> dict[str, Any]:
    result, target = await run({"workflow": FLUX, **fields})
    assert result["status"] == "success", result
    return dict(target.requests[0].prompt)


@pytest.mark.parametrize(
    ("payload", "dialect"),
    [
        ({"workflow": FLUX}, "worker-comfyui"),
        ({"workflow": FLUX, "images": []}, "worker-comfyui"),
        ({"workflow": FLUX, "seed": 3}, "plain"),
        ({"workflow": FLUX, "prompt": "a dog"}, "plain"),
        ({"prompt": FLUX, "action": "run"}, "images-b64"),
        ({"workflow": FLUX, "seed": 3, "format": "comfy-remote/1"}, "comfy-remote/1"),
        ({"prompt": FLUX, "format": "plain"}, "plain"),
        ("nonsense", "worker-comfyui"),
    ],
)
def test_the_input_decides_the_answers_shape(payload: JsonValue, dialect: str) -> None:
    assert dialect_of(payload).name == dialect


@pytest.mark.parametrize(
    ("payload", "dialect"),
    [
        ({"workflow": FLUX}, "plain"),
        ({"workflow": FLUX, "images": []}, "plain"),
        ("nonsense", "plain"),
        ({"prompt": FLUX}, "images-b64"),
        ({"workflow": FLUX, "format": "worker-comfyui"}, "worker-comfyui"),
    ],
)
def test_the_owner_decides_the_shape_where_the_input_does_not(
    payload: JsonValue, dialect: str
) -> None:
    assert dialect_of(payload, "plain").name == dialect


def test_every_dialect_can_be_named() -> None:
    assert sorted(dialect.name for dialect in DIALECTS) == sorted(FORMATS)


async def test_a_job_of_a_workflow_alone_is_answered_as_the_owner_has_set() -> None:
    settings = WorkerSettings.from_environ({"COMFY_REMOTE_FORMAT": "plain"})
    good = JobHandler(FakeEngine(), settings, connect=connect_to(good_target()), environ={})
    result = await good("job", {"workflow": FLUX}, silent)
    assert result["status"] == "success"
    assert result["images"] == [base64.b64encode(b"abc").decode()]
    assert result["filenames"] == ["a.bmp"]
    bad = JobHandler(FakeEngine(), settings, connect=connect_to(good_target()), environ={})
    result = await bad("job", {"workflow": 3}, silent)
    assert (result["status"], result["error_type"]) == ("error", "validation")
    assert "details" not in result


async def test_a_format_that_does_not_exist_is_an_error() -> None:
    result, _ = await run({"workflow": FLUX, "format": "odd"})
    assert "there is no format 'odd'" in result["error"]
    assert "comfy-remote/1" in result["error"]


# --- system 5 -----------------------------------------------------------------------------


async def test_plain_answers() -> None:
    result, target = await run({"workflow": FLUX, "prompt": "a dog", "seed": 7})
    assert result["status"] == "success"
    assert result["images"] == [base64.b64encode(b"abc").decode()]
    assert result["filenames"] == ["a.bmp"]
    assert result["prompt_id"] == target.requests[0].job_id
    assert result["execution_time_seconds"] >= 0
    assert set(result) == {
        *("status", "images", "filenames", "prompt_id", "execution_time_seconds"),
    }


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (WorkflowInvalid("ComfyUI refused it."), "validation"),
        (JobTimedOut("too long"), "timeout"),
        (ExecutionFailed("boom"), "internal"),
    ],
)
async def test_plain_errors(failure: Exception, kind: str) -> None:
    end = [Started(), Finished(JobState.FAILED, failure)]  # type: ignore[arg-type]
    result, _ = await run({"workflow": FLUX, "seed": 1}, EngineTarget(end))
    assert (result["status"], result["error_type"]) == ("error", kind)
    assert str(failure) in result["error"]
    assert result["error_message"] == result["error"]
    assert set(result) == {
        "status",
        "error_type",
        "error_message",
        "error",
        "execution_time_seconds",
    }


async def test_the_default_nodes_are_changed() -> None:
    prompt = await prompt_run(prompt="a dog", seed=7, width=640, height=480)
    assert prompt["6"]["inputs"]["text"] == "a dog"
    assert prompt["25"]["inputs"]["noise_seed"] == 7
    assert (prompt["27"]["inputs"]["width"], prompt["27"]["inputs"]["height"]) == (640, 480)
    assert FLUX["6"]["inputs"]["text"] == "a cat"


async def test_nodes_are_found_by_meaning_where_the_default_ids_are_not_there() -> None:
    prompt = await prompt_run(workflow=RENAMED, prompt="a dog", seed=7, width=640, height=480)
    assert prompt["106"]["inputs"]["text"] == "a dog"
    assert prompt["125"]["inputs"]["noise_seed"] == 7
    assert (prompt["127"]["inputs"]["width"], prompt["127"]["inputs"]["height"]) == (640, 480)


async def test_nodes_are_named_by_their_ids() -> None:
    two = {
        **FLUX,
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "x", "clip": ["11", 0]}},
        "30": {"class_type": "RandomNoise", "inputs": {"noise_seed": 2}},
        "31": {"class_type": "EmptyLatentImage", "inputs": {"width": 8, "height": 8}},
    }
    prompt = await prompt_run(
        workflow=two,
        prompt="a dog",
        prompt_node_id=7,  # a number will do
        seed=9,
        seed_node_id="30",
        width=64,
        size_node_id="31",
        overrides={"9": {"filename_prefix": "mine"}},
    )
    assert prompt["7"]["inputs"]["text"] == "a dog"
    assert prompt["6"]["inputs"]["text"] == "a cat"
    assert (prompt["30"]["inputs"]["noise_seed"], prompt["25"]["inputs"]["noise_seed"]) == (9, 1)
    assert (prompt["31"]["inputs"]["width"], prompt["27"]["inputs"]["width"]) == (64, 1024)
    assert prompt["9"]["inputs"]["filename_prefix"] == "mine"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"workflow": 3}, "workflow"),
        ({"workflow": {"1": {"inputs": {}}}, "seed": 1}, "workflow"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": "x", "prompt_node_id": "77"}, "prompt_node_id"),
        ({"prompt": "x", "prompt_node_id": "27"}, "prompt_node_id"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"seed": 1, "seed_node_id": "6"}, "seed_node_id"),
        ({"width": 0}, "width"),
        ({"width": 8, "size_node_id": "6"}, "size_node_id"),
        ({"height": "tall"}, "height"),
        ({"overrides": {"6": {"txet": "x"}}}, "overrides"),
        ({"overrides": {"66": {"text": "x"}}}, "overrides"),
        ({"overrides": []}, "overrides"),
        ({"images": [{"name": "a.bmp"}]}, "images.0.image"),
        ({"files": [{"name": "a.bmp"}]}, "files.0"),
        ({"files": [{"data": "eA=="}]}, "files.0.name"),
        ({"format": "yaml"}, "format"),
        ({"timeout": 0}, "timeout"),
        ({"action": "dance"}, "action"),
        ({"s3Config": {"accessId": "x"}}, "s3Config.accessSecret"),
        ({"repo_list": "ckpt nonsense"}, "repo_list"),
    ],
)
async def test_every_refusal_names_the_field(fields: dict[str, JsonValue], field: str) -> None:
    result, target = await run({"workflow": FLUX, **fields})
    assert field in str(result["error"]), result
    assert target.requests == []


async def test_a_seed_where_there_is_none_is_refused() -> None:
    only = {"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8}}}
    result, _ = await run({"workflow": only, "seed": 1})
    assert result["error_type"] == "validation"
    assert result["error"].startswith("seed: ")
    assert "seed_node_id" in result["error"]


# --- system 4 -----------------------------------------------------------------------------


async def test_an_object_as_prompt_is_the_workflow_and_answered_with_b64() -> None:
    result, target = await run({"action": "run", "repo_list": "", "prompt": FLUX})
    assert result == {"images": [{"b64": base64.b64encode(b"abc").decode(), "name": "a.bmp"}]}
    assert target.requests[0].prompt == FLUX


async def test_two_workflows_are_refused() -> None:
    result, _ = await run({"workflow": FLUX, "prompt": FLUX})
    assert "prompt" in str(result["error"])


# --- all ----------------------------------------------------------------------------------


async def test_a_ui_workflow_is_converted_with_the_engines_schemas_and_embedded() -> None:
    result, target = await run({"workflow": UI, "overrides": {"1": {"width": 128}}})
    assert result["images"]
    [sent] = target.requests
    assert sent.prompt["1"]["inputs"] == {
        "width": 128,
        "height": 32,
        "batch_size": 1,
        "color": 255,
    }
    assert sent.prompt["2"]["inputs"]["images"] == ["1", 0]
    assert sent.workflow == UI


async def test_a_ui_workflow_that_cannot_be_converted_names_the_field() -> None:
    empty = {**UI, "nodes": [], "links": []}
    result, target = await run({"workflow": empty})
    assert str(result["error"]).startswith("workflow: ")
    assert target.requests == []


async def test_the_comfy_org_key_of_the_environment_is_used_and_the_requests_goes_before_it() -> (
    None
):
    _, target = await run({"workflow": FLUX}, COMFY_ORG_API_KEY="comfyui-env")
    assert target.requests[0].extra_data == {"api_key_comfy_org": "comfyui-env"}
    _, target = await run(
        {"workflow": FLUX, "comfy_org_api_key": "comfyui-mine"}, COMFY_ORG_API_KEY="comfyui-env"
    )
    assert target.requests[0].extra_data == {"api_key_comfy_org": "comfyui-mine"}


# --- read by our client -------------------------------------------------------------------


def read(result: dict[str, Any]) -> Finished:
    """What the client makes of a handler's result, after the SDK has taken out the error."""
    status: dict[str, Any] = {"id": "x", "status": "COMPLETED"}
    if error := result.pop("error", None):
        status = {"id": "x", "status": "FAILED", "error": error}
    status["output"] = result
    last = list(StatusReader({}).events(JobStatus.model_validate(status)))[-1]
    assert isinstance(last, Finished)
    return last


@pytest.mark.parametrize(
    "fields",
    [{}, {"format": "comfy-remote/1"}, {"seed": 1}, {"format": "images-b64"}],
)
async def test_the_client_reads_every_dialect(fields: dict[str, JsonValue]) -> None:
    result, _ = await run({"workflow": FLUX, **fields})
    finished = read(result)
    assert finished.state is JobState.SUCCEEDED
    [one] = finished.outputs
    assert (one.filename, one.kind) == ("a.bmp", "image")
    assert one.source is not None
    assert one.source.data == base64.b64encode(b"abc").decode()


@pytest.mark.parametrize("fields", [{}, {"format": "comfy-remote/1"}, {"seed": 1}])
async def test_the_client_reads_every_dialects_errors(fields: dict[str, JsonValue]) -> None:
    result, _ = await run({"workflow": FLUX, "overrides": {"66": {}}, **fields})
    finished = read(result)
    assert finished.state is JobState.FAILED
    assert "overrides" in str(finished.error)
    assert isinstance(finished.error, WorkflowInvalid)


@pytest.mark.parametrize("dialect", ["plain", "images-b64"])
async def test_a_result_over_the_limit_fails_where_files_have_no_other_place(dialect: str) -> None:
    target = EngineTarget(succeeded(output("a.txt", "9")), {"a.txt": b"x" * 2_000_000})
    handler = JobHandler(
        FakeEngine(), WorkerSettings(result_limit=1_000_000), connect=connect_to(target), environ={}
    )
    result = await handler("j", {"workflow": FLUX, "format": dialect}, silent)
    assert (result["status"], result["error_type"]) == ("error", "internal")
    assert "a.txt (2.0 MB)" in str(result["error"])
    assert "BUCKET_ENDPOINT_URL" in str(result["error"])
    assert len(json.dumps(result)) < 2000
    finished = read(result)
    assert finished.state is JobState.FAILED
    assert "a.txt (2.0 MB)" in str(finished.error)


# --- worker-comfyui's own examples --------------------------------------------------------


def their_requests() -> list[Path]:
    """The requests in a checkout of runpod-workers/worker-comfyui, which is not ours to copy."""
    folder = os.environ.get("WORKER_COMFYUI_DIR")
    if not folder:
        return []
    root = Path(folder)
    return [root / "test_input.json", *sorted((root / "test_resources/workflows").glob("*.json"))]


@pytest.mark.skipif(not their_requests(), reason="skipped: no WORKER_COMFYUI_DIR")
async def test_its_own_example_requests_run_unchanged() -> None:
    for path in their_requests():
        document = json.loads(path.read_text())
        request = document.get("input", {"workflow": document})  # some are workflows only
        result, target = await run(request)
        assert set(result) == {"images"}, (path, result)
        assert set(result["images"][0]) == {"filename", "type", "data"}
        [sent] = target.requests
        assert set(sent.prompt) == set(request["workflow"])
        assert [file.name for file in sent.files] == [
            image["name"] for image in request.get("images", [])
        ]


async def test_a_request_as_its_readme_has_them() -> None:
    picture = base64.b64encode(b"picture").decode()
    payload: dict[str, Any] = {
        "workflow": {**FLUX, "6": {**FLUX["6"], "_meta": {"title": "CLIP Text Encode"}}},
        "images": [{"name": "input_image_1.png", "image": f"data:image/png;base64,{picture}"}],
        "comfy_org_api_key": None,
    }
    result, target = await run(payload)
    assert result == {
        "images": [{"filename": "a.bmp", "type": "base64", "data": "YWJj"}],
    }
    assert target.received == {"input_image_1.png": b"picture"}


@pytest.mark.parametrize("form", ["plain", "images-b64"])
async def test_a_form_without_texts_says_so_of_a_workflow_that_made_texts_only(form: str) -> None:
    text = RemoteOutput("2", "text", "2_text_0.txt", text="a cat", key="text")
    target = EngineTarget([Started(), Finished(JobState.SUCCEEDED, outputs=(text,))])
    result, _ = await run({"workflow": FLUX, "format": form}, target)
    assert "what it made are texts, which this form of answer does not have" in result["error"]
    assert '"format": "comfy-remote/1"' in result["error"]
    assert "Save Image" in result["error"]
