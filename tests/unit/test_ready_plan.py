"""`comfy_remote.ready.plan`: what is needed compared with what is there."""

from __future__ import annotations

from typing import Any

import pytest

from comfy_remote.ready.lock import Lock, LockedComfyUI, LockedModel, LockedPack
from comfy_remote.ready.plan import Item, Standing, There, compare
from comfy_remote.wire.installed import InstalledPack, ModelFile

ONE, TWO = "1" * 64, "2" * 64
COMMIT, OTHER = "ab" * 20, "cd" * 20
THERE, MISSING, DIFFERENT, UNKNOWN, ONLY = (
    Standing.THERE,
    Standing.MISSING,
    Standing.DIFFERENT,
    Standing.UNKNOWN,
    Standing.ONLY_THERE,
)


def pack_item(needed: LockedPack, *found: InstalledPack, **there: Any) -> Item:
    """What is said of one needed pack."""
    plan = compare(Lock(packs=(needed,)), There("gpu", packs=found, **there))
    return next(one for one in plan.items if one.kind == "pack" and one.needed is not None)


def model_item(needed: LockedModel, **folders: list[ModelFile]) -> Item:
    """What is said of one needed model."""
    plan = compare(Lock(models=(needed,)), There("gpu", models=folders))
    return next(one for one in plan.items if one.kind == "model" and one.needed is not None)


@pytest.mark.parametrize(
    ("needed", "there", "standing"),
    [
        ("0.33.0", There("gpu", comfyui="0.33.0"), THERE),
        ("v0.33", There("gpu", comfyui="0.33.0"), THERE),
        ("0.33.0", There("gpu", comfyui="0.3.64"), DIFFERENT),
        ("0.33.0", There("gpu", engine="the sandbox"), DIFFERENT),
        ("0.33.0", There("gpu"), UNKNOWN),
        (None, There("gpu", comfyui="0.33.0"), UNKNOWN),
    ],
)
def test_comfyuis_version(needed: str | None, there: There, standing: Standing) -> None:
    item = compare(Lock(comfyui=LockedComfyUI(version=needed)), there).items[0]
    assert (item.kind, item.standing) == ("comfyui", standing)


@pytest.mark.parametrize(
    ("needed", "found", "standing"),
    [
        # A commit decides before a version, whatever the addresses' spelling.
        (
            LockedPack(url="https://github.com/A/Pack.git", commit=COMMIT, version="1.0"),
            InstalledPack(name="Pack", url="git@github.com:a/pack", commit=COMMIT, version="2.0"),
            THERE,
        ),
        (
            LockedPack(url="https://github.com/a/pack", commit=COMMIT[:8]),
            InstalledPack(name="x", url="https://github.com/a/pack/", commit=COMMIT),
            THERE,
        ),
        (
            LockedPack(url="https://github.com/a/pack", commit=COMMIT),
            InstalledPack(name="pack", commit=OTHER),
            DIFFERENT,
        ),
        (
            LockedPack(id="My-Pack", version="2.5"),
            InstalledPack(name="other", registry_id="my-pack", version="2.5.0"),
            THERE,
        ),
        (
            LockedPack(id="my-pack", version="2.5"),
            InstalledPack(name="my-pack", version="2.6"),
            DIFFERENT,
        ),
        # Installed from the registry here, cloned there: the version is what both have.
        (
            LockedPack(id="my-pack", version="2.5", commit=COMMIT),
            InstalledPack(name="my-pack", version="2.5.0"),
            THERE,
        ),
        (
            LockedPack(folder="mine", content=ONE),
            InstalledPack(name="mine", content=ONE),
            THERE,
        ),
        (
            LockedPack(folder="mine", content=ONE),
            InstalledPack(name="mine", content=TWO),
            DIFFERENT,
        ),
        # A plain ComfyUI: names alone.
        (LockedPack(id="my-pack", version="2.5"), InstalledPack(name="my-pack"), UNKNOWN),
        (LockedPack(id="my-pack"), InstalledPack(name="my-pack", version="1.0"), UNKNOWN),
        (LockedPack(id="my-pack", version="1"), InstalledPack(name="another"), MISSING),
        # The same folder, but somebody else's repository.
        (
            LockedPack(url="https://github.com/a/pack", commit=COMMIT),
            InstalledPack(name="pack", url="https://github.com/b/pack", commit=COMMIT),
            MISSING,
        ),
    ],
)
def test_packs(needed: LockedPack, found: InstalledPack, standing: Standing) -> None:
    assert pack_item(needed, found).standing is standing


def test_a_pack_that_lacks_a_class_that_is_needed_is_different() -> None:
    needed = LockedPack(id="my-pack", version="2.5", classes=("New", "Old"))
    item = pack_item(
        needed, InstalledPack(name="my-pack", version="2.5"), classes={"Old": "my-pack"}
    )
    assert (item.standing, item.why) == (DIFFERENT, "the one there has no New")


def test_a_pack_that_nobody_knows_goes_by_its_classes() -> None:
    needed = LockedPack(classes=("New",))
    assert pack_item(needed, classes={"New": ""}).standing is UNKNOWN
    assert pack_item(needed, classes={}).standing is MISSING
    assert pack_item(needed).standing is UNKNOWN


def test_a_target_that_says_nothing_of_packs() -> None:
    plan = compare(Lock(packs=(LockedPack(id="a", version="1"),)), There("gpu"))
    assert [one.standing for one in plan.items if one.kind == "pack"] == [UNKNOWN]
    assert plan.fits


def test_a_pack_is_taken_once() -> None:
    lock = Lock(packs=(LockedPack(id="a", version="1"), LockedPack(folder="a", version="1")))
    plan = compare(lock, There("gpu", packs=[InstalledPack(name="a", version="1")]))
    assert [one.standing for one in plan.items if one.kind == "pack"] == [THERE, MISSING]


@pytest.mark.parametrize(
    ("found", "standing"),
    [
        (ModelFile(name="a.safetensors", size=10, sha256=ONE), THERE),
        (ModelFile(name="a.safetensors", sha256=ONE), THERE),
        (ModelFile(name="a.safetensors", size=10, sha256=TWO), DIFFERENT),
        (ModelFile(name="a.safetensors", size=11), DIFFERENT),
        (ModelFile(name="a.safetensors", size=10), UNKNOWN),
        (ModelFile(name="a.safetensors"), UNKNOWN),
        (ModelFile(name="b.safetensors", size=10, sha256=TWO), MISSING),
    ],
)
def test_models(found: ModelFile, standing: Standing) -> None:
    needed = LockedModel(folder="loras", name="a.safetensors", size=10, sha256=ONE)
    assert model_item(needed, loras=[found]).standing is standing


def test_the_folders_that_comfyui_reads_as_one() -> None:
    needed = LockedModel(folder="unet", name="x/a.safetensors", sha256=ONE)
    there = ModelFile(name="x/a.safetensors", sha256=ONE)
    assert model_item(needed, diffusion_models=[there]).standing is THERE
    assert model_item(needed, loras=[there]).standing is MISSING


def test_a_model_whose_folder_is_unknown_is_looked_for_in_all() -> None:
    needed = LockedModel(name="a.onnx", sha256=ONE)
    assert model_item(needed, insightface=[ModelFile(name="a.onnx", sha256=ONE)]).standing is THERE


def test_an_embedding_is_named_without_its_ending() -> None:
    needed = LockedModel(folder="embeddings", name="easy", sha256=ONE)
    found = ModelFile(name="easy.pt", sha256=ONE)
    assert model_item(needed, embeddings=[found]).standing is THERE


def test_the_same_file_under_another_name_can_be_linked() -> None:
    needed = LockedModel(folder="loras", name="a.safetensors", size=10, sha256=ONE)
    item = model_item(needed, loras=[ModelFile(name="b.safetensors", size=10, sha256=ONE)])
    assert (item.standing, item.same_as) == (MISSING, "loras/b.safetensors")
    assert item.why == "loras/b.safetensors there is the same file"


def test_a_plan_counts_and_lists() -> None:
    lock = Lock(
        comfyui=LockedComfyUI(version="0.33.0"),
        packs=(LockedPack(id="needed", version="1"),),
        models=(
            LockedModel(folder="loras", name="a.safetensors", size=10, sha256=ONE),
            LockedModel(folder="loras", name="b.safetensors", size=5, sha256=TWO),
        ),
    )
    there = There(
        "gpu",
        comfyui="0.33.0",
        packs=[InstalledPack(name="extra"), InstalledPack(name="websocket_image_save")],
        models={"loras": [ModelFile(name="c.safetensors", size=5, sha256=TWO)]},
    )
    plan = compare(lock, there)
    assert not plan.fits
    assert [(one.name, one.standing) for one in plan.items] == [
        ("ComfyUI 0.33.0", THERE),
        ("needed", MISSING),
        ("extra", ONLY),
        ("loras/a.safetensors", MISSING),
        ("loras/b.safetensors", MISSING),
        ("loras/c.safetensors", ONLY),
    ]
    # The second one is there under another name, so it is not sent.
    assert plan.bytes_missing == 10
    assert plan.counts() == {
        "there": 1,
        "missing": 3,
        "different": 0,
        "unknown": 0,
        "only_there": 2,
    }
    said: Any = plan.to_json()
    assert said["items"][1]["needed"] == {"id": "needed", "version": "1", "classes": []}
    assert said["items"][4]["same_as"] == "loras/c.safetensors"


def test_thousands_of_packs_are_compared() -> None:
    url = "https://github.com/o/p{}"
    lock = Lock(packs=tuple(LockedPack(url=url.format(n), version="1") for n in range(4000)))
    packs = [InstalledPack(name=f"P{n}", url=url.format(n), version="1") for n in range(5000)]
    plan = compare(lock, There("gpu", packs=packs))  # each with each would take a minute
    assert (plan.counts()["there"], plan.counts()["only_there"]) == (4000, 1000)
