"""Packed workflows: made, read with suspicion, opened, and trusted by what they name."""

from __future__ import annotations

import io
import json
import os
import stat
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_target import FakeTarget
from json_lines import check_lines

from comfy_remote.cli.main import main
from comfy_remote.config.trust import TrustStore
from comfy_remote.errors import ConfigurationError, WorkflowInvalid
from comfy_remote.jobs.client import Client
from comfy_remote.jobs.record import Record
from comfy_remote.jobs.unpacked import named_in_packed, packed_source, unpacked
from comfy_remote.ready.lock import Address, Lock, LockedModel, LockedPack, read_lock
from comfy_remote.ready.packing import Packing, inputs_to_pack, pack_workflow
from comfy_remote.secrets import SECRETS
from comfy_remote.workflow.load import is_packed, load_workflow, parse_workflow
from comfy_remote.workflow.packed import packed_files, without_addresses, write_packed
from comfy_remote.workflow.repo_list import find_repo_list

URL = "https://example.com/sd.safetensors"
PROMPT: Any = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "sub/a.png"}},
    "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
}
WORKFLOW: Any = {
    "nodes": [
        {
            "id": 1,
            "type": "LoadImage",
            "properties": {
                "models": [{"name": "sd.safetensors", "directory": "checkpoints", "url": URL}]
            },
        },
        {"id": 2, "type": "Note", "title": "Repo_List", "widgets_values": [f"ckpt {URL}"]},
    ],
    "links": [],
    "models": [{"name": "b.safetensors", "directory": "vae", "url": f"{URL}?b"}],
}
BOTH: Any = {"prompt": PROMPT, "extra_data": {"extra_pnginfo": {"workflow": WORKFLOW}}}
Run = Callable[..., tuple[int, str, str]]


def packed(path: Path, document: Any = BOTH, **entries: bytes) -> Path:
    """A zip with a workflow and other entries (``__`` in a name stands for ``/``)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("workflow.json", json.dumps(document))
        for name, content in entries.items():
            archive.writestr(name.replace("__", "/"), content)
    return path


def read(path: Path, unpack_to: Path | None = None) -> Any:
    with path.open("rb") as file:
        return packed_files(file, path.name, unpack_to)


def test_what_is_packed_comes_out_again(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"picture")
    made = [tmp_path / "one.zip", tmp_path / "two.zip"]
    for path in made:
        size = write_packed(path, b'{"1": 1}', "version = 1\n", {"sub/a.png": tmp_path / "a.png"})
        assert size == path.stat().st_size
        os.utime(tmp_path / "a.png", (1, 1))  # nothing in it is a time
    assert made[0].read_bytes() == made[1].read_bytes()
    inside = read(made[0], tmp_path / "out")
    assert (inside.workflow, inside.lock, inside.inputs) == (
        b'{"1": 1}',
        "version = 1\n",
        {"sub/a.png": 7},
    )
    assert (tmp_path / "out" / "sub" / "a.png").read_bytes() == b"picture"
    assert is_packed(made[0])
    assert not is_packed(tmp_path / "a.png")


def test_what_does_not_belong_there_stays_in_it(tmp_path: Path) -> None:
    path = packed(
        tmp_path / "w.zip",
        **{
            "comfy-remote.toml": b"default = 'theirs'",
            ".env": b"RUNPOD_API_KEY=theirs",
            "input__.hidden": b"x",
            "input__sub__.env": b"x",
            "README.md": b"read me",
            "input__a.png": b"x",
        },
    )
    assert read(path, tmp_path / "out").inputs == {"a.png": 1}
    assert sorted(one.name for one in (tmp_path / "out").rglob("*")) == ["a.png"]


@pytest.mark.parametrize(
    "name",
    [
        "../evil.png",
        "input/../../evil.png",
        "/etc/evil",
        "input//evil.png",
        "C:/evil.png",
        "input\\..\\evil.png",
        "input/con:stream",
        "input/a.png\n",
        "input/trailing.",
        "input/" + "x" * 300,
        "input/\u202egnp.exe",
    ],
)
def test_a_name_that_leads_out_refuses_the_file(tmp_path: Path, name: str) -> None:
    path = packed(tmp_path / "w.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"x")
    with pytest.raises(WorkflowInvalid, match="leads out of its folder"):
        read(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_link_refuses_the_file(tmp_path: Path) -> None:
    path = packed(tmp_path / "w.zip")
    link = zipfile.ZipInfo("input/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(WorkflowInvalid, match="is a link"):
        read(path)


def test_an_entry_that_is_there_twice_refuses_the_file(tmp_path: Path) -> None:
    path = packed(tmp_path / "w.zip", input__a=b"1", input__A=b"2")
    with pytest.raises(WorkflowInvalid, match="is in it twice"):
        read(path)


def test_a_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comfy_remote.workflow.packed.LARGEST_INPUTS", 8_000_000)
    path = tmp_path / "w.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("workflow.json", "{}")
        for number in range(9):
            with archive.open(f"input/{number}.png", "w") as entry:
                entry.write(bytes(1_000_000))
    assert path.stat().st_size < 20_000
    with pytest.raises(WorkflowInvalid, match="its 9 input files have 9"):
        read(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_entry_that_is_larger_than_it_says_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "w.zip", input__a=b"x" * 5000)
    data = bytearray(path.read_bytes())
    at = data.rfind(b"input/a") - 46  # in the list at the end: size after 24 bytes
    data[at + 24 : at + 28] = (10).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(WorkflowInvalid, match=r"larger than it says|damaged"):
        read(path, tmp_path / "out")


def test_too_many_entries_are_refused_by_the_size_of_their_list(tmp_path: Path) -> None:
    path = tmp_path / "w.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("workflow.json", "{}")
        for number in range(10_000):
            archive.writestr(f"input/{number}", b"")
    with pytest.raises(WorkflowInvalid, match="too many entries"):
        read(path)


def test_the_64_bit_form_hides_no_other_size_of_the_list(tmp_path: Path) -> None:
    path = packed(tmp_path / "w.zip")
    data = path.read_bytes()
    at = data.rindex(b"PK\x05\x06")
    size, offset = struct.unpack_from("<II", data, at + 12)
    whole = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, size, offset)
    points = struct.pack("<4sIQI", b"PK\x06\x07", 0, at, 1)
    small = data[at : at + 12] + struct.pack("<I", 1) + data[at + 16 :]
    path.write_bytes(data[:at] + whole + points + small)
    assert zipfile.ZipFile(path).namelist() == ["workflow.json"]  # Python believes that form
    with pytest.raises(WorkflowInvalid, match="too many entries"):
        read(path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"PK\x03\x04", "cut off"),
        (b"PK\x03\x04" + b"x" * 5000, "cut off"),
        (b"PK\x03\x04" + b"PK\x05\x06" + b"\xff" * 18, "too many entries"),
    ],
)
def test_what_is_damaged_says_so(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "w.zip").write_bytes(content)
    with pytest.raises(WorkflowInvalid, match=why):
        load_workflow(tmp_path / "w.zip")


def test_a_zip_of_something_else_says_so(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        archive.writestr("holiday.jpg", b"x")
    with pytest.raises(WorkflowInvalid, match="it has no workflow"):
        load_workflow(tmp_path / "w.zip")


def test_addresses_are_taken_out_wherever_they_are() -> None:
    shown: Any = without_addresses(BOTH)
    assert URL not in json.dumps(shown).replace(f"ckpt {URL}", "")
    workflow = shown["extra_data"]["extra_pnginfo"]["workflow"]
    assert find_repo_list({}, workflow) == ""
    assert find_repo_list({}, WORKFLOW) == f"ckpt {URL}"
    assert shown["prompt"] == PROMPT
    # Another list of that name is none of addresses.
    assert without_addresses({"models": ["a", "b"]}) == {"models": ["a", "b"]}


def test_any_reader_gets_the_workflow_without_addresses(tmp_path: Path) -> None:
    loaded = load_workflow(packed(tmp_path / "w.zip"))
    assert loaded.prompt == PROMPT
    assert loaded.workflow is not None
    assert "models" not in loaded.workflow
    assert loaded.describe() == f"{tmp_path / 'w.zip'} is a packed workflow."


def test_opened_it_is_a_folder_that_runs(tmp_path: Path) -> None:
    path = packed(tmp_path / "my pack.zip", PROMPT, input__sub__a=b"picture")
    opened = unpacked(path, folder=tmp_path / "home")
    assert opened.untrusted == ()
    assert opened.workflow.name == "my pack.json"
    assert (opened.workflow.parent / "input" / "sub" / "a").read_bytes() == b"picture"
    assert packed_source(opened.workflow) == str(path)
    assert packed_source(path) is None
    assert unpacked(path, folder=tmp_path / "home") == opened
    # The same content under another name: what is there stays where it is.
    other = tmp_path / "other.zip"
    other.write_bytes(path.read_bytes())
    again = unpacked(other, folder=tmp_path / "home")
    assert again.workflow == opened.workflow.with_name("other.json")
    assert [packed_source(one.workflow) for one in (opened, again)] == [str(path), str(other)]
    assert opened.workflow.is_file()


def test_what_it_names_is_left_out_until_it_is_trusted(tmp_path: Path) -> None:
    path, home = packed(tmp_path / "w.zip"), tmp_path / "home"
    names = named_in_packed(path)
    assert names == [
        f"model vae/b.safetensors: {URL}?b",
        f"model checkpoints/sd.safetensors: {URL}",
        f"model of its repo_list: ckpt {URL}",
    ]
    opened = unpacked(path, folder=home)
    assert opened.untrusted == tuple(names)
    assert "models" not in json.loads(opened.workflow.read_text())["extra_data"]
    assert load_workflow(opened.workflow).workflow != WORKFLOW
    TrustStore(home).trust(path, names)
    trusted = unpacked(path, folder=home)
    assert trusted.untrusted == ()
    assert load_workflow(trusted.workflow).workflow == WORKFLOW
    # A further address asks again; other content with the same addresses does not.
    changed = json.loads(json.dumps(BOTH).replace("sd.safetensors", "other.safetensors"))
    assert unpacked(packed(path, changed), folder=home).untrusted != ()
    assert unpacked(packed(path, {**BOTH, "client_id": "x"}), folder=home).untrusted == ()


def test_both_formats_are_named_whichever_runs(tmp_path: Path) -> None:
    other = "https://other.example/x.safetensors"
    listed = {"class_type": "Text", "inputs": {"text": f"ckpt {URL}"}}
    prompt = {**PROMPT, "9": {**listed, "_meta": {"title": "repo_list"}}}
    node = {"id": 9, "type": "Text", "title": "repo_list", "widgets_values": [f"vae {other}"]}
    document = {
        "prompt": prompt,
        "extra_data": {"extra_pnginfo": {"workflow": {"nodes": [node], "links": []}}},
    }
    named = named_in_packed(packed(tmp_path / "w.zip", document))
    assert [line.rpartition(" ")[2] for line in named] == [URL, other]


def test_so_many_are_left_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comfy_remote.jobs.unpacked._MOST", 3)
    home = tmp_path / "home"
    for number in range(6):
        prompt = {"1": {"class_type": f"Node{number}", "inputs": {}}}
        opened = unpacked(packed(tmp_path / f"{number}.zip", prompt), folder=home)
        os.utime(opened.workflow.parent, (number + 1, number + 1))
    left = {one.name for folder in (home / "packed").iterdir() for one in folder.glob("*.json")}
    assert left == {"3.json", "4.json", "5.json"}


def test_a_lock_is_read_from_it(tmp_path: Path) -> None:
    lock = Lock(
        packs=(LockedPack(url="https://github.com/o/n", version="1"),),
        models=(LockedModel(name="a", addresses=(Address(by="x", url=URL),)),),
    )
    path = packed(tmp_path / "w.zip", **{"comfy-remote.lock": lock.to_toml().encode()})
    assert read_lock(path) == lock
    assert lock.named == [f"model a: {URL}", "pack https://github.com/o/n"]
    with pytest.raises(ConfigurationError, match="packed workflow without one"):
        read_lock(packed(tmp_path / "none.zip"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("COMFYUI_DIR", raising=False)
    (tmp_path / "comfyui" / "comfy").mkdir(parents=True)
    (tmp_path / "comfyui" / "main.py").write_text("")

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["comfy-remote", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return command


def test_the_command_packs_and_all_commands_take_it(run: Run) -> None:
    Path("wf.json").write_text(json.dumps(BOTH))
    Path("input/sub").mkdir(parents=True)
    Path("input/sub/a.png").write_bytes(b"picture")
    status, out, err = run("pack", "wf.json", "--offline", "--comfyui", "comfyui")
    assert status == 0, err
    assert out.splitlines() == [
        "workflow  wf.json",
        "lock      0 packs, 0 models",
        "input     sub/a.png  7 B",
    ]
    assert "Written: wf.zip" in err
    Path("wf.json").unlink()
    Path("input/sub/a.png").unlink()
    status, out, err = run("convert", "wf.zip")
    assert (status, json.loads(out)) == (0, PROMPT)
    assert "comfy-remote trust wf.zip" in err
    assert "wf.zip is a workflow in API format." in err
    status, out, err = run("check", "wf.zip")
    assert (status, out.startswith("wf.zip:")) == (0, bool(out)), out
    assert "sub/a.png" not in out  # it is there: opened
    status, out, _ = run("show", "wf.zip")
    assert status == 0


def test_json_lines(run: Run) -> None:
    Path("wf.json").write_text(json.dumps(PROMPT))
    status, out, _ = run("pack", "wf.json", "--offline", "--comfyui", "comfyui", "--json")
    [line] = check_lines(out.splitlines())
    assert status == 0
    assert (line["event"], line["file"], line["inputs"]) == ("packed", "wf.zip", [])
    assert "The input file sub/a.png is not packed: it was not found here." in line["warnings"]


def test_a_large_input_is_left_out_and_a_secret_refuses(run: Run) -> None:
    Path("wf.json").write_text(json.dumps(PROMPT))
    Path("sub").mkdir()
    Path("sub/a.png").write_bytes(b"x" * 2000)
    arguments = ("--offline", "--comfyui", "comfyui", "--largest-input", "0.001")
    status, _, err = run("pack", "wf.json", *arguments)
    assert (status, "is not packed: it has 2.0 kB" in err) == (0, True)
    SECRETS.add("TOKEN", "planted-secret-value")
    secret = {**PROMPT, "9": {"class_type": "A", "inputs": {"key": "planted-secret-value"}}}
    Path("wf.json").write_text(json.dumps(secret))
    Path("wf.zip").unlink()
    status, _, err = run("pack", "wf.json", *arguments)
    assert (status, "a secret of yours is in it" in err) == (4, True)
    assert not Path("wf.zip").exists()


def test_trust_shows_what_it_names_and_needs_a_person(run: Run, tmp_path: Path) -> None:
    lock = Lock(packs=(LockedPack(url="https://github.com/o/n", version="1"),))
    path = packed(tmp_path / "w.zip", **{"comfy-remote.lock": lock.to_toml().encode()})
    status, _, err = run("trust", path)
    assert status == 2
    assert f"model checkpoints/sd.safetensors: {URL}" in err
    assert "pack https://github.com/o/n" in err
    assert "a person at a terminal" in err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_read_ahead(tmp_path: Path) -> None:
    from comfy_remote.cli.options import WORKFLOW

    os.mkfifo(tmp_path / "pipe")
    assert WORKFLOW.convert(str(tmp_path / "pipe"), None, None) == tmp_path / "pipe"


def test_standard_input_may_be_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed(tmp_path / "w.zip")
    stream = io.TextIOWrapper(io.BytesIO(path.read_bytes()))
    monkeypatch.setattr(sys, "stdin", stream)
    assert load_workflow("-").prompt == PROMPT


async def test_the_library_takes_it_with_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    path = packed(tmp_path / "w.zip", PROMPT)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("input/sub/a.png", b"picture")
    target = FakeTarget()
    with Record(tmp_path / "jobs.sqlite3") as record:
        async with Client(target, record=record) as client:
            ready = await client.prepare(path)
    assert ready.prompt == PROMPT
    [file] = ready.files
    assert (file.name, file.path.read_bytes()) == ("sub/a.png", b"picture")
    assert file.path.is_relative_to(tmp_path / "home" / "packed")


def test_names_that_not_every_system_has_are_not_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["plain.png", "PLAIN.png", "dot./a.png", "NUL.png", "sub/ok.png"]
    for name in names:
        path = tmp_path / "input" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    prompt = {
        str(number): {"class_type": "LoadImage", "inputs": {"image": name}}
        for number, name in enumerate(names)
    }
    loaded = parse_workflow(prompt, "w.json")  # type: ignore[arg-type]
    packing = inputs_to_pack(loaded, tmp_path / "w.json", largest=100)
    assert list(packing.files) == ["plain.png", "sub/ok.png"]
    assert len(packing.left_out) == 3
    size = pack_workflow(tmp_path / "w.zip", loaded, Lock(), packing)
    assert size > 0
    assert list(read(tmp_path / "w.zip").inputs) == ["plain.png", "sub/ok.png"]


def test_a_secret_in_the_lock_refuses_as_well(tmp_path: Path) -> None:
    SECRETS.add("TOKEN", "planted-secret-value")
    address = Address(by="me", url="https://example.com/planted-secret-value/a.safetensors")
    lock = Lock(models=(LockedModel(name="a.safetensors", addresses=(address,)),))
    loaded = parse_workflow(PROMPT, "w.json")
    with pytest.raises(WorkflowInvalid, match="a secret of yours"):
        pack_workflow(tmp_path / "w.zip", loaded, lock, Packing())
    assert not (tmp_path / "w.zip").exists()
