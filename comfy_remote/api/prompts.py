"""What is posted to start a job: read, checked, and its references to assets made input files."""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from pydantic import JsonValue, SecretStr, ValidationError

from ..errors import InputFileMissing
from ..media.content_names import content_name
from ..targets.base import InputFile
from ..wire.comfy_api import ASSET_TYPE, MOST_LABELS, JobRequest, label_problem
from ..workflow.files import ANNOTATION, FileUse
from ..workflow.files.names import may_look_up
from ..workflow.json_document import is_ui_format
from ..workflow.load import parse_prompt
from ..workflow.prompt import Place, Prompt, with_inputs
from .errors import ApiRefusal, ErrorCode

if TYPE_CHECKING:
    from .stored import StoredAsset

__all__ = ["OnTargetOnly", "PostedJob", "Reference", "labels_of", "posted_job", "with_files"]

_RESERVED = ("webhook_url", "inputs")
_LONGEST_ID = 200
_MOST_ASSETS = 1000
_KEY = re.compile(r"[!-~]{16,1024}")
"""What a key for partner nodes looks like. It is kept out of logs wherever it occurs, so it must
not be an ordinary word.
"""
_Path: TypeAlias = "tuple[str | int, ...]"


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference to an asset in a prompt.

    Attributes:
        node_id, input: Where it is.
        path: Keys and indices below the input's value; empty if it is the value.
        asset_id: What it refers to.
    """

    node_id: str
    input: str
    path: _Path
    asset_id: str


@dataclass(frozen=True, slots=True)
class PostedJob:
    """A request for a job, whose structure has been checked.

    Attributes:
        prompt: As it was posted, references included.
        references: Those in it, in its order.
        labels: By key.
        partner_key: The submitter's, for partner nodes. It goes to the target and nowhere else.
        size: Bytes of the request.
    """

    prompt: Prompt
    references: tuple[Reference, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    partner_key: SecretStr | None = field(default=None, repr=False)
    size: int = 0

    @property
    def asset_ids(self) -> list[str]:
        """The assets that it needs, each once, in order."""
        return list(dict.fromkeys(reference.asset_id for reference in self.references))


def posted_job(body: Mapping[str, JsonValue]) -> PostedJob:
    """The body of a request for a job.

    Raises:
        ApiRefusal: It is not one, with what is wrong.
        WorkflowInvalid: The workflow's structure is wrong.
    """
    for key in body:
        if key in _RESERVED:
            # As comfy-api-proxy says it: the document has no other code for it.
            raise ApiRefusal("invalid_workflow", f"{key!r} is reserved: no job may have it yet.")
        if key not in JobRequest.model_fields:
            raise ApiRefusal(
                "invalid_request",
                f"A job has no {key[:60]!r}, but {', '.join(map(repr, JobRequest.model_fields))}.",
            )
    if (labels := body.get("metadata")) is not None:
        labels_of(labels)  # has a code of its own
    try:
        request = JobRequest.model_validate(body)
    except ValidationError as error:
        of_workflow = any(one["loc"][:1] == ("workflow",) for one in error.errors())
        code: ErrorCode = "invalid_workflow" if of_workflow else "invalid_request"
        raise ApiRefusal(code, _problem(error)) from None
    if is_ui_format(request.workflow):
        raise ApiRefusal(
            "workflow_format_ui",
            "This is a workflow in UI format. Export it with Workflow > Export (API) in ComfyUI, "
            "and send that.",
        )
    prompt = parse_prompt(request.workflow, "The workflow")
    partner_key = request.extra_data.api_key_comfy_org if request.extra_data else None
    if partner_key and _KEY.fullmatch(partner_key) is None:
        raise ApiRefusal(
            "invalid_request",
            "extra_data.api_key_comfy_org is no key: one has 16 to 1024 characters without spaces.",
        )
    posted = PostedJob(
        prompt,
        tuple(_references(prompt)),
        dict(request.metadata or {}),
        SecretStr(partner_key) if partner_key else None,
    )
    if len(posted.asset_ids) > _MOST_ASSETS:
        raise ApiRefusal("invalid_request", f"A job refers to {_MOST_ASSETS} assets at most.")
    return posted


def labels_of(value: JsonValue) -> dict[str, str]:
    """A job's labels. Raises `ApiRefusal` (``metadata_invalid``) for what cannot be that."""
    if not isinstance(value, dict):
        raise ApiRefusal("metadata_invalid", "metadata is an object of texts.")
    if len(value) > MOST_LABELS:
        raise ApiRefusal(
            "metadata_invalid", f"A job has at most {MOST_LABELS} labels, not {len(value)}."
        )
    labels: dict[str, str] = {}
    for key, label in value.items():
        if not isinstance(label, str):
            raise ApiRefusal("metadata_invalid", f"The label {key[:60]!r} is not a text.")
        if (problem := label_problem(key, label)) is not None:
            raise ApiRefusal("metadata_invalid", problem)
        labels[key] = label
    return labels


def with_files(
    posted: PostedJob, assets: Sequence[StoredAsset]
) -> tuple[Prompt, tuple[InputFile, ...]]:
    """The prompt with names of files in the place of references, and those files.

    A file is named as its asset is; by its content if another asset has the same name.

    Args:
        assets: Those of `PostedJob.asset_ids`, in that order.
    """
    by_id = dict(zip(posted.asset_ids, assets, strict=True))
    files: dict[str, InputFile] = {}
    places: defaultdict[str, dict[Place, None]] = defaultdict(dict)
    values: dict[Place, JsonValue] = {}
    for reference in posted.references:
        asset, place = by_id[reference.asset_id], (reference.node_id, reference.input)
        file = _file_of(asset, files)
        files[file.name] = file
        places[file.name][place] = None
        if not reference.path:
            values[place] = file.name
            continue
        if place not in values:
            values[place] = copy.deepcopy(posted.prompt[place[0]]["inputs"][place[1]])
        _put(values[place], reference.path, file.name)
    named = (replace(file, places=tuple(places[name])) for name, file in files.items())
    return with_inputs(posted.prompt, values), tuple(named)


class OnTargetOnly:
    """The files of this machine that a stranger's prompt may name: none. An `InputSource`."""

    def find(self, use: FileUse) -> Path | None:
        """Nothing is here."""
        del use
        return None

    def described(self, path: Path) -> tuple[int, str]:
        """Never called, since `find` finds nothing."""
        raise NotImplementedError(path)

    def must_be_found(self, use: FileUse) -> bool:
        """Others than input files may be the target's own."""
        return use.folder == "input"

    def may_be_on_target(self, use: FileUse) -> bool:
        """By a plain name only: neither ``..`` nor an absolute path."""
        return may_look_up(use.name)

    def missing(self, use: FileUse, prompt: Prompt) -> InputFileMissing:
        """The error for what is not on the target."""
        return InputFileMissing(
            f"Node {use.node_id} ({prompt[use.node_id]['class_type']}) loads {use.name[:200]!r} in "
            f"{use.input!r}, which the target does not have.",
            advice="Upload it, and put the reference to the asset where its name is.",
            details={"node_id": use.node_id, "input": use.input, "name": use.name[:200]},
        )


def _references(prompt: Prompt) -> Iterator[Reference]:
    for node_id, node in prompt.items():
        for name, value in node["inputs"].items():
            for path, found in _typed(value):
                info = found.get("info")
                asset_id = info.get("id") if isinstance(info, dict) else None
                if not isinstance(asset_id, str) or not 0 < len(asset_id) <= _LONGEST_ID:
                    raise ApiRefusal(
                        "missing_asset",
                        f"Node {node_id} ({node['class_type']}): the reference in {name!r} names "
                        "no asset. Its info needs the id of one.",
                        details={"node_id": node_id, "input": name},
                    )
                yield Reference(node_id, name, path, asset_id)


def _typed(value: JsonValue) -> Iterator[tuple[_Path, dict[str, JsonValue]]]:
    """The references in a value, each with its path."""
    waiting: list[tuple[_Path, JsonValue]] = [((), value)]
    while waiting:
        path, one = waiting.pop()
        if isinstance(one, dict):
            if one.get("__type") == ASSET_TYPE:
                yield path, one
                continue
            waiting.extend(((*path, key), inner) for key, inner in reversed(one.items()))
        elif isinstance(one, list):
            indices = range(len(one) - 1, -1, -1)
            waiting.extend(((*path, index), one[index]) for index in indices)


def _put(value: JsonValue, path: _Path, name: str) -> None:
    *before, last = path
    inner = cast("dict[str | int, JsonValue]", value)
    for step in before:
        inner = cast("dict[str | int, JsonValue]", inner[step])
    inner[last] = name


def _file_of(asset: StoredAsset, files: Mapping[str, InputFile]) -> InputFile:
    name = asset.file_path
    if ANNOTATION.match(name):  # ComfyUI would look for it in that folder
        name = name.replace("[", "(").replace("]", ")")
    known = files.get(name)
    if known is not None and known.sha256 != asset.sha256:
        name = content_name(name, asset.sha256)
        known = files.get(name)
    return known or InputFile(name, asset.path, asset.size, asset.sha256)


def _problem(error: ValidationError) -> str:
    """The first problem, without the value, which may be a key."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part)[:60] for part in first["loc"][:3])
    return f"{where or 'The body'}: {first['msg']}."
