"""Temporary folders: whose process has ended goes with the next start, and nothing else."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from comfy_remote.media import temporary
from comfy_remote.media.temporary import ProcessLock, TemporaryFolder, remove_leftovers

KILLED = """
import os, signal, sys
from comfy_remote.media.temporary import TemporaryFolder
folder = TemporaryFolder("test")
open(os.path.join(folder.name, "large"), "w").close()
print(folder.name, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("TEMP", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def leftover() -> Path:
    """The folder of a process that was killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    assert remove_leftovers() == [], "its process lives"
    assert (folder / "large").exists()
    process.kill()
    process.communicate()
    return folder


def test_a_folder_goes_with_its_object() -> None:
    folder = TemporaryFolder("test")
    path = Path(folder.name)
    assert path.stat().st_mode & 0o077 == 0 or os.name == "nt"
    folder.cleanup()
    assert not path.exists()
    with TemporaryFolder("test") as name:
        (Path(name) / "x").touch()
    assert not Path(name).exists()


def test_a_folder_that_is_taken_for_a_leftover_is_left_to_who_removes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another process starts at this moment, and has its lock first: it removes all of it."""
    first, taken = list[Path](), list[ProcessLock]()

    def lock(path: Path) -> ProcessLock:
        if not taken:
            first.append(path.parent)
            taken.append(ProcessLock(path))
        return ProcessLock(path)

    monkeypatch.setattr(temporary, "ProcessLock", lock)
    folder = TemporaryFolder("test")
    assert first != [Path(folder.name)]
    assert remove_leftovers() == []
    assert Path(folder.name).is_dir()


def test_a_killed_processs_folder_goes_with_the_next_start() -> None:
    folder = leftover()
    assert remove_leftovers() == [folder]
    assert not folder.exists()


def test_own_folders_stay() -> None:
    with TemporaryFolder("test") as name:
        assert remove_leftovers() == []
        assert Path(name).exists()
        assert remove_leftovers() == [], "looking has not cost the lock"


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    (tmp_path / "comfy-remote-without-a-lock").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".lock").touch()
    (tmp_path / "comfy-remote-a-file").touch()
    assert remove_leftovers() == []
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.skipif(os.name == "nt", reason="makes links")
def test_links_are_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / ".lock").touch()
    (precious / "file").touch()
    (tmp_path / "comfy-remote-link").symlink_to(precious)
    linked_lock = tmp_path / "comfy-remote-linked-lock"
    linked_lock.mkdir()
    (linked_lock / ".lock").symlink_to(precious / ".lock")
    assert remove_leftovers() == []
    folder = leftover()
    (folder / "inside").symlink_to(precious)
    assert remove_leftovers() == [folder]
    assert (precious / "file").exists()


@pytest.mark.skipif(os.name == "nt", reason="users by number")
def test_another_users_folder_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = leftover()
    own = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: own + 1)
    assert remove_leftovers() == []
    monkeypatch.undo()
    assert folder.exists()


def test_a_folder_that_is_swept_while_it_is_made_is_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from comfy_remote.media import temporary

    real, swept = temporary.ProcessLock, []

    def beaten(path: Path) -> object:
        if not swept:
            swept.append(path)
            path.touch()
            assert remove_leftovers() == [path.parent]
        return real(path)

    monkeypatch.setattr(temporary, "ProcessLock", beaten)
    with TemporaryFolder("test") as name:
        assert (Path(name) / ".lock").exists()
        assert remove_leftovers() == []
    assert swept


def test_what_is_collected_is_removed() -> None:
    folder = TemporaryFolder("test")
    path = Path(folder.name)
    with pytest.warns(ResourceWarning):
        del folder
        gc.collect()
    assert not path.exists()
