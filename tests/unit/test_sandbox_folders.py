"""Names from prompts become paths, and never paths elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_remote.sandbox.folders import Folders, PathOutsideFolder


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    folders = Folders(tmp_path)
    folders.create()
    return folders


def test_annotations_choose_the_folder(folders: Folders) -> None:
    root = folders.root.resolve()
    assert folders.input_path("a.png") == root / "input/a.png"
    assert folders.input_path("a.png [output]") == root / "output/a.png"
    assert folders.input_path("sub/a [1].png [temp]") == root / "temp/sub/a [1].png"


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "x\0y", "../../x [output]"])
def test_names_outside_are_refused(folders: Folders, name: str) -> None:
    with pytest.raises(PathOutsideFolder):
        folders.input_path(name)


def test_links_that_lead_outside_are_refused(folders: Folders, tmp_path: Path) -> None:
    try:
        (folders.root / "input/way_out").symlink_to(tmp_path.parent)
    except OSError:
        pytest.skip("this system does not let us make links")
    with pytest.raises(PathOutsideFolder):
        folders.input_path("way_out/secret.txt")


@given(name=st.text(st.sampled_from("./\\a:~ []\0"), max_size=12))
def test_a_name_is_inside_or_refused(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    folders = Folders(tmp_path_factory.getbasetemp())
    try:
        path = folders.input_path(name)
    except PathOutsideFolder:
        return
    assert path.is_relative_to(folders.root.resolve())


def test_counters_go_on_after_the_highest(folders: Folders) -> None:
    output = folders.root / "output"
    assert folders.save_location(output, "x", 1, 1).counter == 1
    for name in ("x_00004_.png", "x_00011_.webp", "xy_00050_.png", "x_abc_.png", "x_y_00099_.png"):
        (output / name).touch()
    assert folders.save_location(output, "x", 1, 1).counter == 12


def test_prefixes_have_folders_and_variables(folders: Folders) -> None:
    place = folders.save_location(folders.root / "output", "a/b/%width%x%height%", 640, 480)
    assert (place.subfolder, place.name) == ("a/b", "640x480")
    assert place.directory.is_dir()


@pytest.mark.parametrize("prefix", ["../x", "/x/y", "a/../../x", "..", "."])
def test_prefixes_outside_are_refused(folders: Folders, prefix: str) -> None:
    with pytest.raises(PathOutsideFolder):
        folders.save_location(folders.root / "output", prefix, 1, 1)


@pytest.mark.parametrize("name", ["//host/share/a.png", "\\\\host\\share\\a.png", "\\\\.\\pipe\\a"])
def test_the_path_of_another_machine_is_refused_before_it_is_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    asked: list[object] = []
    monkeypatch.setattr("os.path.realpath", lambda path, **_: asked.append(path))
    folders = Folders(tmp_path)
    with pytest.raises(PathOutsideFolder):
        folders.input_path(name)
    with pytest.raises(PathOutsideFolder):
        folders.inside(tmp_path, "sub", name)
    assert asked == []
