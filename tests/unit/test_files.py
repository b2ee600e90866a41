"""File names from elsewhere, and files written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from comfy_remote.errors import LocalStorageError
from comfy_remote.media import files
from comfy_remote.media.files import (
    place,
    place_below,
    private_folder,
    safe_relative_path,
    sha256_of,
    write_whole,
)


@given(st.text(max_size=300), st.text(max_size=300))
@example("../../x.png", "")
@example("x.png", "../..")
@example("/etc/passwd", "")
@example("C:\\Windows\\x.dll", "")
@example("\\\\server\\share\\x", "..\\..")
@example("NUL", "con")
@example("a.png.", " . ")
@example("x.png:stream", "")
@example("\u202egnp.exe", "")
@example("0", "0.\U00018cd6")
@example("", "")
@example("", "\ud7fc 0")
@example(".env", ".git")
@example("CON .txt", "com¹")
@example("\ud800.png", "\udfff")
def test_a_safe_path_stays_below_its_folder_on_every_platform(name: str, subfolder: str) -> None:
    path = safe_relative_path(name, subfolder)
    assert not path.is_absolute()
    assert path.parts
    for part in path.parts:
        assert part not in ("", ".", "..")
        assert not set(part) & set('<>:"|?*\\/\x00\n')
        assert not part.endswith((".", " "))
        assert not part.startswith(".")
        part.encode()
        assert part.isprintable()
        assert len(part) <= 121
    on_windows = PureWindowsPath("C:/out") / str(path)
    assert on_windows.is_relative_to("C:/out")
    assert not PureWindowsPath(str(path)).is_reserved()
    assert safe_relative_path(str(path)) == path


@pytest.mark.parametrize(
    ("name", "subfolder", "expected"),
    [
        ("x_00001_.png", "", "x_00001_.png"),
        ("x.png", "a/b", "a/b/x.png"),
        ("x.png", "a\\b", "a/b/x.png"),
        ("../../x.png", "", "x.png"),
        ("Größe 日本.png", "", "Größe 日本.png"),
        ("..", "", "output"),
        ("..", "sub", "sub/output"),
        ("nul.png", "", "_nul.png"),
        (".env", "", "_.env"),
        ("x.png", ".git/hooks", "_.git/hooks/x.png"),
        (".\u200benv", "", "_.env"),
        ("comfy-remote.toml", "", "_comfy-remote.toml"),
        ("Comfy-Remote.TOML", "a", "a/_Comfy-Remote.TOML"),
        ("desktop.ini", "", "_desktop.ini"),
        ("CON .txt", "", "_CON .txt"),
        ("com¹.png", "LPT9", "_LPT9/_com¹.png"),
        ("CONOUT$", "", "_CONOUT$"),
        ("a.env", "..x", "_..x/a.env"),
    ],
)
def test_ordinary_names_are_kept(name: str, subfolder: str, expected: str) -> None:
    assert str(safe_relative_path(name, subfolder)) == expected


def _file(path: Path, content: bytes) -> tuple[Path, str]:
    path.write_bytes(content)
    return path, hashlib.sha256(content).hexdigest()


def test_place_makes_folders_and_is_private(tmp_path: Path) -> None:
    source, digest = _file(tmp_path / "part", b"picture")
    placed = place(source, tmp_path / "out" / "sub" / "x.png", digest)
    assert placed.read_bytes() == b"picture"
    assert sha256_of(placed) == digest
    if os.name == "posix":
        assert stat.S_IMODE(placed.stat().st_mode) == 0o600


def test_place_never_replaces_another_content(tmp_path: Path) -> None:
    mine = tmp_path / "x.png"
    mine.write_bytes(b"mine")
    source, digest = _file(tmp_path / "part", b"new")
    first = place(source, mine, digest)
    assert mine.read_bytes() == b"mine"
    assert first != mine
    assert first.read_bytes() == b"new"
    other, other_digest = _file(tmp_path / "part2", b"newer")
    second = place(other, mine, other_digest)
    assert len({mine, first, second}) == 3


def test_place_recognises_the_same_content(tmp_path: Path) -> None:
    source, digest = _file(tmp_path / "part", b"same")
    first = place(source, tmp_path / "x.png", digest)
    assert place(source, tmp_path / "x.png", digest) == first
    assert len(list(tmp_path.glob("x*"))) == 1


@pytest.mark.parametrize("subfolder", ["link", "link/deeper", "real/link", "gone"])
def test_a_name_from_elsewhere_does_not_follow_links_out(tmp_path: Path, subfolder: str) -> None:
    outside, out = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    (out / "real").mkdir(parents=True)
    (out / "link").symlink_to(outside)
    (out / "real" / "link").symlink_to("../../outside")
    (out / "gone").symlink_to(tmp_path / "not-yet")
    source, digest = _file(tmp_path / "part", b"new")
    with pytest.raises(LocalStorageError, match="leads out"):
        place_below(source, out, safe_relative_path("x.desktop", subfolder), digest)
    assert list(outside.iterdir()) == []
    assert not (tmp_path / "not-yet").exists()


def test_the_users_own_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk" / "b").mkdir(parents=True)
    (tmp_path / "disk" / "a").symlink_to("b")
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    source, digest = _file(tmp_path / "part", b"new")
    place_below(source, tmp_path / "out", safe_relative_path("x.png", "a"), digest)
    assert (tmp_path / "disk" / "b" / "x.png").read_bytes() == b"new"


def test_place_copies_where_links_are_not_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(files.os, "link", no_links)
    source, digest = _file(tmp_path / "part", b"exfat")
    (tmp_path / "out").mkdir()
    placed = place(source, tmp_path / "out" / "x.png", digest)
    assert placed.read_bytes() == b"exfat"
    other, other_digest = _file(tmp_path / "part2", b"other")
    assert place(other, placed, other_digest) != placed
    assert placed.read_bytes() == b"exfat"
    assert not list((tmp_path / "out").glob(".comfy-remote-*"))


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "link", no_links)
    monkeypatch.setattr(files.shutil, "copyfileobj", full)
    source, digest = _file(tmp_path / "part", b"big")
    with pytest.raises(LocalStorageError, match="full"):
        place(source, tmp_path / "out" / "x.png", digest)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_private_folder_is_gone_afterwards(tmp_path: Path) -> None:
    with private_folder(tmp_path / "new") as folder:
        (folder / "x").write_bytes(b"x")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_error_with_advice(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(LocalStorageError, match="could not be written"),
        private_folder(tmp_path / "file"),
    ):
        pass


def test_a_small_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new/a.json"
    write_whole(path, b"before")
    write_whole(path, b"{}\n")
    assert path.read_bytes() == b"{}\n"
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write_whole(path, b"after")
    assert [one.name for one in path.parent.iterdir()] == ["a.json"]
    assert path.read_bytes() == b"{}\n"
