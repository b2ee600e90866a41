"""Batches of the page: planned, started in a process of their own, changed; values, never files."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from helpers import until
from PIL import Image

from comfy_remote.batch.manifest import MANIFEST, read_manifest
from comfy_remote.batch.store import is_driven
from comfy_remote.errors import ComfyRemoteError, ConfigurationError, InputFileMissing, JobNotFound
from comfy_remote.jobs.record import Record
from comfy_remote.node_pack.batches import PageBatches, VaryRequest
from comfy_remote.node_pack.host import FolderKind
from comfy_remote.node_pack.target_pool import TargetPool

PROMPT: dict[str, Any] = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
    "2": {"class_type": "ImageScale", "inputs": {"image": ["1", 0], "width": 8, "height": 8,
          "upscale_method": "bilinear", "crop": "disabled"}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "p"}},
}  # fmt: skip


class Server:
    """As much of a `Host` as batches use."""

    identity = "test"
    several_users = False

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, kind: FolderKind) -> Path:
        return self.root / kind


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for kind in ("input", "output"):
        (tmp_path / kind).mkdir()
    for name in ("a", "b", "c"):
        Image.new("RGB", (4, 4), "red").save(tmp_path / "input" / f"{name}.png")
    return Server(tmp_path)


@pytest.fixture
async def batches(server: Server) -> AsyncIterator[PageBatches]:
    with Record() as record:
        pool = TargetPool(record)
        host: Any = server
        yield PageBatches(host, pool)
        await pool.close()


def wanted(**asked: Any) -> VaryRequest:
    return VaryRequest.model_validate({"prompt": PROMPT, "source": "cat.json", **asked})


async def test_what_is_asked_for_is_planned(batches: PageBatches, sandbox_url: str) -> None:
    asked = wanted(vary={"2.width": "8..11", "1.image": ["a.png", "b.png"]})
    planned: Any = await batches.plan(asked, sandbox_url)
    assert planned["count"] == 8
    assert [axis["names"] for axis in planned["axes"]] == [["1.image"], ["2.width"]]
    assert planned["axes"][1]["first"] == [{"2.width": n} for n in (8, 9, 10, 11)]
    assert not planned["problems"]
    wrong: Any = await batches.plan(wanted(vary={"2.crop": ["no", "center"]}), sandbox_url)
    assert [(one["name"], one["value"]) for one in wrong["problems"]] == [("2.crop", "no")]


async def test_it_runs_in_a_process_of_its_own(
    batches: PageBatches, server: Server, sandbox_url: str
) -> None:
    started: Any = await batches.start(wanted(vary={"2.width": "8..11"}), sandbox_url)
    assert (started["name"], started["count"]) == ("cat", 4)

    with Record() as record:
        await until(lambda: record.batches.get(started["id"]).state.final)
        await until(lambda: not is_driven(record.path.parent, started["id"]))
    listed: Any = await batches.list(sandbox_url)
    [one] = listed["batches"]
    assert (one["succeeded"], one["target"]) == (4, None)
    folder = server.folder("output") / "batches" / "cat"
    assert one["folder"] == str(folder)
    assert len(read_manifest(folder / MANIFEST)) == 4
    assert (folder / "sheet.html").is_file()
    row: Any = await batches.values(one["id"], 2)
    assert row == {"inputs": [["2", "width", 10]], "values": {"2.width": 10}}
    assert await batches.change(one["id"], "remove", sandbox_url) == {"removed": one["id"]}
    assert await batches.list(sandbox_url) == {"batches": []}


async def test_its_server_takes_it_up_again(
    batches: PageBatches, server: Server, sandbox_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("comfy_remote.node_pack.batches.start_background", lambda *_: None)
        started: Any = await batches.start(wanted(vary={"2.width": "8,9"}), sandbox_url)
    with Record() as record:
        host: Any = Server(server.root)
        host.identity = "another"
        other = PageBatches(host, TargetPool(record))
        await other.take_up()
        assert not is_driven(record.path.parent, started["id"])
        await batches.take_up()
        await until(lambda: record.batches.get(started["id"]).succeeded == 2)
        await until(lambda: not is_driven(record.path.parent, started["id"]))


@pytest.mark.parametrize("values", ["@/etc/passwd", " @prompts.txt"])
async def test_values_are_not_read_from_a_file(
    batches: PageBatches, sandbox_url: str, values: str
) -> None:
    with pytest.raises(ConfigurationError, match="not read from a file"):
        await batches.plan(wanted(vary={"3.filename_prefix": values}), sandbox_url)


@pytest.mark.parametrize("name", ["@{root}/secret", "1.image=@{root}/secret"])
async def test_a_name_is_not_a_file(
    batches: PageBatches, server: Server, sandbox_url: str, name: str
) -> None:
    (server.root / "secret=.csv").write_text("2.width\n8\n9\n")
    asked = wanted(vary={name.format(root=server.root): ".csv"})
    with pytest.raises(ConfigurationError, match="not the name of an input"):
        await batches.plan(asked, sandbox_url)


async def test_where_several_people_share_a_server_no_batch_is_shown(
    batches: PageBatches, server: Server, sandbox_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comfy_remote.node_pack.batches.start_background", lambda *_: None)
    await batches.start(wanted(vary={"2.width": "8,9"}), sandbox_url)
    assert await batches.runs("cat") == {"runs": []}
    server.several_users = True
    for asked in (batches.runs("cat"), batches.values("cat", 0), batches.sheet("cat")):
        with pytest.raises(JobNotFound, match="several people"):
            await asked


@pytest.mark.parametrize("name", ["../secret.png", "{root}/secret.png", "link.png", "../*.png"])
@pytest.mark.parametrize("as_list", [True, False])
async def test_a_page_sends_no_files_but_those_of_the_input_folder(
    batches: PageBatches, server: Server, sandbox_url: str, name: str, as_list: bool
) -> None:
    Image.new("RGB", (4, 4)).save(server.root / "secret.png")
    (server.root / "input" / "link.png").symlink_to(server.root / "secret.png")
    name = name.format(root=server.root)
    asked = wanted(vary={"1.image": [name] if as_list else name})
    with pytest.raises((InputFileMissing, ConfigurationError)):
        await batches.start(asked, sandbox_url)
    assert await batches.list(sandbox_url) == {"batches": []}
    assert not [*(server.root / "output").rglob("*.json")]


async def test_too_many_runs_and_unknown_batches(batches: PageBatches, sandbox_url: str) -> None:
    with pytest.raises(ComfyRemoteError, match="20,000 runs"):
        await batches.plan(wanted(vary={"2.width": "1..20000"}), sandbox_url)
    with pytest.raises(JobNotFound):
        await batches.change("nothing", "pause", sandbox_url)
    assert json.loads(json.dumps(await batches.list(sandbox_url))) == {"batches": []}
