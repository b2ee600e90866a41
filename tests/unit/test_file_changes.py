"""Names changed while another program looks at the files."""

from __future__ import annotations

import ast
import asyncio
import errno
import math
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from sharing import sharing_violations, violation

import comfy_remote
from comfy_remote.aio import in_thread
from comfy_remote.media.file_changes import (
    PATIENCE,
    discard,
    link_file,
    patiently,
    remove_file,
    rename_path,
    replace_file,
)
from comfy_remote.media.files import place, private_folder, sha256_of, take_name
from comfy_remote.media.temporary import TemporaryFolder

PACKAGE = Path(comfy_remote.__file__).parent


def two(folder: Path) -> tuple[Path, Path]:
    (folder / "a").write_bytes(b"new")
    return folder / "a", folder / "b"


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("change", [replace_file, rename_path, link_file])
def test_a_name_is_changed_once_the_file_is_let_go(
    change: Callable[[Path, Path], None], times: int, tmp_path: Path
) -> None:
    source, destination = two(tmp_path)
    with sharing_violations(times) as seen:
        change(source, destination)
    assert destination.read_bytes() == b"new"
    assert seen.refused.total() == times


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_file_is_removed_once_it_is_let_go(times: int, tmp_path: Path) -> None:
    path, missing = two(tmp_path)
    with sharing_violations(times):
        remove_file(path)
        remove_file(missing, missing_ok=True)
    assert not path.exists()
    with pytest.raises(FileNotFoundError):
        remove_file(path)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_folder_is_removed_however_many_of_its_files_are_in_use(
    times: int, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    for name in "abcdefghijkl":
        (folder / "deep" / name).mkdir(parents=True)
        (folder / name).write_bytes(b"")
    with sharing_violations(times) as seen:
        discard(folder)
    assert not folder.exists()
    assert len(seen.refused) == 12 + 12 + 2


def test_a_folder_with_read_only_files_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = os.unlink

    def as_on_windows(path: str, *, dir_fd: int | None = None) -> None:
        if not os.lstat(path, dir_fd=dir_fd).st_mode & stat.S_IWUSR:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        unlink(path, dir_fd=dir_fd)

    objects = tmp_path / "pack" / ".git" / "objects"
    objects.mkdir(parents=True)
    for name in "ab":
        (objects / name).write_bytes(b"")
        (objects / name).chmod(0o444)
    objects.chmod(0o555)  # and as elsewhere, for whoever is not root
    monkeypatch.setattr(os, "unlink", as_on_windows)
    discard(tmp_path / "pack")
    assert not (tmp_path / "pack").exists()


def test_it_waits_for_two_seconds_and_then_says_why() -> None:
    waits: list[float] = []

    def change() -> None:
        raise violation(5)

    with pytest.raises(PermissionError):
        patiently(change, sleep=waits.append)
    assert sum(waits) == pytest.approx(PATIENCE, abs=0.35)
    assert waits[0] <= 0.01  # most are over in some milliseconds
    assert max(waits) < 0.5


@pytest.mark.parametrize("winerror", [5, 32, 33])
def test_only_what_windows_says_of_files_in_use_is_waited_for(winerror: int) -> None:
    errors: list[OSError] = [violation(winerror)]

    def change() -> str:
        if errors:
            raise errors.pop()
        return "done"

    assert patiently(change, sleep=lambda _: None) == "done"
    for at_once in (
        PermissionError(errno.EACCES, "Permission denied"),  # of another system
        OSError(errno.ENOSPC, "No space left on device"),
        violation(112),  # Windows' own code for a full disk
    ):
        errors.append(at_once)
        with pytest.raises(OSError) as caught:
            patiently(change, sleep=lambda _: pytest.fail("it waited"))
        assert caught.value is at_once


async def test_an_event_loop_never_waits(tmp_path: Path) -> None:
    source, destination = two(tmp_path)
    with sharing_violations(1), pytest.raises(PermissionError):
        patiently(replace_file, source, destination, sleep=lambda _: pytest.fail("it waited"))
    with sharing_violations(1):
        await in_thread(replace_file, source, destination)
    assert destination.read_bytes() == b"new"


async def test_what_is_discarded_on_an_event_loop_goes_in_a_thread(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    two(tmp_path / "folder")
    with sharing_violations(4) as seen:
        discard(tmp_path / "folder")
        await asyncio.get_running_loop().shutdown_default_executor()  # as `asyncio.run` does
    assert not (tmp_path / "folder").exists()
    assert len(seen.on_the_loop) <= 2
    assert seen.refused.total() == 8  # of the file and of the folder


def test_what_cannot_be_discarded_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    held, free = tmp_path / "folder/held", tmp_path / "folder/free"
    held.write_bytes(b"")
    free.write_bytes(b"")
    with sharing_violations(math.inf, lambda change, path: path.name == "held"):
        discard(tmp_path / "folder", seconds=0)
        discard(held, seconds=0)
    assert held.exists()
    assert not free.exists()
    discard(tmp_path / "folder")
    discard(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize("times", [1, 2, 3])
def test_placing_and_temporary_folders_bear_it(times: int, tmp_path: Path) -> None:
    with sharing_violations(times), TemporaryFolder("test", tmp_path / "temp") as temporary:
        source, _ = two(Path(temporary))
        with private_folder(tmp_path / "out") as beside:
            (beside / "x").write_bytes(b"new")
            take_name(beside / "x", tmp_path / "out/x", sha256_of(beside / "x"))
        placed = place(source, tmp_path / "out/y.png", sha256_of(source))
    assert placed.read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["out", "temp", "x", "y.png"]


FUNCTIONS = {
    "os": {"link", "remove", "removedirs", "rename", "renames", "replace", "rmdir", "unlink"},
    "shutil": {"move", "rmtree"},
}
METHODS = {"hardlink_to", "rename", "rmdir", "unlink"}
WORDS = {".replace(", *FUNCTIONS["os"] - {"replace"}, *FUNCTIONS["shutil"], *METHODS}


def test_nobody_else_changes_a_name() -> None:
    found = []
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name != "file_changes.py" and any(word in text for word in WORDS):
            found += [f"{path.relative_to(PACKAGE)}:{n}" for n in _changes(ast.parse(text))]
    assert found == []


def _changes(tree: ast.Module) -> list[int]:
    lines = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        owner = node.value.id if isinstance(node.value, ast.Name) else ""
        if node.attr in FUNCTIONS.get(owner, METHODS):
            lines.append(node.lineno)
    # A text's `replace` has two arguments, a path's has one.
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
            one = len(call.args) == 1 and not call.keywords
            if call.func.attr == "replace" and one:
                lines.append(call.lineno)
    return lines


@pytest.mark.parametrize(
    "source",
    [
        "path.unlink(missing_ok=True)",
        "(folder / 'a').rename(b)",
        "os.replace(a, b)",
        "in_thread(os.rename, a, b)",
        "shutil.rmtree(folder)",
        "part.replace(path)",
    ],
)
def test_a_change_elsewhere_would_be_seen(source: str) -> None:
    assert _changes(ast.parse(source)) == [1]
