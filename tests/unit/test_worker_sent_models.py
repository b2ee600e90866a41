"""The models that come with a workflow: which are fetched, and what is said of the others."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_target import output
from model_server import File, ModelServer, safetensors, sha256
from models_kit import files_in, library_for
from worker_fakes import PROMPT, EngineTarget, FakeEngine, connect_to, succeeded

from comfy_remote.errors import ExecutionFailed, WorkflowInvalid
from comfy_remote.targets.base import RemoteRef, RunRequest
from comfy_remote.wire.request import JobRequest, ModelSent
from comfy_remote.wire.runpod import error_from_runpod
from comfy_remote.worker.handler import JobHandler
from comfy_remote.worker.sent_models import LackingModels, fetch_lacking
from comfy_remote.worker.settings import WorkerSettings

MODEL = safetensors(20_000)
REFUSAL = WorkflowInvalid(
    "ComfyUI refused the prompt.",
    advice="Look.",
    details={"node_errors": {"2": {"errors": [{"details": "x: 'b.safetensors' not in []"}]}}},
)


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        server.files["/b.safetensors"] = File(MODEL)
        yield server


def sent(server: ModelServer, name: str = "b.safetensors", **more: str) -> ModelSent:
    fields = {"name": name, "directory": "checkpoints", "url": f"{server.url}/{name}", **more}
    return ModelSent.model_validate(fields)


async def lacking(
    server: ModelServer, root: Path, models: Sequence[ModelSent], **changes: Any
) -> LackingModels:
    """With an engine that has ``checkpoints/a.safetensors``, and ``loras``, which is empty."""
    library = library_for(root, server, **{"download": True, **changes})
    return await fetch_lacking(models, EngineTarget(), library, lambda _: None)


async def test_only_what_the_engine_does_not_list_is_fetched(
    server: ModelServer, tmp_path: Path
) -> None:
    server.files["/a.safetensors"] = File(MODEL)
    models = [sent(server, "a.safetensors"), sent(server)]
    found = await lacking(server, tmp_path, models)
    assert files_in(tmp_path) == {"checkpoints/b.safetensors": MODEL}
    assert found.explain(REFUSAL) is REFUSAL
    assert server.fetched("/a.safetensors") == 0


async def test_folders_of_before_mean_todays(server: ModelServer, tmp_path: Path) -> None:
    await lacking(server, tmp_path, [sent(server, directory="unet")])
    assert list(files_in(tmp_path)) == ["diffusion_models/b.safetensors"]


async def test_nothing_of_ours_is_pruned_for_it(server: ModelServer, tmp_path: Path) -> None:
    server.files["/c.safetensors"] = File(MODEL)
    for name in ("b.safetensors", "c.safetensors"):
        await lacking(server, tmp_path, [sent(server, name)])
    assert len(files_in(tmp_path)) == 2


@pytest.mark.parametrize(
    ("source", "changes", "says"),
    [
        ({}, {"download": None}, "DOWNLOAD_MODELS=true"),
        ({}, {"download": False}, "DOWNLOAD_MODELS=true"),
        ({"url": "https://127.0.0.1:1/b.safetensors"}, {}, "private network"),
        ({"hash": "0" * 64, "hash_type": "SHA256"}, {}, "SHA-256"),
        ({"directory": "no_such_folder"}, {}, "does not know"),
        ({"name": "b.exe.safetensors/../../b.safetensors.exe"}, {}, ".exe"),
        ({"url": "/none.safetensors"}, {}, "b.safetensors"),
    ],
    ids=["not allowed", "never", "private", "another file", "strange folder", "name", "not there"],
)
async def test_what_is_not_fetched_explains_the_engines_refusal_and_no_other(
    server: ModelServer,
    tmp_path: Path,
    source: dict[str, str],
    changes: dict[str, Any],
    says: str,
) -> None:
    if source.get("url", "").startswith("/"):
        source = {"url": f"{server.url}{source['url']}"}
    found = await lacking(server, tmp_path / "models", [sent(server, **source)], **changes)
    refused = WorkflowInvalid("Refused.", details={"node_errors": {"2": {"errors": [source]}}})
    refused.details["name"] = source.get("name", "b.safetensors").rpartition("/")[2]
    explained = found.explain(refused)
    assert explained.message.startswith("Refused. Models that this worker lacks: ")
    assert says in str(explained)
    assert explained.details["node_errors"] == refused.details["node_errors"]
    assert explained.details["missing_models"]
    failed = found.explain(ExecutionFailed("Loader failed.", details=refused.details))
    assert type(failed) is ExecutionFailed
    assert says in str(failed)
    other = WorkflowInvalid("Another node is not there.", details={"node_errors": {}})
    assert found.explain(other) is other
    assert files_in(tmp_path) == {}


def test_the_hash_is_taken_where_it_is_one(server: object) -> None:
    digits = sha256(MODEL).upper()
    fields = {"name": "a", "url": "https://x.example/a", "directory": "vae", "hash": digits}
    for kind, expected in (("SHA256", digits.lower()), ("sha-256", digits.lower()), ("MD5", None)):
        assert ModelSent.model_validate({**fields, "hash_type": kind}).sha256 == expected
    assert ModelSent.model_validate({**fields, "hash": "0x1", "hash_type": "SHA256"}).sha256 is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("url", "file:///etc/passwd"),
        ("url", "hf:o/r/a.safetensors"),
        ("directory", "../x"),
        ("directory", ".comfy-remote"),
        ("name", ""),
    ],
)
def test_a_model_that_is_none_is_refused_by_its_field(field: str, value: str) -> None:
    model = {"name": "a.safetensors", "url": "https://x.example/a", "directory": "vae"}
    with pytest.raises(WorkflowInvalid, match=rf"models\.0\.{field}"):
        JobRequest.parse({"workflow": {"1": {}}, "models": [{**model, field: value}]})


class PickyTarget(EngineTarget):
    """An engine that refuses the prompt unless a file is there."""

    def __init__(self, path: Path) -> None:
        super().__init__(succeeded(output("a.bmp")), {"a.bmp": b"x"})
        self.path = path

    async def submit(self, request: RunRequest) -> RemoteRef:
        if not self.path.is_file():
            raise REFUSAL
        return await super().submit(request)


@pytest.mark.parametrize("allowed", [True, None])
async def test_a_job_from_request_to_answer(
    server: ModelServer, tmp_path: Path, allowed: bool | None
) -> None:
    target = PickyTarget(tmp_path / "checkpoints/b.safetensors")
    handler = JobHandler(
        FakeEngine(),
        WorkerSettings(),
        models=library_for(tmp_path, server, download=allowed),
        connect=connect_to(target),
    )
    payload = {
        "workflow": PROMPT,
        "format": "comfy-remote/1",
        "models": [sent(server).model_dump(mode="json")],
    }
    told: list[dict[str, Any]] = []

    async def report(snapshot: dict[str, Any]) -> None:
        told.append(snapshot)

    result = await handler("j", payload, report)
    if allowed:
        assert result["status"] == "success"
        assert any("Fetching b.safetensors" in snapshot["message"] for snapshot in told)
    else:
        error = error_from_runpod(result["error"])
        assert isinstance(error, WorkflowInvalid)
        assert "checkpoints/b.safetensors" in error.message
        assert "DOWNLOAD_MODELS=true" in error.advice
        assert "b.safetensors" in json.dumps(error.details["node_errors"])
        assert server.asked == []
