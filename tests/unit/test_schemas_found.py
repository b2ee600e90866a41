"""Where node schemas come from if a target cannot be asked."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from fake_target import FakeTarget
from registry_double import RegistryDouble, entry
from saved_workflow import saved, workflow

from comfy_remote.errors import ConfigurationError
from comfy_remote.schemas.finding import (
    Found,
    from_registry,
    given_schemas,
    known_without,
    target_schemas,
)
from comfy_remote.schemas.registry import Asked, Registry
from comfy_remote.schemas.store import Store
from comfy_remote.workflow.convert import convert_workflow
from comfy_remote.workflow.convert.unknown_classes import needs_schemas_of
from comfy_remote.workflow.load import parse_workflow
from comfy_remote.workflow.schema import Schemas

BLUR = entry("Blur", {"required": {"radius": ["INT", {"default": 1}], "how": [["a"]]}}, ["IMAGE"])
SAVE = entry("Save", {"required": {}, "hidden": {"extra_pnginfo": "EXTRA_PNGINFO"}}, ["IMAGE"])
SHOW = entry("Show", {"required": {"image": ["IMAGE"]}}, [])
PACKS = {"blurs": {"1.0.0": [BLUR, SAVE, SHOW], "2.0.0": [BLUR]}}
OBJECT_INFO = {"Blur": {"input": {"required": {"radius": ["INT", {}]}}, "output": ["IMAGE"]}}


def blur(node_id: int = 1, pack: str | None = None, ver: str | None = None) -> dict[str, Any]:
    properties = {key: v for key, v in {"cnr_id": pack, "ver": ver}.items() if v is not None}
    return saved(node_id, "Blur", [7, "a"], properties=properties)


def ask(
    double: RegistryDouble, folder: Path, wanted: dict[str, Any], times: int = 1
) -> list[Asked]:
    async def whole() -> list[Asked]:
        async with double.serving() as address:
            return [await Registry(folder, address).classes(wanted) for _ in range(times)]

    return asyncio.run(whole())


def with_registry(
    double: RegistryDouble,
    monkeypatch: pytest.MonkeyPatch,
    work: Callable[[], Coroutine[Any, Any, Found]],
) -> Found:
    async def whole() -> Found:
        async with double.serving() as address:
            monkeypatch.setenv("COMFY_REMOTE_REGISTRY", address)
            return await work()

    return asyncio.run(whole())


# Which are needed.


def test_only_classes_whose_values_have_no_names_are_needed() -> None:
    named = saved(2, "Named", [1, "x"], widgets={"a": None, "b": None})
    muted = saved(3, "Muted", [1], mode=2)
    document = workflow(
        blur(1, "blurs", "1.0.0"),
        named,
        muted,
        saved(4, "EmptyImage", [8, 8, 1, 0]),
        saved(5, "PrimitiveNode", [1, "fixed"]),
        saved(6, "Anything Everywhere", []),
    )
    assert needs_schemas_of(document, Schemas.bundled()) == {"Blur": ("blurs", "1.0.0")}


# The registry.


def test_a_packs_classes_are_read_over_all_pages_and_kept(tmp_path: Path) -> None:
    double = RegistryDouble(PACKS)
    wanted = {"Blur": ("blurs", "1.0.0"), "Show": ("blurs", "1.0.0")}
    first, second = ask(double, tmp_path, wanted, times=2)
    assert first.classes.keys() == {"Blur", "Show"}
    assert (first.asked, second.asked) == (True, False)
    assert second.classes == first.classes
    assert double.asked == ["/nodes/blurs/versions/1.0.0/comfy-nodes"] * 2
    schemas = Schemas(first.classes, "it")
    found = schemas.get("Blur")
    assert found is not None
    assert [spec.name for spec in found.inputs] == ["radius", "how"]
    assert found.outputs == ("IMAGE",)


@pytest.mark.parametrize(("name", "saves"), [("Blur", None), ("Save", True), ("Show", True)])
def test_what_saves_or_shows_is_an_output_and_of_others_it_is_not_told(
    tmp_path: Path, name: str, saves: bool | None
) -> None:
    [answer] = ask(RegistryDouble(PACKS), tmp_path, {name: ("blurs", "1.0.0")})
    found = Schemas(answer.classes, "it").get(name)
    assert found is not None
    assert found.output_node is saves


@pytest.mark.parametrize("version", [None, "nightly", "3f2a1b9c0d", "../../x"])
def test_without_a_version_of_the_registry_the_one_to_install_is_asked_for(
    tmp_path: Path, version: str | None
) -> None:
    double = RegistryDouble(PACKS)
    [answer] = ask(double, tmp_path, {"Blur": ("blurs", version)})
    assert answer.classes.keys() == {"Blur"}
    assert double.asked == ["/nodes/blurs/install", "/nodes/blurs/versions/2.0.0/comfy-nodes"]


@pytest.mark.parametrize("pack", [None, ("someone/blurs", None), ("gone", "1.0.0")])
def test_without_a_pack_the_class_is_asked_for_and_the_answer_is_kept(
    tmp_path: Path, pack: Any
) -> None:
    double = RegistryDouble(PACKS)
    first, second = ask(double, tmp_path, {"Blur": pack, "Nobody's": None}, times=2)
    assert first.classes.keys() == second.classes.keys() == {"Blur"}
    assert double.asked.count("/comfy-nodes") == 2


@pytest.mark.parametrize(
    ("response", "why"),
    [
        (web.Response(status=500), "status 500"),
        (web.Response(text="<html>"), "not JSON"),
        (web.Response(body=b" " * (9 * 1024 * 1024)), "too large"),
        (web.Response(status=302, headers={"Location": "http://169.254.169.254/"}), "https"),
    ],
)
def test_an_answer_that_is_none_is_a_problem_and_no_error(
    tmp_path: Path, response: web.Response, why: str
) -> None:
    double = RegistryDouble(PACKS)
    double.broken = response
    [answer] = ask(double, tmp_path, {"Blur": None})
    assert answer.classes == {}
    assert why in answer.problem


def test_a_registry_that_cannot_be_reached_is_a_problem_and_no_error(tmp_path: Path) -> None:
    answer = asyncio.run(Registry(tmp_path, "http://127.0.0.1:9").classes({"Blur": None}))
    assert "cannot be reached" in answer.problem


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    assert Registry.of(tmp_path, {"COMFY_REMOTE_REGISTRY": "off"}) is None
    known = Registry.of(tmp_path, {})
    assert known is not None
    assert known.address == "https://api.comfy.org"


def test_a_workflow_is_converted_with_the_registrys_classes_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = workflow(blur(1, "blurs", "1.0.0"))
    loaded = parse_workflow(document, "it")
    base = Found(Schemas.bundled(), ("It cannot be asked.",))
    double = RegistryDouble(PACKS)
    found = with_registry(double, monkeypatch, lambda: from_registry(base, loaded, folder=tmp_path))
    assert convert_workflow(document, found.schemas)["1"]["inputs"] == {"radius": 7, "how": "a"}
    assert found.schemas.is_snapshot
    assert found.notes[0] == "It cannot be asked."
    assert "Comfy Registry" in found.notes[1]
    assert "Blur" in found.notes[1]


def test_it_is_not_asked_where_nothing_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    double = RegistryDouble(PACKS)
    complete = parse_workflow(workflow(saved(1, "EmptyImage", [8, 8, 1, 0])), "it")
    lacking = parse_workflow(workflow(blur()), "it")
    prompt = parse_workflow({"1": {"class_type": "Blur", "inputs": {}}}, "it")
    own = Found(Schemas({}, "a target"), final=True)
    for base, loaded in [
        (Found(Schemas.bundled()), complete),
        (Found(Schemas.bundled()), prompt),
        (own, lacking),
    ]:

        async def work(base: Found = base, loaded: Any = loaded) -> Found:
            return await from_registry(base, loaded, folder=tmp_path)

        assert with_registry(double, monkeypatch, work).schemas is base.schemas
    assert double.asked == []


# What a target said before.


def target(nodes: Any) -> FakeTarget:
    """A target that says that of its nodes; ``None`` if it cannot say."""
    made = FakeTarget()
    made.name, made.nodes = "gpu", nodes
    return made


def described(asked: FakeTarget, folder: Path, address: str = "runpod:abc") -> Found:
    return asyncio.run(target_schemas(asked, address, folder=folder))  # type: ignore[arg-type]


def test_what_a_target_said_is_used_when_it_cannot_be_asked(tmp_path: Path) -> None:
    assert described(target(OBJECT_INFO), tmp_path).notes == ()
    found = described(target(None), tmp_path)
    assert "Blur" in found.schemas
    assert not found.final
    assert found.notes[0].startswith("gpu cannot be asked about its nodes; its schemas of 20")
    other = described(target(None), tmp_path, "runpod:other")
    assert other.schemas.is_snapshot
    assert "ComfyUI's own nodes" in other.notes[0]


def test_a_description_that_is_damaged_or_too_old_is_none(tmp_path: Path) -> None:
    described(target(OBJECT_INFO), tmp_path)
    [file] = (tmp_path / "schemas" / "targets").iterdir()
    whole = json.loads(gzip.decompress(file.read_bytes()))
    whole["at"] = "2020-01-01T00:00:00+00:00"
    file.write_bytes(gzip.compress(json.dumps(whole).encode()))
    assert known_without("runpod:abc", "gpu", "No", tmp_path).schemas.is_snapshot
    file.write_bytes(b"\x1f\x8b\0")
    assert known_without("runpod:abc", "gpu", "No", tmp_path).schemas.is_snapshot


def test_the_oldest_documents_go(tmp_path: Path) -> None:
    store = Store(tmp_path / "s", most=3, age=timedelta(days=1))
    for number in range(5):
        store.put(f"key {number}", {"n": number})
    assert len(list((tmp_path / "s").iterdir())) == 3


# What is given.


def test_a_file_of_schemas_is_read_and_anything_else_is_named(tmp_path: Path) -> None:
    file = tmp_path / "object_info.json"
    file.write_text(json.dumps(OBJECT_INFO))
    assert "Blur" in asyncio.run(given_schemas(file))
    workflow = {"1": {"class_type": "Blur", "inputs": {}}}
    for text in ("[]", "{", "{}", json.dumps(workflow)):
        file.write_text(text)
        with pytest.raises(ConfigurationError, match=r"object_info\.json cannot be read"):
            asyncio.run(given_schemas(file))


def test_the_schemas_of_a_running_comfyui_are_taken(sandbox_url: str) -> None:
    schemas = asyncio.run(given_schemas(sandbox_url))
    assert "EmptyImage" in schemas
    assert schemas.source == sandbox_url
