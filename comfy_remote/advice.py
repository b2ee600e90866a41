"""What to do about an error: a code and facts, which each face says in its own words.

    raise LocalStorageError(f"{folder} could not be written.", advice=Hint.OTHER_FOLDER())

The same error reaches people who typed a command, who clicked in ComfyUI's page, and who wrote
Python. So below the faces nothing names a flag, a command or a button. The words here suit
everybody; `cli.advice` and `node_pack.advice` have their own for the codes where a flag or a
button helps. Advice that is the same everywhere needs no code: it is a plain string.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, unique
from typing import TypeAlias

from .types import JsonValue

__all__ = ["Advice", "Fact", "Hint", "advice_from_json", "worded"]

Fact: TypeAlias = str | int | float


class Advice(str):
    """A sentence or two in words that suit everybody, with what a face needs to word it itself.

    Attributes:
        facts: What the words are filled in with.
    """

    hint: Hint
    facts: Mapping[str, Fact]

    def __new__(cls, hint: Hint, facts: Mapping[str, Fact]) -> Advice:
        advice = super().__new__(cls, hint.value.format_map(facts).strip())
        advice.hint, advice.facts = hint, dict(facts)
        return advice

    def __reduce__(self) -> tuple[type[Advice], tuple[Hint, Mapping[str, Fact]]]:
        return type(self), (self.hint, self.facts)

    def to_json(self) -> dict[str, JsonValue]:
        """``{"code", "facts"}``, for `advice_from_json`."""
        return {"code": self.hint.code, "facts": dict(self.facts)}

    def mapped(self, change: Callable[[str], str]) -> Advice:
        """The same advice with each text among its facts changed."""
        facts = {k: change(v) if isinstance(v, str) else v for k, v in self.facts.items()}
        return Advice(self.hint, facts)


@unique
class Hint(Enum):
    """All codes, each with the words that suit everybody. Call one with its facts."""

    RESUME_FOR_OUTPUTS = "Resume the job to fetch its outputs again."
    ROOM_FOR_OUTPUTS = "Free some space, then resume the job to fetch its outputs."
    ROOM_OR_OTHER_DISK = (
        "Free some space, or choose a folder on another disk, then resume the job to fetch its "
        "outputs. {variable} says how much stays free."
    )
    OUTPUT_SIZE_LIMIT = (
        "If that is right, set {variable} (for example 200GB), and resume the job to fetch it."
    )
    OTHER_FOLDER = "Choose another folder."
    BATCH_FOLDER = "Choose another name or another folder."
    WRITABLE_FOLDER = "Choose another folder, or correct its permissions."
    LINK_OUT_OF_FOLDER = "Remove that link, or choose another folder."
    FIND_JOB = "Resume job {job_id} to see whether the target has it."
    RESUME_OR_CANCEL = "Resume job {job_id} to fetch its outputs, or cancel it."
    RESUME_WITH_TIME = "Resume job {job_id} with more time: what has arrived is not fetched again."
    JOB_NOT_RECORDED = (
        "Check the id. A job that runs on a ComfyUI can be resumed there by its id, without a "
        "record."
    )
    MORE_TIME = "Give it more time (timeout)."
    SERVER_CERTIFICATE = "Give the server's certificate, as a PEM file."
    RECORD_DAMAGED = (
        "The file is damaged. Rename it to begin a new record, or set COMFY_REMOTE_HOME to another"
        " folder. What still runs on a ComfyUI can be resumed there by its prompt id."
    )
    CONNECT_OR_SET = "Connect it, or set {input}."
    SET_INPUT = "Set {input}."
    SET_PLACEHOLDER = "If it should not be in a name, set {input}."
    SET_OTHER_INPUT = "Set another input, by NODE.input."
    SET_SIZE = "Set the input of the node that decides it."
    SET_TEXT_BY_NAME = "Set its input by name: NODE.input."
    SET_ONE_TEXT = "Set the text you mean by its input: {inputs}."
    NAME_PROMPT_NODE = (
        "If there is none, give no prompt text. Otherwise name the node that has it, or set its "
        "input."
    )
    NO_NEGATIVE = "If there is none, give no negative text. Otherwise set its input."
    WHICH_PROMPT_NODE = "Name the node that you mean as the prompt's."
    WHICH_NEGATIVE = "Set the one that you mean by its input: NODE.text."
    EXAMPLE_SETTING = "For example: 3.seed=42, or KSampler.steps=20."
    GIVE_VARIABLE = "Give {variable} a value. $${{{variable}}} stands for the text itself."
    OTHER_SCHEMAS = (
        "{class_type} is not among the nodes of the snapshot that comes with Comfy Remote, which "
        "has ComfyUI's own nodes only. Choose a target that has it, or take the schemas from one."
    )
    OTHER_FRONT = "Stop it, or give this one another name."
    ENDPOINT_WITHOUT_VOLUME = (
        "Without a volume, each new worker fetches {size} of models, and is paid for meanwhile."
    )
    DEPLOYMENT_GOES_ON = "{made} was made, and stays. Doing the same again goes on from there."
    GPU_CHOSEN = "GPU: {title}{why}."
    KEEP_AT_RUNPOD = (
        "Make a secret of it at https://console.runpod.io/user/secrets, called {name}, and refer "
        "to that."
    )
    VOLUME_STAYS = "The volume stays, with what is on it, and goes on costing money."
    ASK_A_TARGET = "Only a target that lists its nodes can tell. {pack}"
    GIVE_WORKFLOW = (
        "Give a workflow: any that ComfyUI saved or exported, or a picture with its workflow in it."
    )
    NAME_FILE = "Name it with inputs=[FILE]."
    PUT_OR_NAME_FILE = "Put it there, or name it with inputs=[FILE]."
    VALUE_OF_TYPE = "Give it a value of that type: a picture, a sound, a value file."
    CHECK_MODELS_FOLDER = "Fetch them into the right folder first."
    FETCH_MODEL_FIRST = (
        "Fetch it first (a job with action ensure), or set DOWNLOAD_MODELS=true on the worker, "
        "which lets a run fetch what it lacks."
    )
    MODELS_DISK_FULL = (
        "Free some space on the disk of the models (a job with action ensure and prune removes "
        "what the worker had fetched and you do not list), or use a larger volume. What has been "
        "fetched so far stays, and the next download continues from there."
    )
    START_ENGINE = "Start it, or choose another engine."
    COMFYUI_FOLDER = (
        "Give the folder that holds ComfyUI's main.py, or choose the sandbox as the engine."
    )
    GPU_NUMBERS = "Give the numbers of GPUs with commas between, or all."
    WITHOUT_GPUS = (
        "Start one engine, without a list of GPUs. If there are GPUs, check the driver, and "
        "COMFYUI_PYTHON, whose torch must know them."
    )
    GPUS_OR_ENGINES = (
        "Name no GPUs, and each ComfyUI that runs already; or name GPUs, and the folder of a "
        "ComfyUI."
    )
    GPUS_NEED_COMFYUI = "Name the folder of your ComfyUI, or name no GPUs."
    WORKER_TOKEN = "A token for a worker is made where the gateway runs."  # noqa: S105 - no secret
    WORKER_NAME = "Give each worker a name and a token of its own."
    SEVERAL_ENGINES = "Give the address of each ComfyUI that runs already, or name GPUs."
    ONE_ENGINES_ARGUMENT = "Remove it from COMFYUI_ARGS, or name no GPUs."
    RESUME_IN_TIME = "{kept} Resume the job to fetch its outputs."
    RESUME_WHEN_BACK = "When it is back, resume the job."
    NOT_SENT_AGAIN = (
        "Nothing was sent again. If it turns up after all, resume job {job_id} to fetch it; "
        "otherwise check the address, and run the workflow again."
    )
    NODE_FAILED = "Correct that node's inputs. Its traceback is in the error's details."
    DEPLOY_APP = "`modal app list` shows what is deployed. Deploy the workflow as the app {app}."
    WORKER_TARGET = (
        "Choose a runpod: or modal: target. On the machine of that ComfyUI, a gateway makes one of"
        " it."
    )
    OTHER_TARGET = "Choose another target."
    NAME_A_POD = (
        "{first} Name it by its id or address (ID-8188.proxy.runpod.net); or set RUNPOD_API_KEY, "
        "or install and configure runpodctl, to have the running pod found; or choose another "
        "target."
    )
    WHICH_POD = "Choose one: pod:{pod}."
    HTTPS_OR_TUNNEL = (
        "Use https, or reach the machine through a tunnel: `ssh -L 8000:127.0.0.1:8000 MACHINE`."
    )
    OPEN_TO_NETWORK = "Give a token of at least {length} characters, or listen on 127.0.0.1."
    PROJECT_LINK = "Choose another folder for the project, or remove the link."
    PROJECT_FILE_EDITED = (
        "{path} was edited, so it was left as it is. Written again, it would change like "
        "this:\n{changes}"
    )
    PROJECT_FILE_UNUSABLE = "Correct it, or have the file written again."
    PROJECT_PARTS_MISSING = (
        "They are what is deployed, and what answers: keep their names, or have the file written "
        "again."
    )
    TRUST_CONFIG = (
        "Review what it names, and trust it in a terminal. Without one, name the file yourself "
        "(config=), or put it into {own}."
    )
    TRUST_ENV = (
        "Review what it names, and trust it in a terminal. Without one, set the variables in the "
        "environment, or put them into {own}."
    )
    TRUST_PROJECT = (
        "Review what it names, and trust it in a terminal. Without one, give what it names "
        "yourself, and have its files written again."
    )
    LOCK_NOT_MET = "Change that there; or, if what is there is right, make the lock again by it."
    PACK_LACKING = "Install it on the target, and start ComfyUI again; or choose another target."
    MODELS_LACKING = (
        "On the target, download {names} into ComfyUI's models folder, under that name, and run "
        "the workflow again."
    )
    TRUST_PACKS = (
        "Review them, and agree in a terminal. Without one, name each pack yourself, with its "
        "version."
    )
    UNUSED = (
        "Not trusted, so not used: {names}, {how} {path}. Review that, and trust it in a terminal."
    )
    SLOW_ANSWER = "Check that it runs and that the address is right, or give it more time."
    WATCH_BATCH = "Wait until that one has ended."
    CANCEL_BATCH = "Cancel it first."
    BATCH_NAME = "Give this one another name, or remove that one."
    WHICH_BATCH = "Check its name or its id."
    DOWNLOAD_WORKFLOW = "Download it first."
    RAISE_CAP = "Raise {where}, or let it go over the cap this once."
    SET_PRICE = (
        "Set price_per_hour for {target} in your own comfy-remote.toml, or let it run this once "
        "without a price."
    )

    def __call__(self, **facts: Fact) -> Advice:
        """The advice, in everybody's words."""
        return Advice(self, facts)

    @property
    def code(self) -> str:
        """Stable: what programs test for."""
        return self.name.lower()

    @property
    def facts(self) -> frozenset[str]:
        """The names of the facts that its words need; a face may need more."""
        from string import Formatter  # here: not on the way to --help

        return frozenset(name for _, name, _, _ in Formatter().parse(self.value) if name)


def advice_from_json(hint: JsonValue, words: str) -> str:
    """Advice that came from another program.

    Args:
        hint: As `Advice.to_json` gives it. Of another shape, or with a code that this version does
            not know, it is ignored.
        words: The advice in everybody's words.
    """
    if not isinstance(hint, dict):
        return words
    known = next((one for one in Hint if one.code == hint.get("code")), None)
    facts = hint.get("facts")
    if known is None or not isinstance(facts, dict):
        return words
    usable = {k: v for k, v in facts.items() if isinstance(v, str | int | float)}
    # Not `known(**usable)`: a fact may have any name.
    return Advice(known, usable) if known.facts <= usable.keys() else words


def worded(advice: str, words: Callable[[Hint, Mapping[str, Fact]], str | None]) -> str:
    """The advice in a face's own words, where it has any for the code; a plain string as it is."""
    if not isinstance(advice, Advice):
        return advice
    try:
        own = words(advice.hint, advice.facts)
    except KeyError:  # another version's advice has other facts
        own = None
    return str(advice) if own is None else own
