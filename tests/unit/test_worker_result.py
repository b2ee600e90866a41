"""Answers: counted before they are returned, and in the dialect asked for."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from worker_fakes import output

from comfy_remote.errors import ExecutionFailed, OutputLost, OutputTooLarge
from comfy_remote.outputs import RemoteOutput
from comfy_remote.targets.download import Downloaded
from comfy_remote.wire.request import COMFY_REMOTE_1, WORKER_COMFYUI, AnswerFormat
from comfy_remote.worker.collect import CollectedOutput
from comfy_remote.worker.result import AnswerFacts, build_answer, wanted_outputs
from comfy_remote.worker.settings import default_result_limit

FACTS = AnswerFacts(timings={"run": 1.25}, engine="ComfyUI 1.2.3", worker="w1")


class FakeStore:
    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    async def put(self, job_id: str, path: Path, sha256: str) -> str:
        self.kept[sha256] = path.read_bytes()
        return f"files/{job_id}/{sha256}"


def file(folder: Path, name: str, content: bytes) -> CollectedOutput:
    path = folder / f"{len(list(folder.iterdir()))}"
    path.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    return CollectedOutput(output(name), Downloaded(path, len(content), sha256))


async def answer(
    collected: list[CollectedOutput],
    limit: int = 10**9,
    store: FakeStore | None = None,
    dialect: AnswerFormat = COMFY_REMOTE_1,
):
    return await build_answer(collected, dialect, FACTS, job_id="j-1", limit=limit, store=store)


def serialised(result: object) -> int:
    # As the SDK's rp_http sends it.
    return len(json.dumps({"output": result}, ensure_ascii=False).encode())


async def test_outputs_come_whole_and_in_order(tmp_path: Path) -> None:
    files = [file(tmp_path, f"{n}.png", bytes([n]) * n) for n in (3, 1, 2)]
    text = CollectedOutput(RemoteOutput("9", "text", "9.txt", text="grüß"), None)
    result = await answer([*files, text])
    assert [o["filename"] for o in result["outputs"]] == ["3.png", "1.png", "2.png", "9.txt"]
    assert base64.b64decode(result["outputs"][0]["data"]) == b"\x03\x03\x03"
    assert result["outputs"][0]["sha256"] == hashlib.sha256(b"\x03\x03\x03").hexdigest()
    assert result["outputs"][3]["text"] == "grüß"
    assert "data" not in result["outputs"][3]
    assert (result["engine"], result["worker"], result["timings"]) == (
        "ComfyUI 1.2.3",
        "w1",
        {"run": 1.25},
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    outputs=st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
            st.binary(max_size=300),
        ),
        min_size=1,
        max_size=4,
    ),
    ours=st.booleans(),
)
async def test_the_size_is_counted_to_the_byte(
    tmp_path_factory: pytest.TempPathFactory, outputs: list[tuple[str, bytes]], ours: bool
) -> None:
    folder = tmp_path_factory.mktemp("files")
    collected = [file(folder, name, content) for name, content in outputs]
    dialect = COMFY_REMOTE_1 if ours else WORKER_COMFYUI
    size = serialised(await answer(collected, dialect=dialect))
    assert serialised(await answer(collected, size, dialect=dialect)) == size
    with pytest.raises(OutputTooLarge):
        await answer(collected, size - 1, dialect=dialect)


async def test_the_largest_are_spilled_until_the_rest_fits(tmp_path: Path) -> None:
    sizes = {"a.png": 100, "b.png": 9000, "c.png": 300, "d.png": 20000}
    collected = [file(tmp_path, name, bytes(size)) for name, size in sizes.items()]
    store = FakeStore()
    result = await answer(collected, 3000, store)
    assert [o["filename"] for o in result["outputs"]] == list(sizes)
    spilled = {o["filename"]: o["url"] for o in result["outputs"] if "url" in o}
    assert set(spilled) == {"b.png", "d.png"}
    for one in result["outputs"]:
        assert ("data" in one) != ("url" in one)
        assert one["size"] == sizes[one["filename"]]
        if "url" in one:
            assert one["url"] == f"files/j-1/{one['sha256']}"
            assert store.kept[one["sha256"]] == bytes(one["size"])
    assert serialised(result) <= 3000


async def test_without_a_store_the_error_names_sizes_and_a_way_out(tmp_path: Path) -> None:
    collected = [file(tmp_path, "big.mp4", bytes(3_000_000)), file(tmp_path, "s.png", b"x")]
    with pytest.raises(OutputTooLarge) as caught:
        await answer(collected, 1_000_000)
    assert "big.mp4 (3.0 MB)" in caught.value.message
    assert "1.0 MB can be returned" in caught.value.message
    assert caught.value.advice
    assert caught.value.details["outputs"] == [
        {"filename": "big.mp4", "size": 3_000_000},
        {"filename": "s.png", "size": 1},
    ]


async def test_too_large_is_found_without_reading_a_byte(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as sparse:
        sparse.truncate(50 * 2**30)
    huge = CollectedOutput(output("huge.mkv"), Downloaded(path, 50 * 2**30, "0" * 64))
    with pytest.raises(OutputTooLarge, match=r"huge\.mkv"):
        await answer([huge], 10_000_000)


async def test_a_text_that_does_not_fit_is_too_large(tmp_path: Path) -> None:
    text = CollectedOutput(RemoteOutput("9", "text", "9.txt", text="x" * 5000), None)
    with pytest.raises(OutputTooLarge, match="texts"):
        await answer([text], 1000, FakeStore())


async def test_worker_comfyui_has_saved_images_and_videos_only(tmp_path: Path) -> None:
    outputs = [output("a.png"), output("p.png", folder="temp"), output("v.mp4"), output("s.flac")]
    wanted = wanted_outputs(outputs, WORKER_COMFYUI)
    assert [o.filename for o in wanted] == ["a.png", "v.mp4"]
    result = await answer([file(tmp_path, "a.png", b"abc")], dialect=WORKER_COMFYUI)
    assert result == {"images": [{"filename": "a.png", "type": "base64", "data": "YWJj"}]}


async def test_worker_comfyui_without_an_image_says_so() -> None:
    assert wanted_outputs([output("s.flac")], WORKER_COMFYUI) == ()
    assert await answer([], dialect=WORKER_COMFYUI) == {
        "images": [],
        "status": "success_no_images",
    }


def test_an_empty_success_is_an_error() -> None:
    with pytest.raises(OutputLost, match="Save Image"):
        wanted_outputs([], COMFY_REMOTE_1)
    with pytest.raises(ExecutionFailed, match="Save Image"):
        wanted_outputs([], WORKER_COMFYUI)


def test_runpods_own_limits() -> None:
    assert default_result_limit("abc-e1") == 10_000_000
    assert default_result_limit("sync-abc-e1") == 20_000_000
