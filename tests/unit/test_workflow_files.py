"""Which files a prompt loads, and where they are found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from comfy_remote.workflow.files import FileUse, file_below, file_uses, find_file, missing_file
from comfy_remote.workflow.prompt import Prompt


def _loads(*names: object, kind: str = "LoadImage", key: str = "image") -> Prompt:
    return {str(i): {"class_type": kind, "inputs": {key: n}} for i, n in enumerate(names)}  # type: ignore[dict-item]


def test_files_in_the_order_of_the_nodes() -> None:
    prompt = _loads("b.png", "a.png") | _loads("x", kind="KSampler")
    prompt["9"] = {"class_type": "LoadAudio", "inputs": {"audio": "a.wav"}}
    del prompt["0"]
    prompt["0"] = {"class_type": "LoadVideo", "inputs": {"file": "v.mp4"}}
    assert list(file_uses(prompt)) == [
        FileUse("1", "image", "a.png"),
        FileUse("9", "audio", "a.wav"),
        FileUse("0", "file", "v.mp4"),
    ]


@pytest.mark.parametrize(
    "name", ["x.png [output]", "x.png [temp]", "blake3:abc", 3, None, ["4", 0]]
)
def test_the_targets_own_files_are_left_out(name: object) -> None:
    assert not list(file_uses(_loads(name)))


def test_the_annotation_input_is_no_part_of_the_name() -> None:
    assert [use.name for use in file_uses(_loads("a [b].png [input]"))] == ["a [b].png"]


def test_a_file_given_by_the_user_wins_then_the_folders_in_order(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there, there / "sub"):
        folder.mkdir()
        (folder / "x.png").write_bytes(b"")
    assert find_file("x.png", [], [here, there]) == here / "x.png"
    assert find_file("x.png", [there / "x.png"], [here]) == there / "x.png"
    assert find_file("any/x.png", [there / "x.png"], [here]) == there / "x.png"
    assert find_file("sub/x.png", [], [here, there]) == there / "sub" / "x.png"
    assert find_file("sub\\x.png", [], [here, there]) == there / "sub" / "x.png"
    assert find_file(str(there / "x.png"), [], [here]) == there / "x.png"
    assert find_file("y.png", [tmp_path / "y.png"], [here]) is None


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/", "a" * 5000, "data:image/png;base64," + "A" * 9999, "a\0b"]
)
def test_a_name_that_can_be_no_file_is_nowhere(tmp_path: Path, name: str) -> None:
    assert find_file(name, [], [tmp_path]) is None


def test_the_error_names_node_file_and_folders(tmp_path: Path) -> None:
    prompt = _loads("x.png")
    error = missing_file(FileUse("0", "image", "x.png"), prompt, [tmp_path])
    assert "LoadImage (node 0) loads 'x.png'" in error.message
    assert str(tmp_path) in error.message
    assert error.details == {"node_id": "0", "input": "image", "name": "x.png"}


def test_a_picture_in_place_of_a_name_does_not_fill_the_screen() -> None:
    use = FileUse("0", "image", "data:image/png;base64," + "A" * 99999)
    assert len(missing_file(use, _loads("x"), []).message) < 200


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_links_in_a_circle_are_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("b.png")
    (tmp_path / "b.png").symlink_to("a.png")
    assert file_below(tmp_path, "a.png") is None
