"""The manifest of a batch: whole lines, also by several threads, and one for each run."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from comfy_remote.batch.manifest import ManifestWriter, RunLine, read_manifest
from comfy_remote.errors import LocalStorageError


def line(row: int, attempt: int = 1, state: str = "succeeded") -> RunLine:
    return RunLine(row, f"{row:04}", state, attempt, {"prompt": "ä" * 200}, "fake")


def changed(**values: object) -> bytes:
    return json.dumps({**line(7).to_json(), **values}).encode() + b"\n"


def test_lines_of_several_threads_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    writer = ManifestWriter(path)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(writer.add, map(line, range(80))))
    assert sorted(json.loads(text)["row"] for text in path.read_text("utf-8").splitlines()) == [
        *range(80)
    ]


def test_the_newest_line_of_a_row_counts_and_others_go(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    writer = ManifestWriter(path)
    for one in (line(0), line(1, state="failed"), line(2), line(1, 2)):
        writer.add(one)
    assert read_manifest(path)[1].attempt == 2
    writer.tidy()
    assert [json.loads(text)["row"] for text in path.read_text("utf-8").splitlines()] == [0, 2, 1]


@pytest.mark.parametrize(
    "rest",
    [
        *(b"", b"{", b"\xff\xfe", b"[]\n", b"null\n", b'{"row": -1}\n', b'{"row": "7"}\n'),
        b"[" * 100_000 + b"\n",
        changed(state="begun"),
        changed(values=None),
        changed(outputs=["a.png"]),
        changed(outputs=[{"file": None}]),
        changed(attempt="1"),
        changed(error="no"),
    ],
)
def test_what_is_no_line_is_left_out(tmp_path: Path, rest: bytes) -> None:
    path = tmp_path / "manifest.jsonl"
    ManifestWriter(path).add(line(3))
    path.write_bytes(path.read_bytes() + rest)
    assert list(read_manifest(path)) == [3]
    ManifestWriter(path).add(line(4))
    assert list(read_manifest(path)) == [3, 4]
    assert len(path.read_bytes().splitlines()) == 2


def test_there_is_none_yet(tmp_path: Path) -> None:
    assert read_manifest(tmp_path / "manifest.jsonl") == {}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
def test_a_full_disk_leaves_no_part_of_a_line(tmp_path: Path) -> None:
    import resource

    path = tmp_path / "manifest.jsonl"
    writer = ManifestWriter(path)
    writer.add(line(0))
    whole = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 20, limits[1]))
    try:
        with pytest.raises(LocalStorageError):
            writer.add(line(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == whole
    writer.add(line(1))
    assert list(read_manifest(path)) == [0, 1]
