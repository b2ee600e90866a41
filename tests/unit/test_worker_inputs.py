"""Files that come with a job: nothing about them is trusted."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import tempfile
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comfy_remote.errors import InputFileMissing, WorkflowInvalid
from comfy_remote.targets.base import InputFile
from comfy_remote.wire.request import InputFileSent, InputImage, JobRequest
from comfy_remote.worker.inputs import InputCache, InputReceiver
from comfy_remote.worker.settings import WorkerSettings

JOB = "job-1"
CONTENT = b"\x89PNG not really \x00\xff"
TEXT = base64.b64encode(CONTENT).decode()


def receiver(cache: Path, *hosts: str, limit: int = 10**6) -> InputReceiver:
    settings = WorkerSettings(
        folder=cache, input_limit=limit, input_size=50_000, input_hosts=frozenset(hosts)
    )
    return InputReceiver(settings)


def decode_inputs(images: list[InputImage], folder: Path) -> list[InputFile]:
    request = JobRequest(workflow={}, images=images)
    with tempfile.TemporaryDirectory() as cache:
        return asyncio.run(receiver(Path(cache)).receive(request, folder, JOB))


@pytest.mark.parametrize(
    "sent",
    [
        TEXT,
        f"data:image/png;base64,{TEXT}",
        f"data:image/png;charset=x;base64,{TEXT}",
        "\r\n".join(TEXT[i : i + 8] for i in range(0, len(TEXT), 8)),
    ],
)
def test_base64_arrives_byte_for_byte(tmp_path: Path, sent: str) -> None:
    [file] = decode_inputs([InputImage(name="masks/a.png", image=sent)], tmp_path)
    assert file.name == "masks/a.png"
    assert file.path.read_bytes() == CONTENT
    assert file.size == len(CONTENT)
    assert file.sha256 == hashlib.sha256(CONTENT).hexdigest()


def test_comfy_gens_file_inputs_are_files_and_set_the_inputs_that_load_them() -> None:
    sent = {"field": "image", "url": "https://example.com/a.png", "filename": "ref.png"}
    request = JobRequest.parse(
        {
            "workflow": {"3": {"class_type": "LoadImage", "inputs": {"image": "x.png"}}},
            "file_inputs": {"3": sent, "4": {**sent, "filename": "other.png"}},
            "overrides": {"3": {"upload": "image"}, "4": {"image": "mine.png"}},
        }
    )
    assert [(file.name, file.url) for file in request.files] == [
        ("ref.png", "https://example.com/a.png"),
        ("other.png", "https://example.com/a.png"),
    ]
    assert request.overrides == {
        "3": {"image": "ref.png", "upload": "image"},
        "4": {"image": "mine.png"},
    }


@pytest.mark.parametrize("change", [{"url": "https://["}, {"field": ""}, {"filename": None}])
def test_file_inputs_that_are_not_valid_are_refused(change: dict[str, str]) -> None:
    sent = {"field": "image", "url": "https://example.com/a.png", "filename": "ref.png", **change}
    with pytest.raises(WorkflowInvalid, match="file_inputs"):
        JobRequest.parse({"workflow": {}, "file_inputs": {"3": sent}})


@pytest.mark.parametrize(
    "sent",
    [
        "not base64!",
        TEXT[:-1],
        "",
        "data:image/png;base64,",
        "data:image/svg+xml,%3Csvg%3E",
        "https://example.com/a.png",
        "data:image/png;base64",
    ],
)
def test_what_is_not_base64_is_refused(tmp_path: Path, sent: str) -> None:
    with pytest.raises(WorkflowInvalid, match=r"a\.png could not be decoded"):
        decode_inputs([InputImage(name="a.png", image=sent)], tmp_path)


@pytest.mark.parametrize(
    "name",
    ["../a.png", "/etc/passwd", "a/../../b", "C:\\a.png", "a\x00.png", "..", "a/./b", "con.png"],
)
def test_names_that_could_escape_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(WorkflowInvalid, match="cannot be the name"):
        decode_inputs([InputImage(name=name, image=TEXT)], tmp_path)
    assert list(tmp_path.iterdir()) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(min_size=1, max_size=200))
def test_whatever_the_name_files_stay_in_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "inside"
    folder.mkdir(exist_ok=True)
    try:
        files = decode_inputs([InputImage(name=name, image=TEXT)], folder)
    except WorkflowInvalid:
        files = []
    assert all(f.path.parent == folder and ".." not in f.name.split("/") for f in files)
    assert [p.name for p in tmp_path.iterdir()] == ["inside"]


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkflowInvalid, match="arrived damaged"):
        decode_inputs([InputImage(name="a.png", image=TEXT, sha256="0" * 64)], tmp_path)


def test_the_right_sha256_is_accepted(tmp_path: Path) -> None:
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    [file] = decode_inputs([InputImage(name="a.png", image=TEXT, sha256=sha256)], tmp_path)
    assert file.sha256 == sha256


def test_the_same_file_twice_is_one_and_two_of_one_name_are_refused(tmp_path: Path) -> None:
    twice = [InputImage(name="a.png", image=TEXT)] * 2
    assert len(decode_inputs(twice, tmp_path)) == 1
    other = InputImage(name="a.png", image=base64.b64encode(b"other").decode())
    with pytest.raises(WorkflowInvalid, match=r"Two different files are named a\.png"):
        decode_inputs([*twice, other], tmp_path)


# --- by address ---------------------------------------------------------------------------

SHA256 = hashlib.sha256(CONTENT).hexdigest()


async def receive(made: InputReceiver, folder: Path, **sent: str) -> list[InputFile]:
    folder.mkdir(exist_ok=True)
    request = JobRequest(workflow={}, files=[InputFileSent(name="a.png", **sent)])
    return await made.receive(request, folder, JOB)


def site(content: bytes = CONTENT, first: int = 200) -> tuple[web.Application, list[str]]:
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.method + request.path)
        if len(seen) == 1 and first != 200:
            return web.Response(status=first)
        if request.path == "/away":
            raise web.HTTPFound("http://10.0.0.1/a.png")
        if request.path == "/home":
            raise web.HTTPFound("/a.png")
        if request.path == "/around":
            raise web.HTTPFound("/around")
        return web.Response(body=content)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    return app, seen


async def test_a_file_comes_from_its_address_and_the_next_time_from_here(tmp_path: Path) -> None:
    app, seen = site(first=503)
    async with TestServer(app) as server:
        made = receiver(tmp_path / "cache", f"{server.host}:{server.port}")
        for number in range(2):
            [file] = await receive(
                made, tmp_path / str(number), url=str(server.make_url("/home")), sha256=SHA256
            )
            assert file.path.read_bytes() == CONTENT
            assert (file.size, file.sha256) == (len(CONTENT), SHA256)
    assert seen == ["GET/home", "GET/home", "GET/a.png"]  # once more after the 503


@pytest.mark.parametrize(
    ("path", "sha256", "content", "says"),
    [
        ("/away", SHA256, CONTENT, "private network|not https"),
        ("/around", SHA256, CONTENT, "redirected more than 5 times"),
        ("/a.png", "0" * 64, CONTENT, "SHA-256"),
        ("/a.png", SHA256, b"", "SHA-256|empty"),
        ("/a.png", SHA256, bytes(60_000), "larger than"),
    ],
)
async def test_what_must_not_be_fetched_is_refused(
    tmp_path: Path, path: str, sha256: str, content: bytes, says: str
) -> None:
    app, _ = site(content)
    async with TestServer(app) as server:
        made = receiver(tmp_path / "cache", f"{server.host}:{server.port}")
        with pytest.raises(WorkflowInvalid, match=says):
            await receive(made, tmp_path / "job", url=str(server.make_url(path)), sha256=sha256)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8188/view?filename=x",
        "https://127.0.0.1/x",
        "https://[::1]/x",
        "https://169.254.169.254/latest/meta-data",
        "http://example.com/a.png",
        "file:///etc/passwd",
        "https://10.1.2.3/x",
    ],
)
async def test_addresses_of_this_machine_and_its_network_are_refused(
    tmp_path: Path, url: str
) -> None:
    with pytest.raises(WorkflowInvalid):
        await receive(receiver(tmp_path / "cache"), tmp_path / "job", url=url)


@pytest.mark.parametrize(
    "url", ["https://[::1", "https://a:99999/x", "https://a..b/x", "https://℀/x"]
)
@pytest.mark.parametrize("field", ["url", "delete_url"])
def test_what_is_no_address_is_refused_by_its_field(field: str, url: str) -> None:
    file = {"name": "a.png", "data": "aGk=", field: url}
    if field == "url":
        del file["data"]
    with pytest.raises(WorkflowInvalid, match=rf"files\.0\.{field}: .*not an address"):
        JobRequest.parse({"workflow": {"1": {}}, "files": [file]})


# --- by hash ------------------------------------------------------------------------------


async def test_a_file_that_was_here_is_taken_by_its_hash(tmp_path: Path) -> None:
    made = receiver(tmp_path / "cache")
    with pytest.raises(InputFileMissing) as caught:
        await receive(made, tmp_path / "0", sha256=SHA256)
    assert caught.value.details["missing_inputs"] == ["a.png"]
    await receive(made, tmp_path / "1", data=TEXT)
    [file] = await receive(made, tmp_path / "2", sha256=SHA256)
    assert file.path.read_bytes() == CONTENT
    # What has been changed meanwhile is not taken for it.
    (tmp_path / "cache/inputs" / SHA256).write_bytes(b"something else")
    with pytest.raises(InputFileMissing):
        await receive(made, tmp_path / "3", sha256=SHA256)


async def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = InputCache(tmp_path / "cache", limit=250)
    path = tmp_path / "file"
    hashes = []
    for number in range(3):
        path.write_bytes(bytes([number]) * 100)
        hashes.append(hashlib.sha256(path.read_bytes()).hexdigest())
        if number == 2:
            assert cache.take(hashes[0], tmp_path / "used")
        cache.add(hashes[number], path)
        if number < 2:
            os.utime(tmp_path / "cache" / hashes[number], (1_600_000_000 + number,) * 2)
    assert cache.take(hashes[0], path)
    assert not cache.take(hashes[1], path)
    assert cache.take(hashes[2], path)
    path.write_bytes(bytes(300))
    cache.add("f" * 64, path)  # larger than all the cache
    assert not cache.take("f" * 64, tmp_path / "none")
    assert not cache.take("../file", tmp_path / "none")


class OneFile:
    """A store that has one file for one job."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def fetch(self, job_id: str, sha256: str, path: Path) -> bool:
        self.asked.append(sha256)
        if (job_id, sha256) != (JOB, SHA256):
            return False
        path.write_bytes(CONTENT)
        return True


async def test_a_file_comes_from_the_gateway_once_and_then_from_here(tmp_path: Path) -> None:
    store = OneFile()
    made = InputReceiver(WorkerSettings(folder=tmp_path / "cache"), store)
    for number in range(2):
        [file] = await receive(made, tmp_path / str(number), sha256=SHA256)
        assert file.path.read_bytes() == CONTENT
        assert (file.name, file.size, file.sha256) == ("a.png", len(CONTENT), SHA256)
    assert store.asked == [SHA256]
    with pytest.raises(InputFileMissing) as caught:
        await receive(made, tmp_path / "other", sha256="0" * 64)
    assert caught.value.details["missing_inputs"] == ["a.png"]
