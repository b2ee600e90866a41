"""Who may bring something to a ComfyUI: nobody but a program that has its owner's token."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from model_server import safetensors, sha256
from models_kit import files_in
from pydantic import SecretStr
from receiving_kit import TOKEN, OneComfyUI, comfyui

from comfy_remote.net.signed import SIGNATURE_HEADER, SignedRequests, signature
from comfy_remote.node_pack.receiving.settings import ReceivingSettings
from comfy_remote.wire.receiving import LARGEST_PART

MODEL = safetensors(10_000)
OTHERS = SecretStr("another-token-that-is-long-enough")
PLACE = {
    "action": "place",
    "folder": "loras",
    "name": "x.safetensors",
    "size": len(MODEL),
    "sha256": sha256(MODEL),
    "files": [{"name": "x", "sha256": sha256(MODEL), "size": len(MODEL)}],
}


class Asker:
    """Asks as a program would, and as it should not."""

    def __init__(self, there: OneComfyUI, http: aiohttp.ClientSession) -> None:
        self.there, self.http = there, http
        self.challenge = ""
        self.job = uuid.uuid4().hex

    async def greet(self, **headers: str) -> tuple[int, Any]:
        async with self.http.get(f"{self.there.url}/remote/receiving", headers=headers) as answer:
            said = await answer.json()
        if answer.status == 200:
            self.challenge = said["challenge"]
        return answer.status, said

    def signed(
        self, method: str, path: str, body: bytes, token: SecretStr = TOKEN
    ) -> dict[str, str]:
        content = hashlib.sha256(body).hexdigest()
        header = signature(token, self.challenge, method, f"remote/receiving/{path}", content)
        return {SIGNATURE_HEADER: header, "Content-Type": "application/json"}

    async def send(
        self, method: str, path: str, body: bytes, headers: dict[str, str], before: str = ""
    ) -> tuple[int, Any]:
        url = f"{self.there.url}{before}/remote/receiving/{path}"
        async with self.http.request(method, url, data=body, headers=headers) as answer:
            return answer.status, json.loads(await answer.text())

    async def begin(self, payload: Any = PLACE, **changes: str) -> tuple[int, Any]:
        body, path = json.dumps(payload).encode(), f"jobs/{self.job}"
        headers = {**self.signed("POST", path, body), **changes}
        return await self.send("POST", path, body, headers)

    async def part(self, content: bytes, name: str = "", **changes: str) -> tuple[int, Any]:
        path = f"jobs/{self.job}/parts/{name or sha256(content)}"
        headers = self.signed("PUT", path, content)
        headers["Content-Type"] = "application/octet-stream"
        return await self.send("PUT", path, content, {**headers, **changes})


@pytest.fixture
async def asker(tmp_path: Path) -> AsyncIterator[Asker]:
    async with comfyui(tmp_path / "box") as there, aiohttp.ClientSession() as http:
        asking = Asker(there, http)
        await asking.greet()
        yield asking


async def test_a_program_with_the_token_places_a_model(asker: Asker) -> None:
    status, state = await asker.begin()
    assert (status, state["state"], state["wants"]) == (200, "running", sha256(MODEL))
    status, state = await asker.part(MODEL)
    assert status == 200
    while state["state"] == "running":
        body, path = json.dumps({"number": state["number"]}).encode(), f"jobs/{asker.job}/wait"
        status, state = await asker.send("POST", path, body, asker.signed("POST", path, body))
    assert state["answer"]["how"] == "received"
    assert files_in(asker.there.models) == {"loras/x.safetensors": MODEL}


async def test_comfyuis_other_path_does_not_change_what_is_signed(asker: Asker) -> None:
    body, path = json.dumps(PLACE).encode(), f"jobs/{asker.job}"
    headers = asker.signed("POST", path, body)
    assert (await asker.send("POST", path, body, headers, before="/api"))[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Mode": "no-cors"},
        {"Referer": "http://evil.example/"},
        {"Host": "evil.example:8188"},
        {"Host": "evil.example", "Origin": "http://evil.example"},
    ],
)
async def test_no_page_and_no_other_host_gets_anything(
    asker: Asker, headers: dict[str, str]
) -> None:
    for status, said in (await asker.greet(**headers), await asker.begin(**headers)):
        assert status == 403
        assert said["error"]["code"] == "authentication"
        assert "challenge" not in json.dumps(said)
    assert files_in(asker.there.models) == {}


async def test_even_its_own_page_gets_nothing(asker: Asker) -> None:
    status, _ = await asker.greet(Origin=asker.there.url)
    assert status == 403


async def test_nothing_unsigned_or_signed_otherwise_is_done(asker: Asker) -> None:
    body, path = json.dumps(PLACE).encode(), f"jobs/{asker.job}"
    plain = {"Content-Type": "application/json"}
    good = asker.signed("POST", path, body)
    tries = {
        "none": plain,
        "a bearer token": {**plain, "Authorization": f"Bearer {TOKEN.get_secret_value()}"},
        "another token": asker.signed("POST", path, body, OTHERS),
        "another path": asker.signed("POST", "jobs/" + "0" * 32, body),
        "another method": asker.signed("PUT", path, body),
        "not hex": {**plain, SIGNATURE_HEADER: "1 x x x x"},
        "too long": {**plain, SIGNATURE_HEADER: good[SIGNATURE_HEADER] * 20},
    }
    for why, headers in tries.items():
        status, said = await asker.send("POST", path, body, headers)
        assert (why, status) == (why, 401)
        assert said["error"]["details"]["challenge"] == asker.challenge
    status, said = await asker.send("POST", path, b'{"action": "prune"}', good)
    assert (status, said["error"]["code"]) == (403, "authentication")
    assert "another content" in said["error"]["message"]
    assert files_in(asker.there.models) == {}


async def test_a_request_that_was_read_on_the_way_cannot_be_sent_again(asker: Asker) -> None:
    body, path = json.dumps({"action": "installed"}).encode(), f"jobs/{asker.job}"
    headers = asker.signed("POST", path, body)
    assert (await asker.send("POST", path, body, headers))[0] == 200
    status, said = await asker.send("POST", path, body, headers)
    assert status == 401
    assert "sent before" in said["error"]["message"]


async def test_what_was_signed_for_an_earlier_start_is_not_taken(
    asker: Asker, tmp_path: Path
) -> None:
    async with comfyui(tmp_path / "box") as later:
        old = asker.challenge
        asker.there = later
        asker.challenge = old
        status, said = await asker.begin()
        assert status == 401
        asker.challenge = said["error"]["details"]["challenge"]
        assert (await asker.begin())[0] == 200


def test_numbers_are_not_remembered_for_ever() -> None:
    signed = SignedRequests(TOKEN, most=3)
    first = signed.challenge
    old = signature(TOKEN, first, "POST", "x", sha256(b""))
    for header in (old, *(signature(TOKEN, first, "POST", "x", sha256(b"")) for _ in range(2))):
        signed.check(header, "POST", "x")
    assert signed.challenge != first
    with pytest.raises(Exception, match="earlier start"):
        signed.check(old, "POST", "x")


async def test_bodies_are_bounded_and_not_unpacked(asker: Asker) -> None:
    await asker.begin()
    body, path = b"{" + b" " * (5 * 1024 * 1024) + b"}", f"jobs/{uuid.uuid4().hex}"
    status, said = await asker.send("POST", path, body, asker.signed("POST", path, body))
    assert (status, said["error"]["code"]) == (413, "request_too_large")
    status, _ = await asker.part(MODEL, **{"Content-Encoding": "gzip"})
    assert status == 400

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1024

    path = f"jobs/{asker.job}/parts/{sha256(MODEL)}"
    headers = {**asker.signed("PUT", path, MODEL), "Content-Type": "application/octet-stream"}
    url = f"{asker.there.url}/remote/receiving/{path}"
    # It is refused before it is read, so the sender may be cut off before it hears why.
    try:
        async with asker.http.put(url, data=endless(), headers=headers) as answer:
            assert answer.status == 413
    except aiohttp.ClientError:
        pass
    assert LARGEST_PART == 64 * 1024 * 1024
    assert not [name for name in files_in(asker.there.models) if not name.endswith(".part")]


async def test_a_part_with_another_content_is_not_taken(asker: Asker) -> None:
    await asker.begin()
    status, said = await asker.part(b"y" * len(MODEL), sha256(MODEL))
    assert (status, said["error"]["code"]) == (403, "authentication")
    path = f"jobs/{asker.job}/parts/{sha256(MODEL)}"
    headers = {**asker.signed("PUT", path, MODEL), "Content-Type": "application/octet-stream"}
    # Changed on the way, behind the signature.
    status, said = await asker.send("PUT", path, b"y" * len(MODEL), headers)
    assert (status, said["error"]["code"]) == (400, "value_invalid")
    status, state = await asker.part(b"not asked for")
    assert (status, state["wants"]) == (200, sha256(MODEL))
    assert (await asker.part(MODEL))[0] == 200


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("loras", "../../evil.safetensors"),
        ("loras", "/etc/evil.safetensors"),
        ("loras", "..\\..\\evil.safetensors"),
        ("loras", "C:evil.safetensors"),
        ("loras", ".hidden/evil.safetensors"),
        ("loras", "evil.py"),
        ("loras", "evil.pkl"),
        ("../custom_nodes", "evil.safetensors"),
        ("..", "evil.safetensors"),
        (".comfy-remote", "evil.json"),
    ],
)
async def test_no_name_leads_out_of_the_models_folder(asker: Asker, folder: str, name: str) -> None:
    status, state = await asker.begin({**PLACE, "folder": folder, "name": name})
    assert status == 200
    assert state["state"] == "failed"
    assert state["error"]["code"] == "workflow_invalid"
    found = [path for path in asker.there.root.rglob("*") if path.is_file()]
    assert not [path for path in found if "evil" in path.name]


async def test_a_file_that_is_there_is_never_replaced(asker: Asker) -> None:
    mine = asker.there.models / "loras/x.safetensors"
    mine.write_bytes(b"its owner's")
    _, state = await asker.begin()
    assert state["error"]["code"] == "model_unavailable"
    assert mine.read_bytes() == b"its owner's"


@pytest.mark.parametrize("action", [["place"], {"a": 1}, None, "PLACE"])
async def test_what_is_no_action_is_refused(asker: Asker, action: object) -> None:
    _, state = await asker.begin({**PLACE, "action": action})
    assert (state["state"], state["error"]["code"]) == ("failed", "workflow_invalid")


async def test_at_most_four_jobs_at_once_and_ids_are_checked(asker: Asker) -> None:
    for number in range(4):
        asker.job = uuid.uuid4().hex
        assert (await asker.begin({**PLACE, "name": f"{number}.safetensors"}))[0] == 200
    asker.job = uuid.uuid4().hex
    status, said = await asker.begin({**PLACE, "name": "5.safetensors"})
    assert (status, said["error"]["code"]) == (429, "rate_limited")
    asker.job = "x"
    assert (await asker.begin())[0] == 400


async def test_off_by_default_nothing_is_taken_and_nothing_is_said(tmp_path: Path) -> None:
    off = comfyui(tmp_path / "box", accept=False, token=None)
    async with off as there, aiohttp.ClientSession() as http:
        asker = Asker(there, http)
        status, said = await asker.greet()
        assert (status, said["takes_models"], said["token"]) == (200, [], False)
        assert (await asker.begin())[0] in (401, 403)
        assert files_in(there.models) == {}


def test_what_its_owner_sets_decides(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def read(**environ: str) -> ReceivingSettings:
        return ReceivingSettings.from_environ(tmp_path / "models", tmp_path, environ)

    token = {"COMFY_REMOTE_SYNC_TOKEN": TOKEN.get_secret_value()}
    assert read() == read(**token) == read(ACCEPT_MODELS="false", **token) == ReceivingSettings()
    assert not caplog.records
    assert read(ACCEPT_MODELS="true") == ReceivingSettings()
    assert "COMFY_REMOTE_SYNC_TOKEN is not" in caplog.text
    assert read(ACCEPT_MODELS="true", COMFY_REMOTE_SYNC_TOKEN="short") == ReceivingSettings()
    assert "could be guessed" in caplog.text
    assert "short" not in caplog.text
    assert read(ACCEPT_MODELS="maybe", **token) == ReceivingSettings()
    found = read(ACCEPT_MODELS="true", **token)
    assert found.token == TOKEN
    assert found.models is not None
    assert found.models.folder == tmp_path / "models"
    elsewhere = read(ACCEPT_MODELS="true", COMFY_REMOTE_MODELS_DIR=str(tmp_path / "big"), **token)
    assert elsewhere.models is not None
    assert elsewhere.models.folder == tmp_path / "big"
