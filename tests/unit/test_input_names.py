"""Files are named by their content in an engine, and as the user named them everywhere else."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from fake_target import FakeTarget
from hypothesis import given
from hypothesis import strategies as st

from comfy_remote.errors import ExecutionFailed, InputFileMissing
from comfy_remote.events import Finished, JobState, Log, NodeText, OutputReady, Progress, Shown
from comfy_remote.jobs.inputs import SearchedFolders, collect_inputs
from comfy_remote.media.content_names import content_name, split_content_name, with_plain_names
from comfy_remote.media.files import safe_relative_path
from comfy_remote.media.remote_values import value_file_name
from comfy_remote.outputs import RemoteOutput
from comfy_remote.targets.base import InputFile, RunRequest
from comfy_remote.targets.input_names import UsersNames, by_content
from comfy_remote.workflow.files import FileSearch, FileUse, every_file_use
from comfy_remote.workflow.prompt import Prompt

RED, BLUE = (hashlib.sha256(one).hexdigest() for one in (b"red", b"blue"))
NAMES = st.lists(st.text(min_size=1, max_size=300), min_size=1, max_size=3)


def test_the_name_keeps_folder_stem_and_ending() -> None:
    assert content_name("a.png", RED) == f"a_{RED[:12]}.png"
    assert content_name("masks/my face.tar.gz", RED) == f"masks/my face.tar_{RED[:12]}.gz"
    assert content_name("noending", RED) == f"noending_{RED[:12]}"
    assert split_content_name(f"masks/a_{RED[:12]}.png") == ("masks/a.png", RED[:12])
    assert split_content_name("a_123.png") is None
    assert content_name(value_file_name(RED), RED) == value_file_name(RED)


@given(parts=NAMES)
def test_any_name_stays_one_that_every_file_system_takes(parts: list[str]) -> None:
    name = str(safe_relative_path("/".join(parts)))
    named = content_name(name, RED)
    assert str(safe_relative_path(named)) == named
    assert max(len(part.encode()) for part in named.split("/")) <= max(
        240, *(len(part.encode()) for part in name.split("/")[:-1]), 0
    )
    assert content_name(named, RED) == named
    assert content_name(name, BLUE) != named
    assert with_plain_names(f"'{named}' is damaged", [name]) == f"'{name}' is damaged"


def _prompt(**inputs: Any) -> Any:
    return {"1": {"class_type": "Any", "inputs": inputs}, "2": {"class_type": "B", "inputs": {}}}


def _file(name: str, sha256: str = RED, *places: tuple[str, str]) -> InputFile:
    return InputFile(name, Path(name), 3, sha256, places)


def test_every_value_that_is_the_name_changes_with_it() -> None:
    red = f"sub/a_{RED[:12]}.png"
    prompt = _prompt(
        image="sub/a.png",
        windows="sub\\a.png",
        long="sub/a.png [input]",
        several=["sub/a.png", "b.png"],
        captured={"image": "sub/a.png [input]", "mask": "", "camera": [1, 2]},
        output="sub/a.png [output]",
        text="a picture of sub/a.png",
        link=["2", 0],
    )
    request = by_content(RunRequest("id", prompt, [_file("sub/a.png")]))
    assert [file.name for file in request.files] == [red]
    assert request.prompt["1"]["inputs"] == {
        "image": red,
        "windows": red,
        "long": red,
        "several": [red, "b.png"],
        "captured": {"image": red, "mask": "", "camera": [1, 2]},
        "output": "sub/a.png [output]",
        "text": "a picture of sub/a.png",
        "link": ["2", 0],
    }
    assert prompt["1"]["inputs"]["image"] == "sub/a.png"
    assert by_content(request) == request


def test_only_the_inputs_that_name_a_file_change_where_they_are_known() -> None:
    prompt = _prompt(image="a.png", filename_prefix="a.png")
    [inputs] = [
        by_content(RunRequest("id", prompt, [_file("a.png", RED, ("1", "image"))])).prompt["1"][
            "inputs"
        ]
    ]
    assert inputs == {"image": f"a_{RED[:12]}.png", "filename_prefix": "a.png"}


def test_a_file_that_nothing_names_keeps_its_name() -> None:
    """A node may look for it by a path of its own."""
    request = RunRequest("id", _prompt(path="/comfyui/input/a.png"), [_file("a.png")])
    assert by_content(request) == request


def test_names_in_one_folder_for_a_worker_that_makes_none() -> None:
    pasted, model = f"a_{RED[:12]}.png", f"3d/a_{RED[:12]}.glb"
    values = f"comfy_remote/{RED}.safetensors"
    prompt = _prompt(
        pasted="pasted/a.png",
        clip="clipspace/a.png",  # the same file
        before=f"clipspace/b_{RED[:12]}.png",  # named by content already
        model="3d/a.glb",  # ComfyUI's nodes for these list that folder alone
        values=values,
    )
    names = [str(name) for name in prompt["1"]["inputs"].values()]
    request = RunRequest("id", prompt, [_file(name) for name in names])
    sent = by_content(request, in_one_folder=True)
    assert list(sent.prompt["1"]["inputs"].values()) == [
        pasted,
        pasted,
        f"b_{RED[:12]}.png",
        model,
        values,
    ]
    assert [file.name for file in sent.files] == [pasted, f"b_{RED[:12]}.png", model, values]
    assert by_content(sent) == sent, "by the worker, once more"


class Files:
    """Three uses of one name, of which two mean the same file."""

    def find(self, use: FileUse) -> Path:
        return Path(use.node_id)

    def described(self, path: Path) -> tuple[int, str]:
        return 3, (RED, BLUE, RED)[int(path.name)]

    def must_be_found(self, use: FileUse) -> bool:
        raise NotImplementedError

    def may_be_on_target(self, use: FileUse) -> bool:
        raise NotImplementedError

    def missing(self, use: FileUse, prompt: Prompt) -> InputFileMissing:
        raise NotImplementedError


async def test_files_of_one_name_are_two_and_one_file_is_one() -> None:
    uses = [
        FileUse(str(i), "image", "a.png", value=value)
        for i, value in enumerate(["a.png", "a.png [output]", "a.png"])
    ]
    prompt: Prompt = {
        use.node_id: {"class_type": "LoadImage", "inputs": {"image": use.value}} for use in uses
    }
    named, files = await collect_inputs(prompt, uses, FakeTarget(), Files())
    request = by_content(RunRequest("id", named, files))
    red, blue = f"a_{RED[:12]}.png", f"a_{BLUE[:12]}.png"
    assert [node["inputs"]["image"] for node in request.prompt.values()] == [red, blue, red]
    assert {file.name: file.sha256 for file in request.files} == {red: RED, blue: BLUE}


def test_what_an_engine_says_is_told_with_the_users_names() -> None:
    red = f"a_{RED[:12]}.png"
    names = UsersNames(_prompt(image="sub\\a.png [input]", other={"mask": "b.glb"}))
    error = ExecutionFailed(
        f"No picture: /input/sub/{red}",
        advice=f"Look at {red}.",
        details={"log": [f"{red}!"], "n": 1},
    )
    output = RemoteOutput("1", "image", red, folder="input")
    saved = RemoteOutput("1", "image", red, folder="output")
    text = RemoteOutput("1", "text", "text", text=f"b_{BLUE[:12]}.glb")
    made = {"filename": red, "type": "output"}
    shown = {"result": [f"3d/{red}", {"zoom": 1}], "files": [made]}
    told = names.event(Finished(JobState.FAILED, error, (output, saved, text), shown={"1": shown}))
    assert isinstance(told, Finished)
    assert error.to_json() == {
        "code": "execution_failed",
        "message": "No picture: /input/sub/a.png",
        "advice": "Look at a.png.",
        "details": {"log": ["a.png!"], "n": 1},
    }
    assert [one.filename for one in told.outputs[:2]] == ["a.png", red]
    assert told.outputs[2].text == "b.glb"
    assert told.shown == {"1": {"result": ["3d/a.png", {"zoom": 1}], "files": [made]}}
    assert names.event(Shown("1", shown)) == Shown("1", told.shown["1"])
    assert names.event(NodeText("1", red)) == NodeText("1", "a.png")
    assert names.event(Log(f"loading {red}")) == Log("loading a.png")
    assert names.event(Progress(message=f"loading {red}")) == Progress(message="loading a.png")
    assert names.event(OutputReady(output)) == OutputReady(told.outputs[0])
    assert names.text(f"c_{RED[:12]}.png") == f"c_{RED[:12]}.png"


def test_a_prompt_from_a_saved_picture_finds_the_users_file_if_it_is_the_same(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"red")
    search = FileSearch(roots=(tmp_path,))
    assert search.find(f"a_{RED[:12]}.png") == path
    assert search.find(f"a_{BLUE[:12]}.png") is None
    for sha256 in (RED, BLUE):  # the user's word
        assert FileSearch((path,)).find(f"elsewhere/a_{sha256[:12]}.png") == path


async def test_a_file_of_comfyuis_output_folder_is_sent_if_it_is_here(tmp_path: Path) -> None:
    """As the page does. One that is not here may be the target's own."""
    for folder in ("output", "temp"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "photo.png").write_bytes(folder.encode())
    (tmp_path / "beside.png").write_bytes(b"x")
    values = {
        "1": "photo.png [output]",
        "2": "photo.png [temp]",
        "3": "there.png [output]",
        "4": "beside.png [output]",
        "5": "blake3:" + "0" * 64,
    }
    prompt: Prompt = {
        node_id: {"class_type": "LoadImage", "inputs": {"image": value}}
        for node_id, value in values.items()
    }
    source = SearchedFolders(FileSearch(roots=(tmp_path,)))
    named, files = await collect_inputs(prompt, every_file_use(prompt), FakeTarget(), source)
    assert {file.name: file.path.parent.name for file in files} == {
        named["1"]["inputs"]["image"]: "output",
        named["2"]["inputs"]["image"]: "temp",
    }
    assert [named[n]["inputs"]["image"] for n in "345"] == [values[n] for n in "345"]
