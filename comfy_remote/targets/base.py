"""The `Target` protocol, and optional ones: what the rest of the program knows of a target."""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    Callable,
    Collection,
    Container,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ..data_class import dataclass
from ..errors import ComfyRemoteError, InputFileMissing, SubmissionUnknown
from ..events import DidItRun, Event, Log
from ..outputs import RemoteOutput
from ..types import JsonValue
from ..workflow.models import ModelSource
from ..workflow.prompt import Prompt
from .sending import Sending

if TYPE_CHECKING:
    from ..media.values import EncodedValue
    from ..wire.installed import Installed
    from .route.journal import Journal

__all__ = [
    "CHOICE_KEY",
    "Acts",
    "Capabilities",
    "ChoosesAmong",
    "ConfirmsWhatRan",
    "DescribesByJob",
    "GivesValues",
    "Health",
    "HoldsWorkers",
    "InputFile",
    "KeepsInputs",
    "KeepsJournal",
    "LimitsSizes",
    "LimitsTime",
    "ListsModels",
    "LosesUnfollowed",
    "MayChange",
    "MayTake",
    "OnThisMachine",
    "OneEngine",
    "Recalls",
    "ReleasesOutputs",
    "RemoteRef",
    "ReturnsSomeOutputs",
    "RunRequest",
    "StoresFiles",
    "Takes",
    "TakesPartnerKey",
    "TakesValues",
    "Target",
    "TellsVersions",
    "TellsWhatRuns",
    "WaitsForWorkers",
    "WakesWorkers",
    "Withdraws",
    "answer_graded",
    "before_sending",
    "if_unfollowed",
    "input_errors",
    "located",
    "not_returned",
    "release",
]

CHOICE_KEY = "comfy_remote"
"""In the ``extra_data`` of ``POST /prompt``, for a ComfyUI with our pack: ``{"target": NAME}``, or
``{"target": null}`` for all of it on that machine, whatever its workflow marks."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file the prompt loads, to be sent along.

    Attributes:
        name: As the prompt names it, ``/`` between parts ("portrait.png", "masks/a.png").
        path: Where it is on this machine.
        size: Bytes.
        sha256: 64 lower-case hex digits.
        places: The inputs that name it: node id, input. Empty where that is not known; then every
            input with exactly that value does.
        offset: Where in the file it begins: a part of a large one is sent as a file.
    """

    name: str
    path: Path
    size: int
    sha256: str
    places: tuple[tuple[str, str], ...] = ()
    offset: int = 0


@contextmanager
def input_errors(path: Path) -> Iterator[None]:
    """Turn the `OSError`s of reading an input file into `InputFileMissing`."""
    try:
        yield
    except OSError as error:
        raise InputFileMissing(
            f"The input file {path} cannot be read: {error.strerror or error}.",
            advice="Check that it is still there and that you may read it.",
            details={"path": str(path)},
        ) from error


@contextmanager
def before_sending() -> Iterator[None]:
    """Note in the errors of a submission's first part that the job was never accepted.

    Interrupted inside, it was not sent either: see `Sending`.
    """
    sending = Sending.current()
    if sending is not None:
        sending.prepares()
    try:
        yield
    except ComfyRemoteError as error:
        DidItRun.NEVER_ACCEPTED.noted_in(error)
        raise
    if sending is not None:
        sending.sends()


@contextmanager
def answer_graded(refusals: Container[int]) -> Iterator[None]:
    """Note in the errors of the request that submits a job whether it may have been accepted.

    Args:
        refusals: HTTP statuses by which the target says that it did not take it.
    """
    try:
        yield
    except ComfyRemoteError as error:
        status = error.details.get("http_status")
        never = error.details.get("never_sent") is True or (
            isinstance(status, int) and status in refusals
        )
        if never and not isinstance(error, SubmissionUnknown):
            DidItRun.NEVER_ACCEPTED.noted_in(error)
        else:
            DidItRun.UNKNOWN.noted_in(error)
        raise


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One prompt to run, complete.

    Attributes:
        job_id: A lower-case UUID, made here. Targets that accept a client's id use it, so
            that a submission whose answer was lost can be found again.
        prompt: API format.
        files: What the prompt's Load nodes name.
        workflow: The UI-format workflow to embed in saved images; ``None`` without one.
        front: Whether to run it before the jobs that wait, on targets that can.
        repo_list: The models that the worker is to have, a ``kind URL`` a line, for targets
            that can fetch them; ``""`` for none, ``None`` for what the workflow lists.
        models: Where the models that the prompt uses can be had, as its workflow says, for
            targets that can fetch what they lack.
        known_inputs: SHA-256 of the files that the target has been sent before, and need not be
            sent again; see `KeepsInputs`.
        retry_lost: Whether a gateway of ours may start the job once more if its worker is proven
            dead. Never if the prompt has nodes that cost money elsewhere.
        batch: The id of the batch that it belongs to, for targets that share workers fairly.
        on_sent: Called while files are being sent, with the number of bytes that are there, and
            of all that are sent.
        extra_data: What goes to ComfyUI beside the prompt. Never recorded, since it may hold a
            login: see `TakesPartnerKey`.
    """

    job_id: str
    prompt: Prompt
    files: Sequence[InputFile] = ()
    workflow: Mapping[str, JsonValue] | None = None
    front: bool = False
    repo_list: str | None = None
    models: Sequence[ModelSource] = ()
    known_inputs: frozenset[str] = frozenset()
    retry_lost: bool = True
    batch: str | None = None
    on_sent: Callable[[int, int], None] | None = field(default=None, repr=False, compare=False)
    extra_data: Mapping[str, JsonValue] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class RemoteRef:
    """How to find a job again on its target. Plain data: the record stores it.

    Attributes:
        job_id: Ours.
        remote_id: The target's.
        details: What else that kind of target needs (never a secret).
    """

    job_id: str
    remote_id: str
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a target has installed.

    Attributes:
        nodes: ComfyUI's ``/object_info``: node schemas by class; ``None`` when the target
            cannot say.
        device: Name of the GPU, or ``cpu``; ``None`` when the target cannot say.
        engine: Name and version of what runs the prompts.
        memory_total: Bytes of the device's memory; ``None`` when the target cannot say.
        memory_free: Likewise, of what is free now.
        fetches_models: Whether it fetches the models of a `RunRequest` that it lacks: ``False``
            where whoever runs it has not allowed that, ``None`` where it never could.
        takes_models: How it may get models by a job of their own: ``fetch``, ``link``,
            ``receive``; ``None`` when the target cannot say.
        takes_nodes: How it may get node packs by a job of their own: ``registry``, ``git``; empty
            where it may not, ``None`` when the target cannot say.
        no_nodes: Why it takes none, for people.
        installed: Packs, models and what else computes its results, exactly; ``None`` when the
            target cannot say.
    """

    nodes: Mapping[str, JsonValue] | None
    device: str | None
    engine: str | None
    memory_total: int | None = None
    memory_free: int | None = None
    fetches_models: bool | None = None
    takes_models: frozenset[str] | None = None
    takes_nodes: frozenset[str] | None = None
    no_nodes: str = ""
    installed: Installed | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """How busy a target is.

    Attributes:
        ready: Workers that can take a job now.
        running: Jobs that run.
        queued: Jobs that wait.
        starting: Workers that start.
        throttled: Workers that wait for a GPU to be free at the provider.
        counted: Whether the target says all that; one that does not only answers.
    """

    ready: int
    running: int
    queued: int
    starting: int = 0
    throttled: int = 0
    counted: bool = True


@runtime_checkable
class Recalls(Protocol):
    """A target that can tell what a job was, by its own id: also one that others sent there."""

    async def recall(self, remote_id: str) -> tuple[RemoteRef, Prompt] | None:
        """How to follow a job, and its prompt; ``None`` if the target does not know it."""


@runtime_checkable
class TellsVersions(Protocol):
    """A target that can tell whether a file is still the one that was read before."""

    def version_of(self, output: RemoteOutput) -> str | None:
        """What it called the version that was read last; ``None`` if it said nothing."""


@runtime_checkable
class TakesPartnerKey(Protocol):
    """A target that hands the ``api_key_comfy_org`` of `RunRequest.extra_data` to the nodes of that
    prompt, and stores it nowhere.
    """

    @property
    def takes_partner_key(self) -> bool:
        """Whether it does."""


@runtime_checkable
class DescribesByJob(Protocol):
    """A target that is described by a job of its own, which may start a worker."""

    async def described_before(self) -> Capabilities:
        """What its workers said the last time; all unknown if they have not. Runs no job."""

    async def describe_again(self) -> Capabilities:
        """What a worker says now, if one is awake: a model may have been added since."""


@runtime_checkable
class TellsWhatRuns(Protocol):
    """A target that says, at once and starting nothing, what computes its results."""

    async def what_runs(self, classes: Collection[str], folders: Collection[str]) -> Capabilities:
        """What it would run a prompt with, ``installed`` included.

        Args:
            classes: The prompt's node classes.
            folders: Those of the models that are of interest.

        Raises:
            ComfyRemoteError: It could not be asked.
        """

    async def still_runs(self, job_id: str) -> bool:
        """Whether the process that ran a job is still the one that would run the next."""


@runtime_checkable
class ConfirmsWhatRan(TellsWhatRuns, Protocol):
    """A target whose workers come and go: each result says what ran it.

    `TellsWhatRuns.what_runs` gives what its workers said the last time; no worker is started for
    it.
    """

    async def what_ran(self, details: Mapping[str, JsonValue]) -> Capabilities | None:
        """What a job has run with, ``installed`` included; ``None`` if that is not certain.

        A worker that is awake may be asked for what is not known here yet.

        Args:
            details: The job's `Finished.details`.
        """


@runtime_checkable
class MayChange(Protocol):
    """A target at an address behind which something else may be found."""

    @property
    def has_changed(self) -> bool:
        """Whether it was: opening the address again gives the target of what is there."""


@runtime_checkable
class OneEngine(Protocol):
    """A target that is one ComfyUI and nothing in between: it answers itself, and at once."""

    @property
    def url(self) -> str:
        """Its base URL."""

    async def socket_opens(self) -> bool:
        """Whether a WebSocket gets through: a proxy may refuse it, and then polling has to do."""


@runtime_checkable
class ListsModels(Protocol):
    """A target that lists the models it has."""

    async def models(self) -> dict[str, list[str]]:
        """Their names by folder; ``/`` between the parts of a name."""


@runtime_checkable
class Acts(Protocol):
    """A target whose worker does other things than run workflows."""

    async def act(
        self, payload: Mapping[str, JsonValue], on_message: Callable[[str], None] | None = None
    ) -> JsonValue:
        """Have a worker of ours do what the ``action`` of a payload says; returns its answer.

        If this is cancelled, so is the action.

        Args:
            on_message: Called with what the worker says of its progress.

        Raises:
            ComfyRemoteError: The worker's own error, or it could not be asked.
        """


@runtime_checkable
class StoresFiles(Protocol):
    """A target that may take files by themselves, for a job that names them by their SHA-256."""

    async def stores_files(self) -> bool:
        """Whether it does.

        Raises:
            ComfyRemoteError: It could not be asked.
        """

    async def store_files(
        self, files: Sequence[InputFile], on_sent: Callable[[int, int], None] | None = None
    ) -> None:
        """Have files there for an hour; what is there is not sent again.

        Args:
            on_sent: Called with the number of bytes that are there, and of all.

        Raises:
            ConfigurationError: It takes none.
            ComfyRemoteError: One could not be sent, or read.
        """


@dataclass(frozen=True, slots=True)
class Takes:
    """What may be brought to a target directly.

    Attributes:
        models: ``fetch``, ``link``, ``receive``, as in `Capabilities.takes_models`.
        nodes: ``registry``, ``git``, as in `Capabilities.takes_nodes`.
        why: Why it is nothing at all, a clause for people.
        no_nodes: Why it takes no node packs, where there is more to say than that it may not.
    """

    models: frozenset[str] = frozenset()
    nodes: frozenset[str] = frozenset()
    why: str = ""
    no_nodes: str = ""


@runtime_checkable
class MayTake(Protocol):
    """A target that takes models and node packs itself, where its owner has allowed it. For one
    that takes them, `Acts.act` works as for a worker.
    """

    async def takes(self) -> Takes:
        """What it takes.

        Raises:
            ComfyRemoteError: It could not be asked.
        """

    async def send_model(
        self,
        payload: Mapping[str, JsonValue],
        parts: Sequence[InputFile],
        on_message: Callable[[str], None] | None = None,
        on_sent: Callable[[int, int], None] | None = None,
    ) -> JsonValue:
        """Have a model there; what is there of it from before is not sent again.

        Args:
            payload: A ``place`` request (`wire.models.PlaceRequest`).
            parts: Those that it names, in order.
            on_sent: Called with the number of bytes that are there, and of all.
        """

    async def with_installed(self, said: Capabilities) -> Capabilities:
        """What it says of itself, with all that it tells whoever may bring something."""


@runtime_checkable
class WaitsForWorkers(Protocol):
    """A target whose jobs wait until a worker is there."""

    @property
    def no_worker(self) -> str:
        """Why none may come, and what to do."""


@runtime_checkable
class WakesWorkers(Protocol):
    """A target whose workers can be started before there is a job."""

    async def wake(self) -> None:
        """Have a worker started, if none is up, and return once one has answered.

        Cancelled, it takes back what it asked for.

        Raises:
            ComfyRemoteError: No worker has answered.
        """


@runtime_checkable
class LimitsSizes(Protocol):
    """A target that limits how much a job may carry."""

    @property
    def body_limit(self) -> int | None:
        """Bytes that a request may have, its files included; ``None`` if it is not limited."""

    @property
    def result_limit(self) -> int | None:
        """Bytes that a result may have; ``None`` if it is not limited."""


@runtime_checkable
class LimitsTime(Protocol):
    """A target that ends a job by itself when that has run for too long."""

    @property
    def time_limit(self) -> float | None:
        """Seconds that a job may run, as it is told with each; ``None`` where that is not known."""


@runtime_checkable
class OnThisMachine(Protocol):
    """A target that may be on this machine."""

    @property
    def local(self) -> bool:
        """Whether it is: then no connection can damage what it gives."""


@runtime_checkable
class TakesValues(Protocol):
    """A target that takes a value by itself, from memory, before the prompt that uses it."""

    async def put_value(self, value: EncodedValue) -> str | None:
        """Send it, and return the name by which a Remote Input there reads it.

        ``None`` where it has to be a file of the request.
        """


@runtime_checkable
class GivesValues(Protocol):
    """A target whose value files may be on this machine, in a folder of its user's."""

    async def value_here(self, output: RemoteOutput) -> memoryview | None:
        """The bytes of a value file, or ``None`` where it has to be read as any other output.

        They are in memory that can be written to.
        """


@runtime_checkable
class ReturnsSomeOutputs(Protocol):
    """A target whose workers may not be able to return every kind of output."""

    def not_returned(self, prompt: Prompt) -> str:
        """Which nodes' outputs will not come back, for people; ``""`` if all will."""


def not_returned(target: Target, prompt: Prompt) -> str:
    """`ReturnsSomeOutputs.not_returned` of any target; ``""`` of one that returns all outputs."""
    return target.not_returned(prompt) if isinstance(target, ReturnsSomeOutputs) else ""


@runtime_checkable
class LosesUnfollowed(Protocol):
    """A target where a job may lose something if its client goes and comes back later."""

    def if_unfollowed(self, prompt: Prompt) -> Log | None:
        """What it loses, and when; a warning where it surely does. ``None`` for nothing."""


def if_unfollowed(target: Target, prompt: Prompt) -> Log | None:
    """`LosesUnfollowed.if_unfollowed` of any target; ``None`` of one where nothing is lost."""
    return target.if_unfollowed(prompt) if isinstance(target, LosesUnfollowed) else None


@runtime_checkable
class KeepsInputs(Protocol):
    """A target whose workers keep the files they were sent, and know them by their SHA-256.

    A successful job's ``Finished.details["kept_inputs"]`` has the SHA-256 of those they keep. A
    job that names one (`RunRequest.known_inputs`) that they no longer have ends, before anything
    has run, with `InputFileMissing` and ``details["missing_inputs"]``.
    """

    @property
    def inputs_kept_by(self) -> str:
        """Who keeps them: the same for the same endpoint, whatever it is called here."""


@runtime_checkable
class ChoosesAmong(Protocol):
    """A target that chooses among others where a job runs, and may move it."""

    def located(self, ref: RemoteRef) -> tuple[RemoteRef, Target | None]:
        """How to find the job now, and the target that has it; ``None`` where that is not known."""

    @property
    def among(self) -> Sequence[Target]:
        """Those that can be opened."""

    async def likely(self, prompt: Prompt) -> Target | None:
        """The target that it would choose for a prompt now; ``None`` if none can take it."""

    async def problems(self) -> Mapping[str, str]:
        """Why each of the others cannot be used now, by name; empty where it can.

        A clause whose subject is that target, without its full stop.
        """


def located(target: Target, ref: RemoteRef) -> tuple[RemoteRef, Target]:
    """`ChoosesAmong.located` of any target; elsewhere, a job stays what and where it is."""
    if not isinstance(target, ChoosesAmong):
        return ref, target
    now, there = target.located(ref)
    return now, there or target


@runtime_checkable
class KeepsJournal(Protocol):
    """A target that writes down what it does with a job, and must know it later.

    A target knows nothing of the record, which is above it. `jobs.client.Client` gives it a journal
    in the record; without that, its journal is in memory, and is lost with the process.
    """

    def use_journal(self, journal: Journal) -> None:
        """Use this journal from now on. Called before the target is opened."""


@runtime_checkable
class HasServer(Protocol):
    """A target at a server that has other names, or whose name means other servers elsewhere."""

    @property
    def server(self) -> Mapping[str, str]:
        """What `RemoteRef.details` say of all jobs there, and of none elsewhere."""


def server_of(target: Target) -> Mapping[str, str]:
    """`HasServer.server` of any target; empty for one that its name alone identifies."""
    return target.server if isinstance(target, HasServer) else {}


class Target(Protocol):
    """Where a prompt can run.

    Used as an asynchronous context manager; the methods may only be called inside. All of
    them raise `ComfyRemoteError`s and nothing else for what can go wrong on the way.
    """

    @property
    def name(self) -> str:
        """The target as a person writes it."""

    async def __aenter__(self) -> Target: ...

    async def __aexit__(self, *exc_info: object) -> None: ...

    async def has_input(self, name: str) -> bool:
        """Whether the target already has an input file of that name."""

    async def submit(self, request: RunRequest) -> RemoteRef:
        """Send the files, then the prompt. It is never sent twice.

        An error's details say whether the job may run all the same: see `before_sending` and
        `answer_graded`. Of an error that does not say it, nothing is certain.

        Raises:
            WorkflowInvalid: The target refused the prompt; nothing runs.
            SubmissionUnknown: The answer was lost; it may run.
        """

    async def find(self, job_id: str) -> RemoteRef | None:
        """Find a job whose submission was not answered (or whose client was killed).

        Returns:
            ``None`` when the target can tell that it never got it.

        Raises:
            SubmissionUnknown: The target cannot tell.
        """

    def follow(self, ref: RemoteRef, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """The job's events from now on; the last is always `Finished`.

        A job that failed is an event, not an exception, and says by `Finished.did_it_run` whether
        it ran. Exceptions mean that the target could not be asked; the job may still be running.
        """

    async def cancel(self, ref: RemoteRef) -> None:
        """Ask the target to stop the job. Returns once the target has the request."""

    def read(self, output: RemoteOutput, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """The output's bytes from ``offset`` on, in chunks of at most 1 MiB.

        Raises:
            OutputLost: The target no longer has it.
            TargetUnreachable: The connection broke; call again with the number of
                bytes received as ``offset``.
        """

    async def describe(self, classes: Collection[str] | None = None) -> Capabilities:
        """What the target has installed.

        Args:
            classes: The node classes that are of interest; ``None`` for all. All of them is
                more than a megabyte on an ordinary ComfyUI. One that the target lacks is left
                out.
        """

    async def health(self) -> Health:
        """How busy the target is."""


@runtime_checkable
class HoldsWorkers(WakesWorkers, Target, Protocol):
    """A target that stops a worker which has been idle for a time."""

    @property
    def can_hold(self) -> bool:
        """Whether that time is known and long, or can be changed."""

    async def idle_time(self) -> float:
        """Seconds that an idle worker waits for a job.

        Raises:
            ComfyRemoteError: The target could not be asked.
        """

    async def set_idle_time(self, seconds: float) -> None:
        """Change it, for all workers of the endpoint. It costs what they cost.

        Raises:
            AuthenticationError: The key may not do that.
            ComfyRemoteError: It could not be changed.
        """


@runtime_checkable
class Withdraws(Protocol):
    """A target that takes back a job which waits, and leaves one that has begun."""

    async def withdraw(self, ref: RemoteRef) -> None:
        """Take it back if it waits. Whether that was in time, `Target.follow` says by its end."""


@runtime_checkable
class ReleasesOutputs(Protocol):
    """A target that stores outputs for a client to fetch, and can delete them."""

    async def release(self, outputs: Sequence[RemoteOutput]) -> None:
        """Delete what was stored for these outputs, which have been fetched. Raises nothing."""


async def release(target: Target, outputs: Sequence[RemoteOutput]) -> None:
    """Let a target delete outputs that have been fetched and checked."""
    if isinstance(target, ReleasesOutputs):
        await target.release(outputs)
