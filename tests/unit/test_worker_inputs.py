"""Files that come with a job: nothing about them is trusted."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comfy_remote.errors import WorkflowInvalid
from comfy_remote.wire.request import InputImage, JobRequest
from comfy_remote.worker.inputs import decode_inputs as decode_request

CONTENT = b"\x89PNG not really \x00\xff"
TEXT = base64.b64encode(CONTENT).decode()


def decode_inputs(images: list[InputImage], folder: Path):
    return decode_request(JobRequest(workflow={}, images=images), folder)


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
