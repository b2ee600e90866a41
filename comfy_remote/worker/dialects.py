"""How a worker answers: one object a dialect, with all that a client of it expects.

A new one is a class here, in `DIALECTS`, and its shapes in a module of ``wire/``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import ClassVar, TypeAlias

from pydantic import JsonValue

from ..errors import ComfyRemoteError, ExecutionFailed, OutputLost, WorkflowInvalid, node_problems
from ..events import ShownValues
from ..media.receive import Received
from ..outputs import OutputProblem, RemoteOutput
from ..secrets import redact
from ..types import as_list
from ..wire.answer import Answer, AnswerOutput, AnswerProblem
from ..wire.installed import RanOn
from ..wire.plain import (
    FailedOutput,
    ImageB64,
    ImagesB64Answer,
    PlainAnswer,
    PlainError,
    plain_error_type,
)
from ..wire.request import COMFY_REMOTE_1
from ..wire.runpod import error_to_runpod
from ..wire.worker_comfyui import WorkerComfyUIAnswer, WorkerComfyUIImage
from ..workflow.output_nodes import ADD_AN_OUTPUT
from .collect import CollectedOutput
from .storage import Store, StoredFile

__all__ = [
    "DIALECTS",
    "AnswerFacts",
    "Content",
    "Dialect",
    "Draft",
    "Failure",
    "dialect_named",
    "dialect_of",
]

Content: TypeAlias = Callable[[Received], str]
"""What to write for a file: its base64, or nothing while sizes are being counted."""

# A request with one of these beside its workflow follows the `plain` worker's description.
_PLAIN_KEYS = frozenset(
    {"prompt", "prompt_node_id", "seed", "seed_node_id", "width", "height", "size_node_id"}
)
_LOG_LINES = 10
_NOTHING_SAVED = (
    "The workflow ran, and saved no file: what it made are previews or texts, which this form of "
    "answer does not have. Add a Save Image node to it, or send "
    f'"format": "{COMFY_REMOTE_1}" to get them, too.'
)


@dataclass(frozen=True, slots=True)
class AnswerFacts:
    """What an answer says beside the outputs; see `Answer` and `PlainAnswer`."""

    timings: dict[str, float]
    engine: str | None = None
    worker: str | None = None
    prompt_id: str = ""
    seconds: float = 0.0
    kept_inputs: Sequence[str] = ()
    problems: Sequence[OutputProblem] = ()
    shown: Mapping[str, ShownValues] = field(default_factory=dict)
    ran_on: RanOn | None = None
    mostly_cached: bool = False


@dataclass(frozen=True, slots=True)
class Draft:
    """What an answer is made from.

    Attributes:
        stored: Where the files are that are not part of the answer, by their number.
        warnings: What went wrong without failing the job.
    """

    collected: Sequence[CollectedOutput]
    facts: AnswerFacts
    stored: Mapping[int, StoredFile]
    warnings: Sequence[str]
    content: Content

    @property
    def files(self) -> list[tuple[int, str, Received]]:
        """The files: number, ComfyUI's name, and file.

        Those that would have the same name have their subfolder before it.
        """
        files = [(n, one.output, one.file) for n, one in enumerate(self.collected) if one.file]
        often = Counter(output.filename for _, output, _ in files)
        return [
            (number, f"{output.subfolder}/{output.filename}", file)
            if often[output.filename] > 1 and output.subfolder
            else (number, output.filename, file)
            for number, output, file in files
        ]


@dataclass(frozen=True, slots=True)
class Failure:
    """What a failed job's answer is made from.

    Attributes:
        environ: Whose secrets are taken out.
        seconds: Since the job arrived.
        saved: The answer with the outputs that it had saved before, in the same dialect; ``None``
            if there are none.
    """

    error: ComfyRemoteError
    environ: Mapping[str, str]
    seconds: float = 0.0
    saved: Mapping[str, JsonValue] | None = None

    def clean(self, text: str) -> str:
        """The text without secrets."""
        return redact(text, self.environ)


class Dialect(ABC):
    """The shape of answers that one kind of client expects.

    Attributes:
        name: As a request's ``format`` names it.
        has_addresses: Whether an answer can say where a file was stored instead of having it.
        has_texts: Whether an answer has texts that nodes show.
        stores_all: Whether all files go to a store that has room, however small they are.
    """

    name: ClassVar[str]
    has_addresses: ClassVar[bool] = False
    has_texts: ClassVar[bool] = False
    stores_all: ClassVar[bool] = False

    def recognizes(self, payload: Mapping[str, JsonValue]) -> bool:
        """Whether a request that names no format shows by its keys that it wants this one.

        Here: never.
        """
        del payload
        return False

    @abstractmethod
    def answer(self, draft: Draft) -> dict[str, JsonValue]:
        """A job's answer as JSON."""

    def can_hold(self, outputs: Sequence[RemoteOutput]) -> tuple[RemoteOutput, ...]:
        """Those outputs that an answer can have, in the same order.

        Here: files only. Those that are saved; and where nothing is saved, previews.
        """
        files = [one for one in outputs if one.text is None]
        return tuple([one for one in files if one.folder == "output"] or files)

    def wanted(
        self, outputs: Sequence[RemoteOutput], *, shows_values: bool = False
    ) -> tuple[RemoteOutput, ...]:
        """`can_hold` of a job that succeeded; an error if there is none.

        Args:
            shows_values: Whether a node shows something else in ComfyUI's page.
        """
        del shows_values  # an answer cannot have them
        if found := self.can_hold(outputs):
            return found
        if outputs:
            raise ExecutionFailed(
                "The workflow ran, and what it made are texts, which this form of answer does not "
                "have.",
                advice="Add a Save Image node, or another one that saves a file; or send "
                f'"format": "{COMFY_REMOTE_1}" to get texts, too.',
            )
        raise self._no_output(ExecutionFailed)

    def usable(self, stores: Sequence[Store]) -> list[Store]:
        """Those stores whose addresses an answer can have."""
        del stores
        return []

    def failure(self, failed: Failure) -> dict[str, JsonValue]:
        """``{"error": …}``, from which the SDK makes a failed job, with what it had saved.

        Here: the form of ``plain``, of which the SDK moves ``error`` out of the job's output: a
        request that is refused may lack the very key that shows its dialect. ``details``, if there
        is more to say, is a list of lines, as worker-comfyui has it.
        """
        details: list[JsonValue] = [failed.clean(line) for line in _lines(failed.error)]
        return {**_plain_error(failed), **({"details": details} if details else {})}

    @staticmethod
    def _no_output(kind: type[ComfyRemoteError]) -> ComfyRemoteError:
        return kind(
            "The workflow ran and made no output.",
            advice=ADD_AN_OUTPUT,
        )


class _ComfyRemote1(Dialect):
    """Ours: all outputs, wherever they are, and everything that is known about the run."""

    name = COMFY_REMOTE_1
    has_addresses = True
    has_texts = True

    def can_hold(self, outputs: Sequence[RemoteOutput]) -> tuple[RemoteOutput, ...]:
        """All of them."""
        return tuple(outputs)

    def wanted(
        self, outputs: Sequence[RemoteOutput], *, shows_values: bool = False
    ) -> tuple[RemoteOutput, ...]:
        """All of them; none is an error unless a node shows something else."""
        if not outputs and not shows_values:
            raise self._no_output(OutputLost)
        return tuple(outputs)

    def usable(self, stores: Sequence[Store]) -> list[Store]:
        """All of them: our clients know how to fetch from each."""
        return list(stores)

    def answer(self, draft: Draft) -> dict[str, JsonValue]:
        """See `wire.answer.Answer`."""

        def described(number: int, one: CollectedOutput) -> AnswerOutput:
            output, file, at = one.output, one.file, draft.stored.get(number)
            return AnswerOutput(
                node_id=output.node_id,
                kind=output.kind,
                filename=output.filename,
                subfolder=output.subfolder,
                folder=output.folder,
                media_type=output.media_type,
                size=file.size if file else None,
                sha256=file.sha256 if file else None,
                text=output.text,
                key=output.key,
                url=at.url if at else None,
                delete_url=at.delete_url if at else None,
                kept=at.kept if at else None,
                data=draft.content(file) if file and at is None else None,
            )

        facts = draft.facts
        return Answer(
            outputs=[described(number, one) for number, one in enumerate(draft.collected)],
            timings=facts.timings,
            engine=facts.engine,
            worker=facts.worker,
            warnings=list(draft.warnings),
            problems=[AnswerProblem.of(problem) for problem in facts.problems] or None,
            shown={node_id: dict(values) for node_id, values in facts.shown.items()},
            kept_inputs=list(facts.kept_inputs) or None,
            ran_on=facts.ran_on,
            mostly_cached=facts.mostly_cached or None,
        ).model_dump(mode="json", exclude_none=True)

    def failure(self, failed: Failure) -> dict[str, JsonValue]:
        """The whole error, as our targets read it."""
        said = FailedOutput.of(failed.error)
        said.error_message = failed.clean(said.error_message)
        return {
            **(failed.saved or {}),
            **said.model_dump(mode="json"),
            "error": failed.clean(error_to_runpod(failed.error)),
        }


class _WorkerComfyUI(Dialect):
    """The public RunPod worker's: saved files of any kind, all in a bucket if there is one."""

    name = "worker-comfyui"
    has_addresses = True
    stores_all = True

    def can_hold(self, outputs: Sequence[RemoteOutput]) -> tuple[RemoteOutput, ...]:
        """Saved files."""
        return tuple(one for one in outputs if one.text is None and one.folder == "output")

    def wanted(
        self, outputs: Sequence[RemoteOutput], *, shows_values: bool = False
    ) -> tuple[RemoteOutput, ...]:
        """Saved files; it says ``success_no_images`` where there are other outputs only."""
        del shows_values
        if not outputs:
            raise self._no_output(ExecutionFailed)
        return self.can_hold(outputs)

    def usable(self, stores: Sequence[Store]) -> list[Store]:
        """Buckets: any client can fetch from there by a plain GET."""
        return [store for store in stores if store.public]

    def answer(self, draft: Draft) -> dict[str, JsonValue]:
        """See `wire.worker_comfyui.WorkerComfyUIAnswer`."""
        images: list[WorkerComfyUIImage] = []
        for number, name, file in draft.files:
            at = draft.stored.get(number)
            images.append(
                WorkerComfyUIImage(filename=name, type="s3_url", data=at.url)
                if at and at.url
                else WorkerComfyUIImage(filename=name, type="base64", data=draft.content(file))
            )
        return WorkerComfyUIAnswer(
            images=images,
            errors=list(draft.warnings) or None,
            status=None if draft.collected else "success_no_images",
            message=None if draft.collected else _NOTHING_SAVED,
        ).model_dump(mode="json", exclude_none=True)

    def failure(self, failed: Failure) -> dict[str, JsonValue]:
        """With pictures there is no failed job: ``errors`` says that it failed."""
        if not failed.saved:
            return super().failure(failed)
        warnings = failed.saved.get("errors")
        said: list[JsonValue] = [failed.clean(f"The job failed: {failed.error}")]
        return {**failed.saved, "errors": [*said, *as_list(warnings or [])]}


class _Plain(Dialect):
    """Pictures as a list of base64 texts, and their names."""

    name = "plain"

    def recognizes(self, payload: Mapping[str, JsonValue]) -> bool:
        """Whether one of its overrides is there."""
        return not _PLAIN_KEYS.isdisjoint(payload)

    def answer(self, draft: Draft) -> dict[str, JsonValue]:
        """See `wire.plain.PlainAnswer`."""
        return PlainAnswer(
            images=[draft.content(file) for _, _, file in draft.files],
            filenames=[name for _, name, _ in draft.files],
            execution_time_seconds=draft.facts.seconds,
            prompt_id=draft.facts.prompt_id,
            warnings=list(draft.warnings) or None,
        ).model_dump(mode="json", exclude_none=True)

    def failure(self, failed: Failure) -> dict[str, JsonValue]:
        """See `wire.plain.PlainError`."""
        return _plain_error(failed)


class _ImagesB64(Dialect):
    """What ComfyUI's page passes on to ``POST /remote/save``."""

    name = "images-b64"

    def recognizes(self, payload: Mapping[str, JsonValue]) -> bool:
        """Whether the workflow is under ``prompt``."""
        return isinstance(payload.get("prompt"), dict)

    def answer(self, draft: Draft) -> dict[str, JsonValue]:
        """See `wire.plain.ImagesB64Answer`."""
        return ImagesB64Answer(
            images=[ImageB64(b64=draft.content(file), name=name) for _, name, file in draft.files],
            warnings=list(draft.warnings) or None,
        ).model_dump(mode="json", exclude_none=True)


DIALECTS: tuple[Dialect, ...] = (_ComfyRemote1(), _ImagesB64(), _Plain(), _WorkerComfyUI())
"""All of them."""


def dialect_named(name: str) -> Dialect:
    """The dialect of that name; `WorkflowInvalid` if there is none."""
    for dialect in DIALECTS:
        if dialect.name == name:
            return dialect
    known = ", ".join(dialect.name for dialect in DIALECTS)
    raise WorkflowInvalid(
        f"The job's input is not valid: format: there is no format {name!r}.",
        advice=f"Use one of: {known}.",
    )


def dialect_of(payload: JsonValue, otherwise: str = _WorkerComfyUI.name) -> Dialect:
    """The dialect to answer a request in, also one that is not valid.

    The one that ``format`` names, else the first that recognizes the request by its keys.

    Args:
        otherwise: The format of a request that shows none: one of `wire.request.FORMATS`.
    """
    sent = payload if isinstance(payload, dict) else {}
    named = (dialect for dialect in DIALECTS if dialect.name == sent.get("format"))
    recognized = (dialect for dialect in DIALECTS if dialect.recognizes(sent))
    return next(chain(named, recognized), None) or dialect_named(otherwise)


def _plain_error(failed: Failure) -> dict[str, JsonValue]:
    return {
        **(failed.saved or {}),
        **PlainError(
            error_type=plain_error_type(failed.error),
            error_message=failed.clean(str(failed.error)),
            error=failed.clean(str(failed.error)),
            execution_time_seconds=failed.seconds,
        ).model_dump(mode="json"),
    }


def _lines(error: ComfyRemoteError) -> Iterator[str]:
    for node_id, _, words in node_problems(error):
        yield f"Node {node_id}: {words}"
    log = error.details.get("engine_log")
    if isinstance(log, str):
        yield from log.splitlines()[-_LOG_LINES:]
