"""Folders with a limit: how much room there is, without walking through them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from comfy_remote.errors import RateLimited
from comfy_remote.media.limited_folder import LimitedFolder


def test_what_is_added_is_counted_along(tmp_path: Path) -> None:
    (tmp_path / "before").write_bytes(b"x" * 40)
    folder = LimitedFolder(tmp_path, 100)
    assert folder.left() == 60
    (tmp_path / "unannounced").write_bytes(b"x" * 40)
    assert folder.left() == 60  # the folder is not walked through again
    folder.added(20)
    assert folder.left() == 40


def test_it_is_counted_again_before_anybody_is_refused(tmp_path: Path) -> None:
    folder = LimitedFolder(tmp_path, 100)
    assert folder.left() == 100
    folder.added(100)  # in place of an equal file, say
    folder.check_room(100)
    (tmp_path / "whole").write_bytes(b"x" * 100)
    folder.added(100)
    with pytest.raises(RateLimited):
        folder.check_room()


def test_a_sweep_removes_what_is_old_and_makes_room(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for path in (old, new):
        path.write_bytes(b"x" * 50)
    os.utime(old, (time.time() - 100, time.time() - 100))
    folder = LimitedFolder(tmp_path, 100)
    assert folder.left() == 0
    folder.sweep(60.0)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert folder.left() == 50
