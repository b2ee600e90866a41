"""The key under which a result may be stored and found: the same only for what must give the same.

A key covers all that decides about a result: the prompt as it is sent, the content of every file
that it loads, what is embedded in its outputs, and what runs it. Whatever is not known for certain
is a `Doubt`, and a run with a doubt has no key.

What a key cannot cover is in the `Verdict` beside it: nodes whose models have to be loaded by the
run itself, since an engine keeps models in memory by their names, and whether it holds only as long
as the engine's process lives.

Source of facts: ``server.py`` (``/object_info``, ``/system_stats``), ``app/model_manager.py``
(``/experiment/models``), ``nodes.py`` (``load_custom_node``, ``LoraLoader``) and ``execution.py``
of ComfyUI 0.3.64 and 0.33.0.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from ..types import JsonValue, mapping
from ..wire.installed import COMFYUIS_OWN
from ..workflow.files import every_file_use
from ..workflow.graph import links
from ..workflow.models import FOLDERS, model_uses
from ..workflow.paid_nodes import is_paid, known_paid
from ..workflow.prompt import Node, Prompt, is_link
from ..workflow.schema import NodeSchema, Schemas

if TYPE_CHECKING:
    from ..wire.installed import Installed, InstalledPack, ModelFile

__all__ = [
    "Asked",
    "Doubt",
    "Runner",
    "Verdict",
    "early_doubts",
    "judged",
    "model_folders",
    "named_models",
]

# Hashed along, so that a change of the rules below makes every earlier key worthless.
_RULES = "comfy-remote cache key 1"

# Of a class's schema, besides its inputs.
_DECIDING = ("output", "output_is_list", "output_node", "python_module", "is_input_list")
_OWN_MODULES = ("nodes", "comfy_remote.sandbox")
_CUSTOM = "custom_nodes."
_TIME = re.compile(r"%(year|month|day|hour|minute|second|date(:[^%]*)?)%")
_SEED = re.compile(r"(^|_)seed(_|$)|^rand", re.IGNORECASE)
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*://|[/~\\]|\.{1,2}[/\\]|[a-z]:[/\\]", re.IGNORECASE)
_NAMES_A_PLACE = re.compile(r"(^|_)(path|dir|directory|folder|file|url)s?($|_)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why a run has no key.

    Attributes:
        why: A sentence.
        node_id: The node that it is about; ``None`` for all of the run.
        node_class: Its ``class_type``.
    """

    why: str
    node_id: str | None = None
    node_class: str | None = None

    def __str__(self) -> str:
        """``Node 5 (KSampler): …``."""
        return (
            self.why
            if self.node_id is None
            else f"Node {self.node_id} ({self.node_class}): {self.why}"
        )

    def to_json(self) -> dict[str, JsonValue]:
        """``{"node_id", "node_class", "why"}``."""
        return {"node_id": self.node_id, "node_class": self.node_class, "why": self.why}


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to run.

    Attributes:
        prompt: As it is sent, with the users' names of files.
        files: SHA-256 of each file that is sent along, by the name in the prompt.
        embedded: What goes into the outputs besides the prompt: the workflow in UI format.
        models: Where the worker is to fetch models from, and its list of them.
    """

    prompt: Prompt
    files: Mapping[str, str] = field(default_factory=dict)
    embedded: JsonValue = None
    models: JsonValue = None


@dataclass(frozen=True, slots=True)
class Runner:
    """What runs it, as the target says.

    Attributes:
        engine: Name and version.
        device: Of the GPU, or ``cpu``.
        nodes: What ``/object_info`` says of the prompt's classes.
        installed: Packs, models and the rest; ``None`` where the target does not say.
        confirmed: Whether the models are those that the engine has in its memory: a result is
            stored only if the worker's answer says so.
    """

    engine: str | None
    device: str | None
    nodes: Mapping[str, JsonValue] | None
    installed: Installed | None
    confirmed: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a run has a key.

    Attributes:
        key: 64 lower-case hex digits; ``None`` if there are doubts.
        doubts: Why there is none.
        to_load: Nodes that must run for the result to be stored: they load models, or use what
            these nodes load. An engine that has such a result in memory may have made it with
            another file of the same name.
        one_process: Whether the key holds only while the process lives that made the result: packs
            are installed there whose content the target does not say, and any pack may replace
            parts of ComfyUI when it is imported.
    """

    key: str | None
    doubts: tuple[Doubt, ...] = ()
    to_load: frozenset[str] = frozenset()
    one_process: bool = False

    def only_at(self, server: str) -> Verdict:
        """The same, with a key that no run elsewhere has.

        Args:
            server: Where it runs, in one spelling.
        """
        return self if self.key is None else replace(self, key=_sha256([self.key, server]))


@dataclass(frozen=True, slots=True)
class _Allowed:
    classes: frozenset[str]
    loaders: Mapping[str, Mapping[str, str]]
    held: frozenset[str]

    def has(self, class_type: str) -> bool:
        return class_type in self.classes or class_type in self.loaders


@lru_cache(maxsize=1)
def _allowed() -> _Allowed:
    """ComfyUI's own classes that give the same for the same inputs; its source is in the file."""
    from importlib.resources import files

    said = json.loads(files(__package__).joinpath("data").joinpath("cacheable.json").read_bytes())
    return _Allowed(frozenset(said["classes"]), said["loaders"], frozenset(said["held"]))


def model_folders(prompt: Prompt) -> frozenset[str]:
    """The folders of models that a key of this prompt depends on."""
    folders: set[str] = set()
    for _, folder, _ in named_models(prompt):
        folders.update(FOLDERS if folder is None else (folder,))
    return frozenset(folders)


def named_models(prompt: Prompt) -> list[tuple[str, str | None, str]]:
    """The models that a prompt names, each once a node: its id, the folder, the name.

    The folder is ``None`` where only the node's pack knows it. The name of an embedding has no
    ending, mostly.
    """
    named: dict[tuple[str, str | None, str], None] = {}
    for node_id, node in prompt.items():
        for name, folder in _allowed().loaders.get(node["class_type"], {}).items():
            value = node["inputs"].get(name)
            if isinstance(value, str):
                named[node_id, folder, value.replace("\\", "/")] = None
    loaded = {(node_id, name) for node_id, _, name in named}
    for use in model_uses(prompt):
        name = use.name.replace("\\", "/")
        if (use.node_id, name) not in loaded:
            named[use.node_id, use.folder, name] = None
    return list(named)


def early_doubts(asked: Asked, packs: Collection[str] = ()) -> tuple[Doubt, ...]:
    """The doubts that need no target to be asked.

    Args:
        packs: The names of packs that the owner vouches for: with any, a class that is not
            ComfyUI's may be from one of them.
    """
    return tuple(_early_doubts(asked, packs))


def _early_doubts(asked: Asked, packs: Collection[str]) -> Iterator[Doubt]:
    for node_id, node in asked.prompt.items():
        kind = node["class_type"]
        if kind in known_paid():
            yield Doubt("it is an API node, which asks a service.", node_id, kind)
        elif not _allowed().has(kind) and not packs:
            yield Doubt(
                "it is not among the nodes that are known to give the same for the same inputs.",
                node_id,
                kind,
            )
        for text in _texts(node["inputs"]):
            if found := _TIME.search(text):
                yield Doubt(f"{found[0]} in a text becomes the time of the run.", node_id, kind)
    for use in every_file_use(asked.prompt):
        yield from _file_doubts(asked, use.node_id, use.name, use.folder)


def _file_doubts(asked: Asked, node_id: str, name: str, folder: str) -> Iterator[Doubt]:
    kind = asked.prompt[node_id]["class_type"]
    if folder != "input":
        why = f"{name} is in a folder of the target ({folder}), so its content is not known."
        yield Doubt(why, node_id, kind)
    elif name.replace("\\", "/") not in asked.files:
        yield Doubt(f"{name} is not sent from here, so its content is not known.", node_id, kind)


def judged(asked: Asked, runner: Runner, packs: Collection[str] = ()) -> Verdict:
    """The key of a run, or why it has none.

    Args:
        packs: The names of packs that the owner vouches for: their nodes give the same for the same
            inputs, and they change nothing else in ComfyUI.
    """
    doubts = list(dict.fromkeys([*_early_doubts(asked, packs), *_runner_doubts(runner)]))
    installed, schemas = runner.installed, _schemas_of(asked.prompt, runner.nodes)
    if installed is None or schemas is None:
        return Verdict(None, tuple(doubts))
    vouched = {one.casefold() for one in packs}
    used: set[str] = set()
    for node_id, node in asked.prompt.items():
        doubts += _node_doubts(asked, node_id, node, schemas, vouched, used)
    for use in every_file_use(asked.prompt, schemas):
        doubts += _file_doubts(asked, use.node_id, use.name, use.folder)
    counted = _counted_packs(installed.packs, used, vouched)
    for pack in counted:
        if pack.name in used and pack.content is None:
            doubts.append(Doubt(f"{_target_says_not('the content of the node pack')} {pack.name}."))
    doubts += [
        Doubt(f"{_target_says_not('which files belong to the node pack')} {name}.")
        for name in sorted(used - {pack.name for pack in installed.packs})
    ]
    models = _models(asked.prompt, installed.models, confirmed=runner.confirmed)
    doubts += models.doubts
    if doubts:
        return Verdict(None, tuple(dict.fromkeys(doubts)))
    try:
        key = _sha256(
            [
                _RULES,
                json.dumps(asked.prompt, allow_nan=False),  # its order decides about names
                {**asked.files},
                asked.embedded,
                asked.models,
                [runner.engine, runner.device, installed.torch, [*installed.arguments]],
                [installed.python, {**installed.libraries}],
                [[pack.name, pack.version, pack.commit, pack.content] for pack in counted],
                [[_declared(schemas, node), node["class_type"]] for node in asked.prompt.values()],
                models.found,
            ]
        )
    except (ValueError, RecursionError):
        return Verdict(None, (Doubt("A value cannot be written as JSON."),))
    return Verdict(
        key,
        to_load=frozenset() if runner.confirmed else _after(asked.prompt, models.nodes),
        one_process=any(pack.content is None for pack in counted),
    )


def _runner_doubts(runner: Runner) -> Iterator[Doubt]:
    if runner.engine is None and runner.nodes is None and runner.installed is None:
        yield Doubt(f"{_target_says_not('what it would run this with')}.")
        return
    said = {
        "its engine's version": runner.engine,
        "its device": runner.device,
        "the schemas of its nodes": runner.nodes,
        "which packs and models it has": runner.installed,
        "its version of PyTorch": runner.installed and runner.installed.torch,
    }
    for what, value in said.items():
        if value is None:
            yield Doubt(f"{_target_says_not(what)}.")


def _target_says_not(what: str) -> str:
    return f"The target does not say {what}"


def _schemas_of(prompt: Prompt, nodes: Mapping[str, JsonValue] | None) -> Schemas | None:
    if nodes is None:
        return None
    wanted = {node["class_type"] for node in prompt.values()}
    said = {name: one for name, one in nodes.items() if name in wanted and isinstance(one, dict)}
    return Schemas(said, "the target")


def _node_doubts(
    asked: Asked,
    node_id: str,
    node: Node,
    schemas: Schemas,
    vouched: Collection[str],
    used: set[str],
) -> Iterator[Doubt]:
    """What is said against one node; the pack that it is from is noted in ``used``."""
    kind = node["class_type"]
    schema = schemas.get(kind)
    if schema is None:
        yield Doubt("the target does not have it.", node_id, kind)
        return
    if is_paid(schemas, kind):
        yield Doubt("it is an API node, which asks a service.", node_id, kind)
    module = schema.python_module or ""
    if module in _OWN_MODULES or module.startswith("comfy_extras."):
        if not _allowed().has(kind):
            yield Doubt(
                "it is not among ComfyUI's nodes that are known to give the same for the same "
                "inputs.",
                node_id,
                kind,
            )
        return
    pack = module.removeprefix(_CUSTOM).split(".")[0] if module.startswith(_CUSTOM) else ""
    if not pack:
        yield Doubt("the target does not say which pack it is from.", node_id, kind)
        return
    used.add(pack)
    if pack.casefold() not in vouched:
        replaced = "it replaces ComfyUI's own, and " if _allowed().has(kind) else ""
        yield Doubt(
            f"{replaced}it is from the pack {pack}, which cache_packs does not name.", node_id, kind
        )
        return
    yield from _pack_doubts(asked, node_id, node, schema)


def _pack_doubts(asked: Asked, node_id: str, node: Node, schema: NodeSchema) -> Iterator[Doubt]:
    """What is said against the values of a pack's node."""
    kind, inputs = node["class_type"], node["inputs"]
    for spec in schema.declared:
        if _SEED.search(spec.name) and spec.name not in inputs:
            yield Doubt(f"{spec.name} is not given, so it may be random.", node_id, kind)
    for name, value in inputs.items():
        if isinstance(value, int | float) and value < 0 and _SEED.search(name):
            yield Doubt(f"{name} is {value}, which may mean a random one.", node_id, kind)
        for text in _texts(value):
            if text.replace("\\", "/") in asked.files:
                continue
            if _ELSEWHERE.match(text) or (text and _NAMES_A_PLACE.search(name)):
                shown = text if len(text) <= 60 else f"{text[:60]}…"
                yield Doubt(
                    f"{name} is {shown!r}, which may name something that is not sent from here.",
                    node_id,
                    kind,
                )


def _counted_packs(
    installed: Iterable[InstalledPack], used: Collection[str], vouched: Collection[str]
) -> list[InstalledPack]:
    """The packs that a key depends on: all but those that are vouched for and not used."""
    return sorted(
        (
            pack
            for pack in installed
            if pack.name in used
            or (pack.name not in COMFYUIS_OWN and pack.name.casefold() not in vouched)
        ),
        key=lambda pack: pack.name,
    )


@dataclass(slots=True)
class _Models:
    """The models that a prompt names.

    Attributes:
        found: Folder, name, and what identifies the content of each.
        nodes: Those that name them.
    """

    found: list[JsonValue] = field(default_factory=list)
    nodes: set[str] = field(default_factory=set)
    doubts: list[Doubt] = field(default_factory=list)


def _models(
    prompt: Prompt, there: Mapping[str, Sequence[ModelFile]], *, confirmed: bool
) -> _Models:
    models = _Models()
    for node_id, node in prompt.items():
        kind = node["class_type"]
        for name in _allowed().loaders.get(kind, {}):
            if not isinstance(node["inputs"].get(name, ""), str):
                why = f"{name} comes from another node, so the model is not known."
                models.doubts.append(Doubt(why, node_id, kind))
    for node_id, of_folder, name in named_models(prompt):
        kind = prompt[node_id]["class_type"]
        models.nodes.add(node_id)
        if kind in _allowed().held and not confirmed:
            why = f"it keeps {name} in memory by its name, so a file that was replaced is not read."
            models.doubts.append(Doubt(why, node_id, kind))
        matches = _named_files(there, of_folder, name)
        if not matches:
            why = f"the target does not say which file {name} is."
            models.doubts.append(Doubt(why, node_id, kind))
        for folder, one in matches:
            if one.sha256 is None and (one.size is None or one.modified is None):
                why = f"the target says neither hash nor time of {name}."
                models.doubts.append(Doubt(why, node_id, kind))
            content: JsonValue = one.sha256 or [one.size, one.modified]
            models.found.append([folder, one.name, content])
    return models


def _named_files(
    there: Mapping[str, Sequence[ModelFile]], folder: str | None, name: str
) -> list[tuple[str, ModelFile]]:
    """All files of that name, since a folder of models may be in several places.

    Args:
        folder: ``None`` for any.
    """
    return [
        (where, one)
        for where in sorted(there if folder is None else {folder} & there.keys())
        for one in there[where]
        if _is_named(one.name, name, by_stem=where == "embeddings")
    ]


def _is_named(file: str, name: str, *, by_stem: bool) -> bool:
    if file == name:
        return True
    return by_stem and str(PurePosixPath(file).with_suffix("")) == name


def _after(prompt: Prompt, nodes: Collection[str]) -> frozenset[str]:
    """The nodes, and all that use what they give."""
    found, grows = set(nodes), True
    users: dict[str, set[str]] = {}
    for node_id, node in prompt.items():
        for _, source, _ in links(node):
            users.setdefault(source, set()).add(node_id)
    while grows:
        more = {user for one in found for user in users.get(one, ())} - found
        found |= more
        grows = bool(more)
    return frozenset(found)


def _declared(schemas: Schemas, node: Node) -> JsonValue:
    """What a class's schema says that a result may depend on.

    The choices of an input whose value is given are left out: they are mostly the files of the
    target, and the value counts by itself.
    """
    kind, given = node["class_type"], node["inputs"]
    document = schemas.document(kind) or {}
    declared: dict[str, JsonValue] = {
        group: {
            name: _without_choices(spec, name in given) for name, spec in mapping(specs).items()
        }
        for group, specs in schemas.declared(kind).items()
    }
    return {**{name: document.get(name) for name in _DECIDING}, "input": declared}


def _without_choices(spec: JsonValue, given: bool) -> JsonValue:
    if not given or not isinstance(spec, list) or not spec:
        return spec
    if isinstance(spec[0], list):
        return ["COMBO", *spec[1:]]
    if spec[0] == "COMBO" and len(spec) > 1 and isinstance(spec[1], dict):
        options = {name: one for name, one in spec[1].items() if name != "options"}
        return ["COMBO", options, *spec[2:]]
    return spec


def _texts(value: JsonValue) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        if not is_link(value):
            for one in value:
                yield from _texts(one)
    elif isinstance(value, dict):
        for one in value.values():
            yield from _texts(one)


def _sha256(document: JsonValue) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
