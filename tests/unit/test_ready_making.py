"""`comfy_remote.ready.needs`, `making` and `there`: from workflows and targets to a lock."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest
from fake_target import FakeTarget

from comfy_remote.errors import ConfigurationError, LockNotMet, TargetError
from comfy_remote.ready.holding import Held, hold, not_in_lock, what_to_do
from comfy_remote.ready.lock import Address, Lock, LockedComfyUI, LockedModel, LockedPack
from comfy_remote.ready.making import make_lock, unresolved_classes
from comfy_remote.ready.needs import Needs
from comfy_remote.ready.plan import Standing, There, compare
from comfy_remote.ready.there import all_there, target_there
from comfy_remote.schemas.registry import RegisteredPack
from comfy_remote.targets.base import Capabilities
from comfy_remote.wire.installed import Installed, InstalledPack, ModelFile
from comfy_remote.workflow.models import ModelSource
from comfy_remote.workflow.schema import Schemas

HASH, OTHER = "1" * 64, "2" * 64
COMMIT = "ab" * 20
URL = "https://huggingface.co/o/r/resolve/main/sd.safetensors"
PROMPT: Any = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a\\sd.safetensors"}},
    "2": {"class_type": "Theirs", "inputs": {"model": ["1", 0], "weights": "x/y.onnx"}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
    "9": {"class_type": "LoraLoader", "inputs": {"lora_name": "unused.safetensors"}},
}
WORKFLOW: Any = {
    "nodes": [
        {"id": 2, "type": "Theirs", "properties": {"cnr_id": "their-pack", "ver": "1.2.0"}},
        {"id": 1, "type": "CheckpointLoaderSimple", "properties": {"cnr_id": "comfy-core"}},
    ],
    "links": [],
    "models": [{"name": "a/sd.safetensors", "directory": "checkpoints", "url": URL}],
}


def needs_of(*, workflow: Any = WORKFLOW, schemas: Schemas | None = None) -> Needs:
    needs = Needs()
    needs.add("wf.json", PROMPT, workflow, schemas or Schemas.bundled())
    return needs


def test_what_a_workflow_needs_by_its_own_words() -> None:
    needs = needs_of()
    assert needs.workflows == ["wf.json"]
    assert needs.classes == {"Theirs": ("their-pack", "1.2.0")}
    assert {key: [one.url for one in sources] for key, sources in needs.models.items()} == {
        ("a/sd.safetensors", "checkpoints"): [URL],
        ("x/y.onnx", None): [],
    }


def test_a_folder_that_the_schemas_name_is_no_packs_id() -> None:
    nodes = {"Theirs": {"input": {}, "output": [], "python_module": "custom_nodes.Their-Folder.x"}}
    needs = needs_of(workflow=None, schemas=Schemas.bundled().with_classes(nodes, "it"))
    assert needs.classes == {"Theirs": None}
    assert needs.folders == {"Theirs": "Their-Folder"}
    assert unresolved_classes(needs, None) == []
    [pack] = make_lock(needs, None).lock.packs
    assert (pack.id, pack.folder, pack.classes) == (None, "Their-Folder", ("Theirs",))
    assert "no ComfyUI was found" in str(pack.unknown)


def test_a_comfyui_that_has_loaded_a_pack_knows_its_folder_better_than_its_files_say() -> None:
    nodes = {"Theirs": {"input": {}, "output": [], "python_module": "custom_nodes.loaded"}}
    needs = needs_of(workflow=None, schemas=Schemas.bundled().with_classes(nodes, "it"))
    packs = [InstalledPack(name=name, version="1.0.0") for name in ("loaded", "read")]
    here = There("here", packs=packs, classes={"Theirs": "read"})
    assert [one.folder for one in make_lock(needs, here).lock.packs] == ["loaded"]
    # The folder that somebody else's ComfyUI has it in is not one of these.
    here = There("here", packs=packs[1:], classes={"Theirs": "read"})
    assert [one.folder for one in make_lock(needs, here).lock.packs] == ["read"]


def test_without_an_installation_a_lock_has_what_the_workflow_says() -> None:
    made = make_lock(needs_of(), None)
    lock = made.lock
    assert made.where == ""
    assert lock.packs == (LockedPack(id="their-pack", version="1.2.0", classes=("Theirs",)),)
    assert [(one.path, one.sha256) for one in lock.models] == [
        ("x/y.onnx", None),
        ("checkpoints/a/sd.safetensors", None),
    ]
    assert [line.split(":")[0] for line in lock.unknown] == [
        "ComfyUI",
        "x/y.onnx",
        "checkpoints/a/sd.safetensors",
    ]


def test_what_is_installed_says_more_exactly_what_ran() -> None:
    there = There(
        "gpu",
        comfyui="0.33.0",
        packs=[
            InstalledPack(
                name="Their-Folder",
                registry_id="their-pack",
                version="1.3.0",
                commit=COMMIT,
                url="https://github.com/t/p",
            )
        ],
        models={
            "checkpoints": [
                ModelFile(name="a/sd.safetensors", size=7, sha256=HASH, fetched_from="civitai:12")
            ],
            "onnx": [ModelFile(name="x/y.onnx", size=3)],
        },
    )
    made = make_lock(needs_of(), there)
    assert made.lock.comfyui == LockedComfyUI(version="0.33.0")
    assert made.lock.packs == (
        LockedPack(
            id="their-pack",
            version="1.3.0",
            url="https://github.com/t/p",
            commit=COMMIT,
            folder="Their-Folder",
            classes=("Theirs",),
        ),
    )
    sd, other = made.lock.models
    assert sd == LockedModel(
        folder="checkpoints",
        name="a/sd.safetensors",
        size=7,
        sha256=HASH,
        addresses=(
            Address(by="target", url="https://civitai.com/api/download/models/12"),
            Address(by="workflow", url=URL),
        ),
    )
    assert (other.path, other.size) == ("onnx/x/y.onnx", 3)
    assert other.unknown == "its SHA-256 in gpu is not known"
    # Held to what it was locked by, a target fits.
    assert compare(made.lock, there).fits


def test_a_pack_that_says_nothing_is_known_by_its_content() -> None:
    there = There("gpu", packs=[InstalledPack(name="p", content=HASH)], classes={"Theirs": "p"})
    [pack] = make_lock(needs_of(workflow=None), there).lock.packs
    assert (pack.folder, pack.content, pack.unknown) == ("p", HASH, None)


def test_a_plain_comfyui_does_not_say_versions_but_the_workflow_may() -> None:
    there = There("lan", packs=[InstalledPack(name="their-pack")], models={})
    [pack] = make_lock(needs_of(), there).lock.packs
    assert (pack.version, pack.folder, pack.unknown) == ("1.2.0", "their-pack", None)
    there = There("lan", packs=[InstalledPack(name="p")], classes={"Theirs": "p"})
    [pack] = make_lock(needs_of(workflow=None), there).lock.packs
    assert pack.unknown == "lan does not say which version it has"


def test_what_the_registry_knows() -> None:
    needs = needs_of(workflow=None)
    assert unresolved_classes(needs, None) == ["Theirs"]
    registered = RegisteredPack("their-pack", "2.0.0", "https://github.com/t/p")
    [pack] = make_lock(needs, None, registry={"Theirs": registered}).lock.packs
    assert (pack.id, pack.version, pack.url) == ("their-pack", "2.0.0", "https://github.com/t/p")
    assert "registry's newest" in str(pack.unknown)
    # Whoever has published it may have written anything there.
    odd = RegisteredPack("their-pack", "2.0.0", "ext::sh -c x")
    [pack] = make_lock(needs, None, registry={"Theirs": odd}).lock.packs
    assert (pack.id, pack.url) == ("their-pack", None)


@pytest.mark.parametrize(
    ("said", "locked"),
    [
        (("o/n", COMMIT), LockedPack(url="https://github.com/o/n", commit=COMMIT)),
        (("p", "v1.0.3"), LockedPack(id="p", version="v1.0.3")),
        (("p", "nightly"), LockedPack(id="p")),
        (("../p", "1.0"), LockedPack()),
        (("o/..", "1.0"), LockedPack()),
    ],
)
def test_how_workflows_name_packs(said: tuple[str, str | None], locked: LockedPack) -> None:
    [pack] = make_lock(Needs(classes={"A": said}), None).lock.packs
    found = pack.model_copy(update={"classes": (), "unknown": None})
    assert found == locked


def test_an_address_loses_its_login_and_another_file_its_address() -> None:
    def source(url: str, sha256: str | None = None) -> ModelSource:
        return ModelSource("sd", "checkpoints", url, sha256, "SHA256" if sha256 else None)

    there = There("gpu", models={"checkpoints": [ModelFile(name="sd", size=1, sha256=HASH)]})
    needs = Needs(
        models={
            ("sd", "checkpoints"): [
                source("https://me:planted@civitai.com/api/download/models/1?token=planted&fp=16"),
                source("https://example.com/other", OTHER),
                source("https://example.com/same", HASH),
                source("file:///etc/passwd"),
                source("javascript:alert(1)"),
            ],
            ("../../x.safetensors", "loras"): [],
        }
    )
    made = make_lock(needs, there)
    [model] = made.lock.models
    assert [one.url for one in model.addresses] == [
        "https://civitai.com/api/download/models/1?fp=16",
        "https://example.com/same",
    ]
    assert "planted" not in made.lock.to_toml()
    assert len(made.notes) == 2
    assert "another one than the workflow names" in made.notes[0]
    assert "'../../x.safetensors' is omitted" in made.notes[1]


def test_a_hash_in_the_workflow_says_what_is_needed() -> None:
    needs = Needs(models={("a", "vae"): [ModelSource("a", "vae", URL, HASH.upper(), "SHA256")]})
    [model] = make_lock(needs, None).lock.models
    assert (model.sha256, model.unknown) == (HASH, None)


# What is there


class Plain(FakeTarget):
    """As a ComfyUI answers: names of packs, names and sizes of models."""

    def __init__(self, *, sizes: bool = True) -> None:
        super().__init__()
        self.sizes = sizes
        self.asked: list[Collection[str]] = []

    async def models(self) -> dict[str, list[str]]:
        return {"checkpoints": ["a/sd.safetensors"], "loras": ["l.safetensors"]}

    async def what_runs(self, classes: Collection[str], folders: Collection[str]) -> Capabilities:
        self.asked.append(sorted(folders))
        files = [ModelFile(name="a/sd.safetensors", size=7)] if self.sizes else []
        models = {"checkpoints": files} if "checkpoints" in folders else {}
        nodes: dict[str, Any] = {"Theirs": {"python_module": "custom_nodes.p.sub"}}
        return Capabilities(
            {name: node for name, node in nodes.items() if name in classes},
            "cpu",
            "ComfyUI 0.33.0",
            installed=Installed(packs=[InstalledPack(name="p")], models=models),
        )

    async def still_runs(self, job_id: str) -> bool:
        return True


class Ours(FakeTarget):
    """As an endpoint with our worker answers."""

    said = Capabilities(
        {"Theirs": {"python_module": "custom_nodes.p"}},
        "gpu",
        "ComfyUI 0.33.0",
        installed=Installed(
            packs=[InstalledPack(name="p", registry_id="their-pack", version="1.2.0")],
            models={"checkpoints": [ModelFile(name="a/sd.safetensors", size=7, sha256=HASH)]},
        ),
    )

    async def describe(self, classes: object = None) -> Capabilities:
        return self.said

    async def described_before(self) -> Capabilities:
        raise AssertionError("a lock is held to what a worker says")

    async def describe_again(self) -> Capabilities:
        return self.said


LOCK = Lock(
    comfyui=LockedComfyUI(version="0.33.0"),
    packs=(LockedPack(id="their-pack", version="1.2.0", folder="p", classes=("Theirs",)),),
    models=(LockedModel(folder="checkpoints", name="a/sd.safetensors", size=7, sha256=HASH),),
)


async def test_a_plain_comfyui_fits_as_far_as_it_says() -> None:
    target = Plain()
    held = await hold(LOCK, target)
    assert target.asked == [["checkpoints"]]
    assert held.problems == []
    held.refuse("the lock")
    assert held.doubts == [
        "fake is not held to their-pack: it is there, but its version is not known.",
        "fake is not held to checkpoints/a/sd.safetensors: a file of that name and size is there, "
        "but its SHA-256 is not known.",
    ]


async def test_a_comfyui_that_tells_no_sizes_is_known_by_names() -> None:
    there = await target_there(Plain(sizes=False), LOCK)
    assert there.models == {
        "checkpoints": [ModelFile(name="a/sd.safetensors")],
        "loras": [ModelFile(name="l.safetensors")],
    }
    assert there.classes == {"Theirs": "p"}


async def test_all_models_are_asked_for_where_a_plan_needs_them() -> None:
    target = Plain()
    await target_there(target, LOCK, everything=True)
    assert target.asked == [["checkpoints", "loras"]]


async def test_a_worker_of_ours_says_all() -> None:
    held = await hold(LOCK, Ours())
    assert (held.problems, held.doubts) == ([], [])
    [plan] = held.plans
    assert {one.standing for one in plan.items} == {Standing.THERE}


class Says(FakeTarget):
    """As a target answers that knows nothing of what it has."""

    async def describe(self, classes: object = None) -> Capabilities:
        return Capabilities(None, None, None)


async def test_a_target_that_says_nothing_is_not_refused() -> None:
    held = await hold(LOCK, Says())
    held.refuse("the lock")
    assert len(held.doubts) == 3
    assert held.to_json()["fits"] is True


class Route(Ours):
    """Two targets, of which one takes the job."""

    def __init__(self, *members: FakeTarget) -> None:
        super().__init__()
        self.among: Sequence[Any] = members

    def located(self, ref: Any) -> Any:
        return ref, None

    async def likely(self, prompt: Any) -> Any:
        return None

    async def problems(self) -> Mapping[str, str]:
        return {}


class Older(Ours):
    """Another version of all."""

    name = "old"
    said = Capabilities(
        {},
        "gpu",
        "ComfyUI 0.3.64",
        installed=Installed(
            packs=[InstalledPack(name="p", registry_id="their-pack", version="1.0.0")],
            models={"loras": [ModelFile(name="x.safetensors", sha256=HASH)]},
        ),
    )


async def test_each_member_of_a_route_is_held_to_the_lock() -> None:
    assert [one.name for one in await all_there(Route(Ours(), Older()), LOCK)] == ["fake", "old"]
    held = await hold(LOCK, Route(Ours(), Older()))
    with pytest.raises(LockNotMet) as raised:
        held.refuse("my.lock")
    assert raised.value.message.splitlines() == [
        "old is not what my.lock says, so nothing was sent:",
        "old: ComfyUI 0.33.0 is different: 0.3.64 is there. Install ComfyUI 0.33.0 there.",
        "old: their-pack is different: the one there has no Theirs. Install version 1.2.0 of it "
        "there, from the Comfy Registry.",
        "old: checkpoints/a/sd.safetensors is missing: loras/x.safetensors there is the same "
        "file. Copy or link loras/x.safetensors to models/checkpoints/a/sd.safetensors there.",
    ]
    assert raised.value.exit_status == 4
    problems: Any = raised.value.details["problems"]
    assert [(one["target"], one["kind"], one["standing"]) for one in problems] == [
        ("old", "comfyui", "different"),
        ("old", "pack", "different"),
        ("old", "model", "missing"),
    ]


class Silent(Ours):
    async def describe(self, classes: object = None) -> Capabilities:
        raise TargetError("it does not answer")


async def test_a_target_that_cannot_be_asked_is_an_error() -> None:
    with pytest.raises(TargetError):
        await hold(LOCK, Silent())


BY_HAND = "https://models.example/a?token=planted-by-hand"


@pytest.mark.parametrize(
    ("lock", "words"),
    [
        (
            Lock(packs=(LockedPack(url="https://github.com/o/n", commit=COMMIT),)),
            f"Check out commit {COMMIT} of https://github.com/o/n there.",
        ),
        (Lock(packs=(LockedPack(id="p"),)), "Install p there."),
        (Lock(packs=(LockedPack(folder="f"),)), "Copy its folder, f, to custom_nodes there."),
        (
            Lock(models=(LockedModel(folder="vae", name="a", size=2_000_000),)),
            "Copy it to models/vae/a there (2.0 MB); no address of it is known.",
        ),
        (
            Lock(models=(LockedModel(name="a", addresses=(Address(by="x", url=URL),)),)),
            f"Put it into models/a there: {URL}",
        ),
        (
            Lock(models=(LockedModel(name="a", addresses=(Address(by="me", url=BY_HAND),)),)),
            "Put it into models/a there: https://models.example/a (the rest of the address: in the "
            "lock)",
        ),
    ],
)
def test_what_to_do_about_what_is_missing(lock: Lock, words: str) -> None:
    plan = compare(lock, There("gpu", packs=[], models={}))
    assert [what_to_do(one) for one in plan.problems] == [words]
    assert "planted" not in json.dumps(plan.to_json())
    assert [line.endswith(words) for line in Held((plan,)).lines()] == [True]


def test_what_a_workflow_uses_beside_its_lock() -> None:
    lock = make_lock(needs_of(), None).lock
    schemas = Schemas.bundled()
    assert not_in_lock(lock, PROMPT, schemas=schemas, workflow=WORKFLOW) == []
    changed = {**PROMPT, "1": {**PROMPT["1"], "inputs": {"ckpt_name": "new.safetensors"}}}
    changed["2"] = {**PROMPT["2"], "class_type": "Another"}
    assert not_in_lock(lock, changed, schemas=schemas) == [
        "Another",
        "checkpoints/new.safetensors",
    ]


def test_whatever_a_workflow_names_its_lock_can_be_read() -> None:
    classes = {"C" * 2000: None, "": None, "A\ud800": None, "Fine": None}
    urls = [ModelSource("a.safetensors", "loras", f"https://h/{n}") for n in range(80)]
    needs = Needs(classes={**classes}, models={("a.safetensors", "loras"): urls})
    made = make_lock(needs, None)
    lock = Lock.parse(made.lock.to_toml().encode().decode(), "it")
    assert [one.classes for one in lock.packs] == [("Fine",)]
    assert len(lock.models[0].addresses) == 50
    assert lock.models[0].addresses[0].url == "https://h/0"
    assert sum("is omitted: it is not the name of a node class" in one for one in made.notes) == 3


@pytest.mark.parametrize("kind", ["classes", "models"])
def test_more_than_a_lock_has_is_refused(kind: str) -> None:
    needs = Needs()
    for n in range(5001):
        if kind == "classes":
            needs.classes[f"C{n}"] = None
        else:
            needs.models[f"{n}.safetensors", "loras"] = []
    with pytest.raises(ConfigurationError, match="are more than a lock has"):
        make_lock(needs, None)
