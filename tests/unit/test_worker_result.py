"""Answers: counted before they are returned, and in the dialect asked for."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_target import output
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comfy_remote.errors import ExecutionFailed, OutputError, OutputLost, OutputTooLarge
from comfy_remote.media.receive import Received
from comfy_remote.media.temporary import TemporaryFolder
from comfy_remote.outputs import RemoteOutput
from comfy_remote.targets.runpod.result import read_result
from comfy_remote.worker.collect import CollectedOutput
from comfy_remote.worker.dialects import AnswerFacts, Dialect, dialect_named
from comfy_remote.worker.result import build_answer
from comfy_remote.worker.settings import default_result_limit
from comfy_remote.worker.storage import StoredFile

FACTS = AnswerFacts(
    timings={"run": 1.25}, engine="ComfyUI 1.2.3", worker="w1", prompt_id="p-1", seconds=2.5
)


COMFY_REMOTE_1 = dialect_named("comfy-remote/1")
WORKER_COMFYUI = dialect_named("worker-comfyui")
PLAIN = dialect_named("plain")
IMAGES_B64 = dialect_named("images-b64")


class FakeStore:
    def __init__(self, *, public: bool = False, fails: bool = False) -> None:
        self.kept: dict[str, bytes] = {}
        self.public = public
        self.fails = fails

    async def put(self, job_id: str, filename: str, file: Received) -> StoredFile:
        if self.fails:
            raise OutputError("The bucket is gone.")
        self.kept[file.sha256] = file.path.read_bytes()
        base = "https://bucket.example/" if self.public else "files/"
        return StoredFile(url=f"{base}{job_id}/{file.sha256}")


def file(folder: Path, name: str, content: bytes) -> CollectedOutput:
    path = folder / f"{len(list(folder.iterdir()))}"
    path.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    return CollectedOutput(output(name), Received(path, len(content), sha256))


async def answer(
    collected: list[CollectedOutput],
    limit: int = 10**9,
    *stores: FakeStore,
    dialect: Dialect = COMFY_REMOTE_1,
) -> Any:
    with TemporaryFolder("texts") as folder:
        return await build_answer(
            collected,
            dialect,
            FACTS,
            job_id="j-1",
            limit=limit,
            folder=Path(folder),
            stores=stores,
        )


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
    dialect=st.sampled_from([COMFY_REMOTE_1, WORKER_COMFYUI, PLAIN, IMAGES_B64]),
)
async def test_the_size_is_counted_to_the_byte(
    tmp_path_factory: pytest.TempPathFactory,
    outputs: list[tuple[str, bytes]],
    dialect: Dialect,
) -> None:
    folder = tmp_path_factory.mktemp("files")
    collected = [file(folder, name, content) for name, content in outputs]
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


async def test_a_text_that_does_not_fit_is_stored_as_a_file(tmp_path: Path) -> None:
    def text(node_id: str, content: str) -> CollectedOutput:
        name = f"{node_id}_text_0.txt"
        shown = RemoteOutput(node_id, "text", name, media_type="text/plain", text=content)
        return CollectedOutput(replace(shown, key="text"), None)

    long, short = "grüß \n" * 10_000, "short"
    collected = [text("1", long), file(tmp_path, "a.png", bytes(100)), text("2", short)]
    store = FakeStore()
    result = await answer(collected, 5000, store)
    first, picture, last = result["outputs"]
    assert store.kept[first["sha256"]].decode() == long
    assert store.kept[picture["sha256"]] == bytes(100)  # files go first
    assert "text" not in first
    assert first["size"] == len(long.encode())
    assert last["text"] == short
    assert serialised(result) <= 5000
    # The client knows it for a text that its node shows.
    read = read_result(result, {})
    assert [one.is_shown_text for one in read.outputs] == [True, False, True]
    with pytest.raises(OutputTooLarge, match="texts"):
        await answer([text("1", long)], 5000)


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


@pytest.mark.parametrize("dialect", [PLAIN, IMAGES_B64])
async def test_a_dialect_without_a_place_for_addresses_says_so_loudly(
    tmp_path: Path, dialect: Dialect
) -> None:
    """Whatever stores there are: its files can be nowhere but in the answer."""
    collected = [file(tmp_path, "big.mp4", bytes(3_000_000)), file(tmp_path, "s.png", b"x")]
    stores = FakeStore(public=True), FakeStore()
    with pytest.raises(OutputTooLarge) as caught:
        await answer(collected, 1_000_000, *stores, dialect=dialect)
    assert "big.mp4 (3.0 MB)" in caught.value.message
    assert "1.0 MB can be returned" in caught.value.message
    assert "BUCKET_ENDPOINT_URL" in caught.value.advice
    assert f"comfy-remote/1 or worker-comfyui ({dialect.name} cannot name" in caught.value.advice
    assert [store.kept for store in stores] == [{}, {}]


async def test_too_large_is_found_without_reading_a_byte(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as sparse:
        sparse.truncate(50 * 2**30)
    huge = CollectedOutput(output("huge.mkv"), Received(path, 50 * 2**30, "0" * 64))
    with pytest.raises(OutputTooLarge, match=r"huge\.mkv"):
        await answer([huge], 10_000_000)


async def test_a_text_that_does_not_fit_is_too_large(tmp_path: Path) -> None:
    text = CollectedOutput(RemoteOutput("9", "text", "9.txt", text="x" * 5000), None)
    with pytest.raises(OutputTooLarge, match="texts"):
        await answer([text], 1000, FakeStore())


async def test_a_store_that_fails_is_told_and_the_next_one_takes_it(tmp_path: Path) -> None:
    collected = [file(tmp_path, "a.png", bytes(9000)), file(tmp_path, "b.png", bytes(8000))]
    bucket, other = FakeStore(public=True, fails=True), FakeStore()
    result = await answer(collected, 2000, bucket, other)
    assert len(other.kept) == 2
    assert result["warnings"] == ["The bucket is gone."]
    with pytest.raises(OutputTooLarge, match="The bucket is gone") as caught:
        await answer(collected, 2000, bucket)
    assert "BUCKET_ENDPOINT_URL" in caught.value.advice


async def test_worker_comfyui_puts_all_into_a_bucket(tmp_path: Path) -> None:
    collected = [file(tmp_path, "a.png", b"abc"), file(tmp_path, "b.png", b"def")]
    bucket = FakeStore(public=True)
    result = await answer(collected, 10**6, bucket, dialect=WORKER_COMFYUI)
    assert [i["type"] for i in result["images"]] == ["s3_url", "s3_url"]
    assert [i["filename"] for i in result["images"]] == ["a.png", "b.png"]
    assert set(bucket.kept.values()) == {b"abc", b"def"}
    # A store that its clients cannot reach is no help to them.
    gateway = FakeStore()
    result = await answer(collected, 10**6, gateway, dialect=WORKER_COMFYUI)
    assert [i["type"] for i in result["images"]] == ["base64", "base64"]
    assert gateway.kept == {}
    # A bucket that is gone costs a warning, as long as the files fit.
    result = await answer(
        collected, 10**6, FakeStore(public=True, fails=True), dialect=WORKER_COMFYUI
    )
    assert [i["type"] for i in result["images"]] == ["base64", "base64"]
    assert result["errors"] == ["The bucket is gone."]


@pytest.mark.parametrize("dialect", [WORKER_COMFYUI, PLAIN, IMAGES_B64])
async def test_saved_files_of_every_kind_are_returned(tmp_path: Path, dialect: Dialect) -> None:
    names = ["a.png", "v.mp4", "s.flac", "m.glb", "x.latent"]
    outputs = [*map(output, names), output("p.png", folder="temp")]
    assert [o.filename for o in dialect.wanted(outputs)] == names


@pytest.mark.parametrize("dialect", [PLAIN, IMAGES_B64])
def test_previews_are_returned_where_nothing_is_saved(dialect: Dialect) -> None:
    previews = [output("p.png", folder="temp"), output("q.png", folder="temp")]
    assert list(dialect.wanted(previews)) == previews


async def test_each_dialect_has_its_shape(tmp_path: Path) -> None:
    collected = [file(tmp_path, "a.png", b"abc"), file(tmp_path, "b.png", b"def")]
    assert await answer(collected[:1], dialect=WORKER_COMFYUI) == {
        "images": [{"filename": "a.png", "type": "base64", "data": "YWJj"}]
    }
    assert await answer(collected, dialect=PLAIN) == {
        "status": "success",
        "images": ["YWJj", "ZGVm"],
        "filenames": ["a.png", "b.png"],
        "execution_time_seconds": 2.5,
        "prompt_id": "p-1",
    }
    assert await answer(collected, dialect=IMAGES_B64) == {
        "images": [{"b64": "YWJj", "name": "a.png"}, {"b64": "ZGVm", "name": "b.png"}]
    }


async def test_names_that_are_the_same_are_told_apart(tmp_path: Path) -> None:
    first, second = file(tmp_path, "a.png", b"1"), file(tmp_path, "a.png", b"2")
    moved = replace(second, output=replace(second.output, subfolder="sub"))
    result = await answer([first, moved], dialect=WORKER_COMFYUI)
    assert [i["filename"] for i in result["images"]] == ["a.png", "sub/a.png"]


async def test_worker_comfyui_without_a_file_says_so() -> None:
    text = RemoteOutput("9", "text", "9.txt", text="x")
    assert WORKER_COMFYUI.wanted([text]) == ()
    said = await answer([], dialect=WORKER_COMFYUI)
    assert said.pop("message").startswith("The workflow ran, and saved no file: what it made are")
    assert said == {"images": [], "status": "success_no_images"}


def test_an_empty_success_is_an_error() -> None:
    with pytest.raises(OutputLost, match="Save Image"):
        COMFY_REMOTE_1.wanted([])
    for dialect in (WORKER_COMFYUI, PLAIN, IMAGES_B64):
        with pytest.raises(ExecutionFailed, match="Save Image"):
            dialect.wanted([])


def test_runpods_own_limits() -> None:
    assert default_result_limit("abc-e1") == 10_000_000
    assert default_result_limit("sync-abc-e1") == 20_000_000
