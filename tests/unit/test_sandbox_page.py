"""What the sandbox answers to ComfyUI's page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path

import aiohttp
import pytest
from PIL import Image
from sandbox_page import find_frontend, with_page

from comfy_remote.errors import ConfigurationError
from comfy_remote.sandbox.server import SandboxServer

PROMPT = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 16, "height": 8, "batch_size": 1, "color": 0},
    },
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}},
}


@pytest.fixture
def frontend(tmp_path: Path) -> Path:
    folder = tmp_path / "page" / "comfyui_frontend_package" / "static"
    (folder / "scripts").mkdir(parents=True)
    (folder / "index.html").write_text("<title>the page</title>")
    (folder / "scripts" / "app.js").write_text("export const app = 1")
    return tmp_path / "page"


@pytest.fixture
async def server(tmp_path: Path, frontend: Path) -> AsyncIterator[SandboxServer]:
    pack, templates = tmp_path / "pack", tmp_path / "templates"
    (pack / "deeper").mkdir(parents=True)
    (pack / "a.js").write_text("1")
    (pack / "deeper" / "b.js").write_text("2")
    templates.mkdir()
    (templates / "one.json").write_text("{}")
    async with SandboxServer(
        directory=tmp_path / "sandbox",
        extend=with_page(
            frontend, web_directories={"some-pack": pack}, templates={"some-pack": templates}
        ),
    ) as server:
        yield server


@pytest.fixture
async def http(server: SandboxServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server.url) as session:
        yield session


async def run(http: aiohttp.ClientSession) -> str:
    """Run the prompt; its id."""
    body = {"prompt": PROMPT, "extra_data": {"extra_pnginfo": {"workflow": {"id": "w1"}}}}
    async with http.post("/prompt", json=body) as answer:
        prompt_id = str((await answer.json())["prompt_id"])
    for _ in range(100):
        async with http.get(f"/history/{prompt_id}") as answer:
            if await answer.json():
                return prompt_id
        await asyncio.sleep(0.05)
    raise AssertionError("it has not run")


async def get_json(http: aiohttp.ClientSession, path: str, status: int = 200) -> object:
    async with http.get(path) as answer:
        assert answer.status == status
        return await answer.json()


async def test_the_page_and_the_scripts_of_packs(http: aiohttp.ClientSession) -> None:
    async with http.get("/") as answer:
        assert "the page" in await answer.text()
        assert "no-store" in answer.headers["Cache-Control"]
    assert await get_json(http, "/api/extensions") == [
        "/extensions/some-pack/a.js",
        "/extensions/some-pack/deeper/b.js",
    ]
    async with http.get("/extensions/some-pack/deeper/b.js") as answer:
        assert await answer.text() == "2"
    async with http.get("/scripts/app.js") as answer:
        assert answer.status == 200
    assert await get_json(http, "/api/workflow_templates") == {"some-pack": ["one"]}
    assert await get_json(http, "/api/workflow_templates/some-pack/one.json") == {}


async def test_without_a_frontend_there_is_no_page() -> None:
    async with SandboxServer() as server, aiohttp.ClientSession(server.url) as http:
        for path in ("/", "/api/userdata?dir=workflows", "/api/workflow_templates"):
            async with http.get(path) as answer:
                assert answer.status == 404


def test_a_frontend_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no index\.html"):
        find_frontend(tmp_path)


async def test_settings_are_kept(http: aiohttp.ClientSession, server: SandboxServer) -> None:
    assert await get_json(http, "/api/settings") == {}
    async with http.post("/api/settings", json={"a": 1, "b": [2]}) as answer:
        assert answer.status == 200
    async with http.post("/api/settings/a", json="x") as answer:
        assert answer.status == 200
    assert await get_json(http, "/api/settings") == {"a": "x", "b": [2]}
    assert await get_json(http, "/api/settings/a") == "x"
    assert await get_json(http, "/api/settings/c") is None
    async with http.post("/api/settings", data=b"{") as answer:
        assert answer.status == 500  # as ComfyUI answers
    assert (server.directory / "user" / "default" / "comfy.settings.json").is_file()


async def test_files_of_the_user(http: aiohttp.ClientSession) -> None:
    async with http.post("/api/userdata/workflows%2Fsub%2Fa.json", data=b"{}") as answer:
        assert await answer.json() == "workflows/sub/a.json"
    query = "/api/userdata?dir=workflows&recurse=true"
    assert await get_json(http, query) == ["sub/a.json"]
    assert await get_json(http, f"{query}&split=true") == [["sub/a.json", "sub", "a.json"]]
    [info] = await get_json(http, f"{query}&full_info=true")  # type: ignore[misc]
    assert (info["path"], info["size"]) == ("sub/a.json", 2)
    taken = "/api/userdata/workflows%2Fsub%2Fa.json?overwrite=false"
    async with http.post(taken, data=b"other") as answer:
        assert answer.status == 409
    async with http.post("/api/userdata/workflows%2Fsub%2Fa.json/move/b.json") as answer:
        assert await answer.json() == "b.json"
    async with http.get("/api/userdata/b.json") as answer:
        assert await answer.read() == b"{}"
        assert answer.headers["Content-Disposition"] == "attachment"
    async with http.delete("/api/userdata/b.json") as answer:
        assert answer.status == 204
    async with http.get("/api/userdata/b.json") as answer:
        assert answer.status == 404


@pytest.mark.parametrize("name", ["..%2F..%2Fout.txt", "a%2F..%2F..%2F..%2Fout.txt"])
async def test_no_file_outside_of_the_users_folder(
    http: aiohttp.ClientSession, server: SandboxServer, name: str
) -> None:
    async with http.post(f"/api/userdata/{name}", data=b"x") as answer:
        assert answer.status in (403, 404)
    assert not list(server.directory.rglob("out.txt"))
    assert not list(server.directory.parent.glob("out.txt"))


async def test_jobs(http: aiohttp.ClientSession) -> None:
    assert (await get_json(http, "/api/jobs"))["jobs"] == []  # type: ignore[index]
    first, second = await run(http), await run(http)
    listing = await get_json(http, "/api/jobs?status=completed&limit=1&workflow_id=w1")
    assert isinstance(listing, dict)
    assert listing["pagination"] == {"offset": 0, "limit": 1, "total": 2, "has_more": True}
    [job] = listing["jobs"]
    assert (job["id"], job["status"], job["outputs_count"]) == (second, "completed", 1)
    assert job["preview_output"]["filename"] == "a_00001_.png"  # cached
    assert job["execution_end_time"] >= job["execution_start_time"] >= job["create_time"]
    whole = await get_json(http, f"/api/jobs/{first}")
    assert isinstance(whole, dict)
    assert whole["workflow"]["prompt"] == PROMPT
    await get_json(http, "/api/jobs/unknown", status=404)
    await get_json(http, "/api/jobs?limit=0", status=400)
    await get_json(http, "/api/jobs?status=nonsense", status=400)


async def until_jobs_are(http: aiohttp.ClientSession, *states: str) -> None:
    """Wait until the jobs, in whatever order, have these states."""
    for _ in range(200):
        listing = await get_json(http, "/api/jobs")
        assert isinstance(listing, dict)
        if sorted(job["status"] for job in listing["jobs"]) == sorted(states):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(listing)


async def test_jobs_are_cancelled_wherever_they_are(http: aiohttp.ClientSession) -> None:
    slow = {
        **PROMPT,
        "3": {
            "class_type": "SandboxSlow",
            "inputs": {"image": ["1", 0], "steps": 1000, "seconds_per_step": 1, "preview": False},
        },
    }
    slow["2"] = {**PROMPT["2"], "inputs": {"images": ["3", 0], "filename_prefix": "a"}}
    ids = []
    for _ in range(2):
        async with http.post("/prompt", json={"prompt": slow}) as answer:
            ids.append((await answer.json())["prompt_id"])
    # One that was never begun would not be listed in the end.
    await until_jobs_are(http, "in_progress", "pending")
    async with http.post(f"/api/jobs/{ids[1]}/cancel") as answer:
        assert await answer.json() == {"cancelled": True}
    async with http.post("/api/jobs/cancel", json={"job_ids": ids}) as answer:
        assert await answer.json() == {"cancelled": True}
    await until_jobs_are(http, "cancelled")
    async with http.post("/api/jobs/cancel", json={"job_ids": ids}) as answer:
        assert await answer.json() == {"cancelled": False}


async def test_pictures_are_shown_smaller_or_by_channel(http: aiohttp.ClientSession) -> None:
    await run(http)
    for query, kind, mode in (
        ("preview=webp;50", "WEBP", "RGB"),
        ("preview=jpeg", "JPEG", "RGB"),
        ("channel=rgb", "PNG", "RGB"),
        ("channel=a", "PNG", "RGBA"),
    ):
        async with http.get(f"/view?filename=a_00001_.png&{query}") as answer:
            assert answer.content_type == f"image/{kind.lower()}"
            picture = Image.open(BytesIO(await answer.read()))
        assert (picture.format, picture.mode, picture.size) == (kind, mode, (16, 8))
