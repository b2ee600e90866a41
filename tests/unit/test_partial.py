"""The folder of what is being fetched: found again, never shared, gone when all is here."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from comfy_remote.errors import LocalStorageError, OutputLost, TargetUnreachable
from comfy_remote.media.partial import partial_folder


@pytest.mark.parametrize("end", [TargetUnreachable("x"), asyncio.CancelledError()])
def test_what_was_interrupted_is_found_again(tmp_path: Path, end: BaseException) -> None:
    with pytest.raises(type(end)), partial_folder(tmp_path / "out", "job-1") as folder:
        (folder / "0.part").write_bytes(b"half")
        raise end
    with partial_folder(tmp_path / "out", "job-2") as other:
        assert not (other / "0.part").exists()
    with partial_folder(tmp_path / "out", "job-1") as again:
        assert (again / "0.part").read_bytes() == b"half"
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("end", [OutputLost("x"), ZeroDivisionError()])
def test_what_nobody_will_go_on_with_is_removed(tmp_path: Path, end: Exception) -> None:
    with pytest.raises(type(end)), partial_folder(tmp_path, "job") as folder:
        (folder / "0.part").write_bytes(b"half")
        raise end
    assert list(tmp_path.iterdir()) == []


def test_an_empty_one_does_not_stay(tmp_path: Path) -> None:
    with pytest.raises(TargetUnreachable), partial_folder(tmp_path, "job"):
        raise TargetUnreachable("x")
    assert list(tmp_path.iterdir()) == []


def test_two_at_once_do_not_share_it(tmp_path: Path) -> None:
    with partial_folder(tmp_path, "job") as first:
        with partial_folder(tmp_path, "job") as second:
            assert second != first
            assert second.parent == tmp_path
        assert first.is_dir()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "C:\\x", "..", "x\x00y"])
def test_a_name_from_elsewhere_stays_inside(tmp_path: Path, name: str) -> None:
    with partial_folder(tmp_path, name) as folder:
        assert folder.parent == tmp_path


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LocalStorageError), partial_folder(tmp_path / "file", "job"):
        pass
