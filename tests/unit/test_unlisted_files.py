"""Files that a job wrote and no node told of, found where the engine's folders are ours."""

from __future__ import annotations

import os
import time
from pathlib import Path

from comfy_remote.outputs import RemoteOutput
from comfy_remote.targets.engine_files import NodeTimes, unlisted_files

PROMPT = {
    "1": {"class_type": "EmptyImage", "inputs": {}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
    "3": {"class_type": "SaveImageDataSetToFolder", "inputs": {"images": ["1", 0]}},
}
TOLD = RemoteOutput("2", "image", "told.png", subfolder="sub")


def write(folder: Path, name: str, at: float, content: bytes = b"x") -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (at, at))


def test_what_is_new_and_not_told_is_the_silent_nodes(tmp_path: Path) -> None:
    now = time.time()
    write(tmp_path, "sub/told.png", now)
    write(tmp_path, "dataset/image_00001.png", now)
    write(tmp_path, "dataset/image_00000.png", now)
    write(tmp_path, "old.png", now - 60)
    write(tmp_path, ".hidden/cache", now)
    write(tmp_path, ".dot", now)
    write(tmp_path, "empty.txt", now, b"")
    found = unlisted_files(tmp_path, now - 1, PROMPT, [TOLD], NodeTimes())
    assert [(one.node_id, one.subfolder, one.filename) for one in found] == [
        ("3", "dataset", "image_00000.png"),
        ("3", "dataset", "image_00001.png"),
    ]
    assert found[0].source is not None
    assert found[0].source.path == "view?filename=image_00000.png&subfolder=dataset&type=output"


def test_a_link_out_of_the_folder_is_no_output(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    folder = tmp_path / "output"
    folder.mkdir()
    (folder / "link.png").symlink_to(secret)
    assert unlisted_files(folder, 0.0, PROMPT, [], NodeTimes()) == []


def test_of_several_silent_nodes_it_is_the_one_that_ran(tmp_path: Path) -> None:
    prompt = {**PROMPT, "4": PROMPT["3"]}
    now = time.time()
    times = NodeTimes()
    for node_id, began in (("1", now), ("3", now + 1), ("4", now + 2)):
        times.running(node_id, began)
    for name, at in (("of_3.png", now + 1.5), ("of_4.png", now + 2.5)):
        write(tmp_path, name, at)
    found = unlisted_files(tmp_path, now, prompt, [TOLD], times)
    assert [(one.node_id, one.filename) for one in found] == [
        ("3", "of_3.png"),
        ("4", "of_4.png"),
    ]
    nobody = unlisted_files(tmp_path, now, prompt, [TOLD], NodeTimes())
    assert [one.node_id for one in nobody] == [None, None]
