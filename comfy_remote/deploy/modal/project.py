"""The project of a deployment: a folder with prompt.json, modal_config.json and workflow.py.

Files that a person has edited stay: those that differ from what was written here the last time,
whose SHA-256 is in modal_config.json.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain
from pathlib import Path

from ...advice import Hint
from ...errors import ConfigurationError
from ...media.file_changes import replace_file
from ...media.files import leads_out, private_folder, storage_errors
from ...worker.nodes.install_custom_nodes import parse_list
from ...workflow.prompt import Prompt
from .config import CONFIG_FILE, ModalConfig
from .packing import Packing

__all__ = [
    "INPUT_FOLDER",
    "PROMPT_FILE",
    "WORKFLOW_FILE",
    "Project",
    "input_files",
    "named_in_folder",
    "project_folder",
    "read_text",
    "template",
    "write_project",
]

PROMPT_FILE = "prompt.json"
WORKFLOW_FILE = "workflow.py"
INPUT_FOLDER = "input"
"""Of a project: the files that prompt.json loads, for calls of the workflow's own API."""

_SHOWN_LINES = 30


@dataclass(frozen=True, slots=True)
class Project:
    """What was written.

    Attributes:
        edited: Names of the files that a person has edited, and that were not replaced.
        notes: What was done and what is missing, a sentence (or a few lines) each, for people.
        named: What it names that has to be trusted: see `ModalConfig.named`.
        brought: Those that the owner has not given now: the folder had them before; or they run
            beside the owner's Secrets, and come from the workflow; or come from its lock.
    """

    folder: Path
    config: ModalConfig
    edited: tuple[str, ...]
    notes: tuple[str, ...]
    named: tuple[str, ...] = ()
    brought: tuple[str, ...] = ()


def project_folder(workflow: Path, app_name: str, parent: Path | None = None) -> Path:
    """Where the project of a workflow is: ``PARENT/APP``, else ``modal_APP`` beside it.

    Raises:
        ConfigurationError: The latter is a link that leads elsewhere.
    """
    if parent is not None:
        return parent.expanduser().absolute() / app_name
    beside = workflow.expanduser().absolute().parent
    folder = beside / f"modal_{app_name}"
    if leads_out(folder, beside):
        raise ConfigurationError(
            f"{folder} is a link that leads out of {beside}.",
            advice=Hint.PROJECT_LINK(),
        )
    return folder


def input_files(folder: Path) -> Path | None:
    """A project's folder of files that the workflow loads; ``None`` where it has none.

    Raises:
        ConfigurationError: A link in it, which may have come with somebody's workflow, leads out:
            what it leads to would be deployed.
    """
    inputs = folder / INPUT_FOLDER
    for path in (inputs, *inputs.rglob("*")):
        _check_link(path, folder)
    return inputs if inputs.is_dir() else None


def _check_link(path: Path, folder: Path) -> None:
    if leads_out(path, folder):
        raise ConfigurationError(
            f"{path} is a link that leads out of the project.",
            advice="Put the file itself there, or remove the link.",
        )


def write_project(
    folder: Path,
    prompt: Prompt,
    packing: Packing,
    given: Mapping[str, object],
    *,
    force: bool = False,
    clean: bool = False,
    by_owner: bool = True,
    agreed: Collection[str] = (),
) -> Project:
    """Write a project, or bring one up to date.

    Args:
        folder: Made when missing. Other files in it are left alone.
        packing: What it needs: added to what modal_config.json has already.
        given: Fields of `ModalConfig` that a person has set now; they go before the file's.
            Custom nodes are added to its.
        force: Whether edited files are replaced.
        clean: Whether the folder's three files are ignored.
        by_owner: Whether ``given`` is the owner's word, and not a node's in some workflow.
        agreed: The lines of the lock that the owner has agreed to.

    Raises:
        ConfigurationError: modal_config.json cannot be read, a value cannot be used, or one of
            the files is a link that leads out: what differs in them is shown.
        LocalStorageError: It cannot be written.
    """
    for name in (CONFIG_FILE, PROMPT_FILE, WORKFLOW_FILE):
        _check_link(folder / name, folder)
    before = ModalConfig()
    config_path = folder / CONFIG_FILE
    if config_path.is_file() and not clean:
        before = ModalConfig.read(config_path)
    # Checked as they were given, so that an error names the one that is wrong.
    asking = ModalConfig.checked(dict(given))
    asked = asking.custom_nodes
    nodes = _pins(asked, packing.locked, before.custom_nodes, packing.custom_nodes)
    config = ModalConfig.checked(
        {
            **before.model_dump(),
            **({"comfyui_version": packing.comfyui} if packing.comfyui else {}),
            "models": list(dict.fromkeys([*before.models, *packing.models])),
            **given,
            "custom_nodes": nodes,
        }
    )
    wanted = {
        PROMPT_FILE: json.dumps(prompt, indent=2, ensure_ascii=False) + "\n",
        WORKFLOW_FILE: template(),
    }
    edited, notes, generated = [], [], dict(before.generated)
    for name, text in wanted.items():
        path = folder / name
        there = read_text(path)
        if there is None or there == text or force or clean or _hash(there) == generated.get(name):
            if there != text:
                _write(path, text)
            generated[name] = _hash(text)
        else:
            edited.append(name)
            notes.append(_edited(path, there, text))
    config = config.model_copy(update={"generated": generated})
    _write(config_path, config.text())
    locked = [line for line in packing.locked if line in nodes and line not in asked]
    if new := [line for line in nodes if line not in {*asked, *before.custom_nodes, *locked}]:
        # A workflow may be a stranger's, and this is code that it brings along.
        notes.append(
            "The workflow names these node packs, which are installed with it: review them, or "
            f"remove them from {CONFIG_FILE}: {', '.join(new)}"
        )
    script = read_text(folder / WORKFLOW_FILE) if WORKFLOW_FILE in edited else None
    given_now = asking.named()
    brought = [line for line in before.named(script) if line not in given_now]
    strange = [line for line in locked if line not in agreed]
    brought += ModalConfig.checked({"custom_nodes": strange}).named()
    if config.secrets:  # which all that runs there can read
        brought += ModalConfig.checked({"custom_nodes": new}).named()
        brought += [] if by_owner else given_now
    named = config.named(script)
    everything = (*notes, *packing.notes)
    return Project(folder, config, tuple(edited), everything, tuple(named), tuple(brought))


def named_in_folder(folder: Path) -> list[str]:
    """All that the project in a folder names, a line each; see `ModalConfig.named`.

    Raises:
        ConfigurationError: modal_config.json cannot be read.
    """
    text = read_text(folder / WORKFLOW_FILE)
    ours = text is None or text.replace("\r\n", "\n") == template()
    return ModalConfig.read(folder / CONFIG_FILE).named(None if ours else text)


def template() -> str:
    """workflow.py as it is written."""
    return files(__package__).joinpath("template").joinpath(WORKFLOW_FILE).read_text("utf-8")


def _pins(*lists: Iterable[str]) -> list[str]:
    """The custom nodes of all lists, each once, as the first has it.

    What a person asks for now goes before the file's, and that before the workflow's.
    """
    pins: dict[str, str] = {}
    for line in chain(*lists):
        (node,) = parse_list(line)
        pins.setdefault(node.name.lower(), line)
    return list(pins.values())


def read_text(path: Path) -> str | None:
    """The text of a project's file; ``None`` where it is missing."""
    with storage_errors(path):
        # Line ends stay as they are: an editor on Windows may have changed them all.
        return path.read_bytes().decode("utf-8", "replace") if path.is_file() else None


def _hash(text: str) -> str:
    return hashlib.sha256(text.replace("\r\n", "\n").encode()).hexdigest()


def _write(path: Path, text: str) -> None:
    """Write the whole file or nothing: beside it, then renamed."""
    with storage_errors(path), private_folder(path.parent) as beside:
        draft = beside / path.name
        draft.write_text(text, encoding="utf-8", newline="\n")
        replace_file(draft, path)


def _edited(path: Path, there: str, text: str) -> str:
    changes = list(
        difflib.unified_diff(
            there.splitlines(), text.splitlines(), "yours", "new", n=0, lineterm=""
        )
    )
    more = len(changes) - _SHOWN_LINES
    shown = [*changes[:_SHOWN_LINES], *([f"… and {more} more lines"] if more > 0 else [])]
    return Hint.PROJECT_FILE_EDITED(path=str(path), changes="\n".join(f"  {s}" for s in shown))
