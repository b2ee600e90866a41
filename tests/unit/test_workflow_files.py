"""Which files a prompt loads, and where they are found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from lookups import record_lookups

from comfy_remote.workflow.check import check_prompt
from comfy_remote.workflow.files import (
    FileSearch,
    FileUse,
    every_file_use,
    file_below,
    file_uses,
    missing_file,
    with_names,
)
from comfy_remote.workflow.prompt import Prompt
from comfy_remote.workflow.schema import Schemas
from comfy_remote.workflow.summary import LocalFile, summarize


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


def test_of_given_files_with_one_name_the_one_in_those_folders_is_meant(tmp_path: Path) -> None:
    paths = [tmp_path / one for one in ("b/1.png", "x/a/1.png", "a/1.png")]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.touch()
    search = FileSearch(tuple(paths))
    assert search.find("1.png") == paths[0]
    assert search.find("x\\a\\1.png") == paths[1]
    assert search.find("a/1.png") == paths[1]  # both are; the one given first
    assert search.find("c/1.png") == paths[0]


@pytest.mark.parametrize(
    "name", ["x.png [output]", "x.png [temp]", "blake3:abc", 3, None, ["4", 0]]
)
def test_the_targets_own_files_are_left_out(name: object) -> None:
    assert not list(file_uses(_loads(name)))


def test_the_annotation_input_is_no_part_of_the_name() -> None:
    assert [use.name for use in file_uses(_loads("a [b].png [input]"))] == ["a [b].png"]


def test_a_file_given_by_the_user_wins_then_the_folders_in_order(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there, there / "sub", there / "input"):
        folder.mkdir()
        (folder / "x.png").write_bytes(b"")
    (there / "input" / "z.png").write_bytes(b"")
    both = FileSearch(roots=(here, there))
    given = FileSearch((there / "x.png",), (here,))
    assert both.find("x.png") == here / "x.png"
    assert given.find("x.png") == there / "x.png"
    assert given.find("any/x.png") == there / "x.png"
    assert both.find("sub/x.png") == there / "sub" / "x.png"
    assert both.find("sub\\x.png") == there / "sub" / "x.png"
    assert both.find("z.png") == there / "input" / "z.png"
    assert FileSearch((tmp_path / "y.png",), (here,)).find("y.png") is None


@pytest.mark.parametrize("name", ["", ".", "a" * 5000, "data:image/png;base64," + "A" * 9999])
def test_a_name_that_can_be_no_file_is_nowhere(tmp_path: Path, name: str) -> None:
    search = FileSearch(roots=(tmp_path,))
    assert search.find(name) is None
    assert search.refusal(name) is None


def test_a_workflow_takes_files_of_its_folder_only_and_the_user_others(tmp_path: Path) -> None:
    folder, secret = tmp_path / "cloned", tmp_path / "secret.png"
    (folder / ".hidden").mkdir(parents=True)
    for path in (secret, folder / ".env", folder / ".hidden" / "a.png"):
        path.write_bytes(b"secret")
    search = FileSearch(roots=(folder,))
    for name in ("../secret.png", "sub/../../secret.png", "..\\secret.png", str(secret)):
        assert search.find(name) is None
        assert (
            search.refusal(name)
            == "which is not below the folder of the workflow or the current one"
        )
        assert FileSearch((secret,), (folder,)).find(name) == secret
    for name in (".env", ".hidden/a.png"):
        assert search.find(name) is None
        assert "hidden" in (search.refusal(name) or "")


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_links_may_lead_anywhere_within_the_folder_and_not_out_of_it(tmp_path: Path) -> None:
    folder, outside = tmp_path / "cloned", tmp_path / "outside"
    (folder / "sub").mkdir(parents=True)
    outside.mkdir()
    (outside / "a.png").write_bytes(b"secret")
    (folder / "sub" / "b.png").write_bytes(b"ours")
    (folder / "input").symlink_to(outside)
    (folder / "link.png").symlink_to(outside / "a.png")
    (folder / "fine.png").symlink_to("sub/b.png")
    search = FileSearch(roots=(folder,))
    assert search.find("fine.png") == folder / "sub" / "b.png"
    for name in ("link.png", "a.png"):
        assert search.find(name) is None
        assert search.refusal(name) == f"which is a link that leads out of {folder}"


ELSEWHERE = [
    "\\\\host\\share\\a.png",
    "//host/share/a.png",
    "\\/host/share/a.png",
    " //host/share/a.png",
    "\\\\?\\UNC\\host\\share\\a.png",
    "\\\\?\\C:\\a.png",
    "\\\\.\\pipe\\a",
    "//./PhysicalDrive0",
    "C:a.png",
    "C:\\pictures\\a.png",
    "z:/a.png",
    "\\a.png",
    "/net/host/a.png",
    "sub/../../a.png",
    "a\0b",
]


@pytest.mark.parametrize("name", ELSEWHERE)
@pytest.mark.parametrize("annotation", ["", " [input]"])
def test_names_of_other_machines_and_drives_are_never_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, annotation: str
) -> None:
    asked = record_lookups(monkeypatch)
    prompt = _loads(name + annotation)
    [use] = file_uses(prompt)
    search = FileSearch.beside(tmp_path)
    asked.clear()
    assert search.find(use.name) is None
    assert search.refusal(use.name) is not None
    assert file_below(tmp_path, use.name) is None
    check_prompt(prompt, Schemas.bundled(), files=search)
    error = missing_file(use, prompt, search)
    assert not [path for path in asked if Path(path) != tmp_path]
    assert error.advice == "Name it with inputs=[FILE]."
    search.find("a.png")
    assert str(tmp_path / "a.png") in asked


def test_the_error_names_node_file_and_folders(tmp_path: Path) -> None:
    prompt = _loads("x.png")
    search = FileSearch(roots=(tmp_path,))
    error = missing_file(FileUse("0", "image", "x.png"), prompt, search)
    assert "LoadImage (node 0) loads 'x.png', which is not here" in error.message
    assert str(tmp_path) in error.message
    assert error.advice == "Put it there, or name it with inputs=[FILE]."
    assert error.details == {"node_id": "0", "input": "image", "name": "x.png"}


def test_a_picture_in_place_of_a_name_does_not_fill_the_screen() -> None:
    use = FileUse("0", "image", "data:image/png;base64," + "A" * 99999)
    assert len(missing_file(use, _loads("x"), FileSearch()).message) < 200


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_links_in_a_cycle_are_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("b.png")
    (tmp_path / "b.png").symlink_to("a.png")
    assert file_below(tmp_path, "a.png") is None


# --- nodes of packs ------------------------------------------------------------------------

PACK = Schemas(
    {
        "PackLoader": {
            "input": {
                "required": {
                    "image": [["there.png"], {"image_upload": True}],
                    "clip": ["STRING", {"video_upload": True}],
                    "several": ["COMBO", {"options": [], "file_upload": True, "multiselect": True}],
                    "saved": ["COMBO", {"image_upload": True, "image_folder": "output"}],
                    "source": [
                        "COMFY_DYNAMICCOMBO_V3",
                        {"options": [{"key": "file", "inputs": {"required": {
                            "sound": [[], {"audio_upload": True}]}}}]},
                    ],
                },
                "optional": {
                    "model": [["m.safetensors"]],
                    "off": [[], {"image_upload": False}],
                    "folder": [[], {"folder_upload": True}],
                },
            }
        }
    },
    "the pack",
)  # fmt: skip


def _pack(**inputs: object) -> Prompt:
    return {"1": {"class_type": "PackLoader", "inputs": inputs}}  # type: ignore[typeddict-item]


def test_an_input_that_takes_an_uploaded_file_names_a_file() -> None:
    prompt = _pack(
        image="there.png",
        clip="clips/a.mp4 [input]",
        several={"__value__": ["b.glb", "c.glb"]},
        saved="d.png",
        source="file",
        **{"source.sound": "e.wav"},
        model="m.safetensors",
        off="f.png",
        folder="g.png",
    )
    uses = list(every_file_use(prompt, PACK))
    assert [(use.input, use.name, use.folder) for use in uses] == [
        ("image", "there.png", "input"),
        ("clip", "clips/a.mp4", "input"),
        ("several", "b.glb", "input"),
        ("several", "c.glb", "input"),
        ("saved", "d.png", "output"),
        ("source.sound", "e.wav", "input"),
    ]
    assert [use.on_target for use in uses] == [True, False, False, False, False, False]
    renamed = with_names(prompt, {uses[1]: "x.mp4", uses[3]: "y.glb"})["1"]["inputs"]
    assert (renamed["clip"], renamed["several"]) == ("x.mp4", {"__value__": ["b.glb", "y.glb"]})
    assert list(every_file_use(_pack(image=["4", 0], clip="", several=["4", 0]), PACK)) == []
    for value in ("https://example.com/a.png", "data:image/png;base64,AAAA", "a\nb.png"):
        assert list(every_file_use(_pack(image=value), PACK)) == []
    assert list(every_file_use(prompt)) == []


def test_the_uploads_of_comfyuis_own_nodes_are_known_without_schemas() -> None:
    """So a run need not ask for them."""
    schemas = Schemas.bundled()
    for kind in schemas:
        document = schemas.document(kind) or {}
        for group in (document.get("input") or {}).values():  # type: ignore[union-attr]
            for name in group if isinstance(group, dict) else ():
                prompt: Prompt = {"1": {"class_type": kind, "inputs": {name: "a.png"}}}
                by_schema = {use.input for use in every_file_use(prompt, schemas)}
                assert by_schema == {use.input for use in every_file_use(prompt)}, kind


def test_the_check_names_files_of_nodes_of_packs(tmp_path: Path) -> None:
    prompt = _pack(image="gone.png", clip="here.mp4", several=[], source="file", saved="x")
    (tmp_path / "here.mp4").touch()
    report = check_prompt(prompt, PACK, files=FileSearch(roots=(tmp_path,)))
    missing = [problem.input for problem in report.problems if problem.code == "missing_file"]
    # Nodes without an output do not run, and so load nothing.
    assert missing == []
    prompt["2"] = {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}}
    report = check_prompt(prompt, PACK, files=FileSearch(roots=(tmp_path,)))
    missing = [problem.input for problem in report.problems if problem.code == "missing_file"]
    assert missing == ["image"]
    found = {"here.mp4": LocalFile(tmp_path / "here.mp4", 0, "5" * 64)}
    summary = summarize(prompt, schemas=PACK, files=found)
    assert [(one.name, one.file is not None) for one in summary.files] == [
        ("gone.png", False),
        ("here.mp4", True),
    ]


def test_captures_of_a_3d_node_are_files() -> None:
    image = {"image": "3d/a.png [temp]", "mask": "3d/m.png", "recording": "", "camera_info": {}}
    prompt: Prompt = {
        "1": {"class_type": "Load3D", "inputs": {"model_file": "none", "image": image}}  # type: ignore[dict-item]
    }
    assert list(every_file_use(prompt)) == [
        FileUse("1", "image", "3d/a.png", "temp"),
        FileUse("1", "image", "3d/m.png"),
    ]
