"""File names from elsewhere, and files written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from comfy_remote.errors import LocalStorageError
from comfy_remote.media import files
from comfy_remote.media.files import (
    OWN_DATA,
    fitting,
    folder_beside,
    place,
    place_below,
    private_folder,
    safe_relative_path,
    sha256_of,
    storage_errors,
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
        ("CONIN$", "", "_CONIN$"),
        ("nul .png", "", "_nul .png"),
        ("com¹", "", "_com¹"),
        ("aux", "prn ", "_prn/_aux"),
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


def test_a_copy_is_no_link_and_replaces_nothing(tmp_path: Path) -> None:
    """On Windows, a link has the access list of the folder that its file was made in."""
    source = tmp_path / "source"
    source.write_bytes(b"new")
    digest = sha256_of(source)
    (tmp_path / "x.png").write_bytes(b"old")
    path = place_below(source, tmp_path, safe_relative_path("x.png"), digest, link=False)
    assert (path.read_bytes(), (tmp_path / "x.png").read_bytes()) == (b"new", b"old")
    assert not path.samefile(source)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


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
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "link", no_links)
    monkeypatch.setattr(files.shutil, "copyfile", full)
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


FOLDER = PurePosixPath("/" + "f" * 99)  # 100 characters


@pytest.mark.parametrize(
    ("relative", "fits"),
    [
        ("a/x.png", "a/x.png"),
        ("x" * 110 + ".png", "x" * 110 + ".png"),  # 215, and 20 for a time
        ("x" * 116 + ".flac", "x" * 113 + ".flac"),
        ("d" * 100 + "/" + "x" * 90 + ".png", None),
        ("/".join(["folder" * 10] * 8) + "/x.png", None),
        ("a" * 120 + "/" + "b" * 120 + "/" + "c" * 120 + "/x_00001_.png", None),
    ],
)
def test_a_path_is_cut_to_what_windows_opens(relative: str, fits: str | None) -> None:
    folder = Path(FOLDER)
    cut = fitting(folder, PurePosixPath(relative), longest=239)
    assert fits is None or str(cut) == fits
    assert len(str(folder / cut)) + 20 <= 239
    assert cut.suffix == PurePosixPath(relative).suffix
    assert len(cut.parts) == len(PurePosixPath(relative).parts)
    assert safe_relative_path(str(cut)) == cut
    assert fitting(folder, PurePosixPath(relative), longest=None) == PurePosixPath(relative)


@pytest.mark.parametrize("name", ["constellation.webp", "printed.jpeg", "nullable.tiff"])
def test_what_is_cut_is_no_name_that_windows_reserves(name: str) -> None:
    for length in range(200, 259):
        cut = fitting(Path("/" + "f" * length), PurePosixPath(f"a/{name}"), longest=259)
        assert safe_relative_path(str(cut)) == cut, length


def test_a_folder_that_is_too_deep_is_said_and_not_a_reason_to_go_on_for_ever() -> None:
    folder = Path("/" + "/".join(["f" * 100] * 4))
    assert fitting(folder, PurePosixPath("a/picture.png"), longest=259).suffix == ".png"
    for number in (3, 206):
        error = FileNotFoundError(errno.ENOENT, "The system cannot find the path specified")
        error.winerror = number  # type: ignore[attr-defined]
        with (
            pytest.raises(LocalStorageError, match="too long") as caught,
            storage_errors(folder / "picture.png"),
        ):
            raise error
        assert str(len(str(folder / "picture.png"))) in caught.value.message
        with pytest.raises(LocalStorageError, match="cannot find"), storage_errors(Path("x.png")):
            raise error


def test_a_name_that_the_disk_does_not_take_is_said(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 300)
    with pytest.raises(LocalStorageError, match="too long for this system"), storage_errors(path):
        path.write_bytes(b"")


@pytest.mark.parametrize("windows", [False, True])
def test_no_private_access_list_travels_with_what_is_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, windows: bool
) -> None:
    """Since Python 3.12.4, a mode of 0700 becomes one on Windows; no other mode does."""
    modes = []
    mkdir = os.mkdir

    def noting(path: str, mode: int = 0o777, **options: Any) -> None:
        modes.append(mode)
        mkdir(path, mode, **options)

    monkeypatch.setattr(os, "mkdir", noting)
    made = folder_beside(tmp_path, "private", windows=windows)
    assert made == folder_beside(tmp_path, "private", windows=windows)
    assert made.is_dir()
    assert set(modes) == {0o777 if windows else 0o700}


@pytest.mark.parametrize(
    ("denied", "words"), [(None, "fetch its outputs"), (OWN_DATA, "COMFY_REMOTE_HOME")]
)
def test_a_full_disk_is_advised_on_by_what_was_to_be_written(
    tmp_path: Path, denied: str | None, words: str
) -> None:
    with (
        pytest.raises(LocalStorageError, match="is full") as raised,
        storage_errors(tmp_path / "x", denied=denied),
    ):
        raise OSError(errno.ENOSPC, "no space")
    assert words in raised.value.advice
