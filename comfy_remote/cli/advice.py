"""What to do about an error, in the words of a terminal: which flag to give, what to type."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping
from string import Formatter

from ..advice import Fact, Hint, worded
from ..targets.own_command import as_typed_here

__all__ = ["WORDS", "for_terminal", "shell_quoted"]

WORDS: dict[Hint, str] = {
    Hint.RESUME_FOR_OUTPUTS: "Fetch it again with `comfy-remote jobs resume`.",
    Hint.ROOM_FOR_OUTPUTS: "Free some space, then fetch the outputs again with "
    "`comfy-remote jobs resume`.",
    Hint.ROOM_OR_OTHER_DISK: "Free some space, or name a folder on another disk with -o, then "
    "fetch the outputs with `comfy-remote jobs resume`. {variable} says how much stays free.",
    Hint.OUTPUT_SIZE_LIMIT: "If that is right, set {variable} (for example 200GB) and fetch it "
    "with `comfy-remote jobs resume`.",
    Hint.RAISE_CAP: "Raise {where}, or give --over-cap to go over the cap this once.",
    Hint.SET_PRICE: (
        "Set price_per_hour for {target} in your own comfy-remote.toml, or give --over-cap to "
        "run it this once without a price."
    ),
    Hint.BATCH_FOLDER: "Choose another name with --name, or another folder with -o.",
    Hint.OTHER_FOLDER: "Choose another folder with -o (comfy-run-remote: --local-output).",
    Hint.WRITABLE_FOLDER: "Choose another folder with -o (comfy-run-remote: --local-output), or "
    "correct its permissions.",
    Hint.LINK_OUT_OF_FOLDER: "Remove that link, or choose another folder with -o "
    "(comfy-run-remote: --local-output).",
    Hint.SERVER_CERTIFICATE: (
        "Give the server's certificate, as a PEM file; a gateway's is the one that serve has as "
        "--certfile."
    ),
    Hint.FIND_JOB: "Look for it with `comfy-remote jobs resume {job_id!q}`.",
    Hint.RESUME_OR_CANCEL: (
        "Fetch it with `comfy-remote jobs resume {job_id!q}`, or stop it with `comfy-remote jobs "
        "cancel {job_id!q}`."
    ),
    Hint.RESUME_WITH_TIME: (
        "Fetch them with `comfy-remote jobs resume {job_id!q}`: what has arrived is not fetched "
        "again. With --timeout, give it more time."
    ),
    Hint.JOB_NOT_RECORDED: (
        "`comfy-remote jobs list` shows the jobs it knows. If it runs on a ComfyUI: `comfy-remote "
        "jobs resume {job_id!q} --on URL`."
    ),
    Hint.MORE_TIME: "Give it more time with --timeout.",
    Hint.RECORD_DAMAGED: (
        "The file is damaged. Rename it, and the next command begins a new one (or set "
        "COMFY_REMOTE_HOME to another folder). What still runs on a ComfyUI can be fetched with "
        "`comfy-remote jobs resume PROMPT_ID --on URL`."
    ),
    Hint.CONNECT_OR_SET: "Connect or set it: --set {input}=…",
    Hint.SET_INPUT: "Set it: --set {input}=…",
    Hint.SET_PLACEHOLDER: 'If it should not be in a name, set it: --set "{input}=…".',
    Hint.SET_OTHER_INPUT: "Set another input with --set NODE.input=value.",
    Hint.SET_SIZE: "Set the node that decides it: --set NODE.{name}=…",
    Hint.SET_TEXT_BY_NAME: "Set its input by name: --set NODE.input=TEXT.",
    Hint.SET_ONE_TEXT: "Set the text you mean with --set: {inputs}.",
    Hint.NAME_PROMPT_NODE: (
        "If there is none, omit --prompt. Otherwise name the node that has it with --prompt-node, "
        "or set its input: --set NODE.input=TEXT."
    ),
    Hint.NO_NEGATIVE: "If there is none, omit --negative. Otherwise set it: --set NODE.input=TEXT.",
    Hint.WHICH_PROMPT_NODE: "Say which: --prompt-node ID.",
    Hint.WHICH_NEGATIVE: "Set the one you mean: --set NODE.text=TEXT.",
    Hint.EXAMPLE_SETTING: "For example: --set 3.seed=42, or --set KSampler.steps=20.",
    Hint.GIVE_VARIABLE: (
        "Give --var {variable}=VALUE, or --var {variable} for the environment variable of that "
        "name{variable!o}. $${{{variable}}} stands for the text itself."
    ),
    Hint.OTHER_SCHEMAS: (
        "{class_type} is not among the nodes of the snapshot that comes with Comfy Remote, which "
        "has ComfyUI's own nodes only. Name a ComfyUI that has it: --on TARGET, or --schemas with "
        "its address or a file saved from its /object_info."
    ),
    Hint.OTHER_FRONT: "Stop it, or give this one another name: --name NAME.",
    Hint.ENDPOINT_WITHOUT_VOLUME: (
        "Without a volume, each new worker fetches {size} of models, and is paid for meanwhile. "
        "A volume holds them: --volume GB@DATACENTER."
    ),
    Hint.DEPLOYMENT_GOES_ON: (
        "{made} was made, and stays. The same command goes on from there, and --remove removes it."
    ),
    Hint.GPU_CHOSEN: "GPU: {title}{why}. --gpu names others.",
    Hint.KEEP_AT_RUNPOD: (
        "Make a secret of it at https://console.runpod.io/user/secrets, called {name}, and refer "
        "to it with --secret {name}."
    ),
    Hint.VOLUME_STAYS: (
        "The volume stays, with what is on it, and goes on costing money. --with-volume removes "
        "it, too."
    ),
    Hint.ASK_A_TARGET: "Only a target that lists its nodes can tell: --on TARGET. {pack}",
    Hint.GIVE_WORKFLOW: (
        "Give one with --workflow FILE: any that ComfyUI saved or exported, or a picture with its "
        "workflow in it."
    ),
    Hint.NAME_FILE: "Name it with --input FILE.",
    Hint.PUT_OR_NAME_FILE: "Put it there, or name it with --input FILE.",
    Hint.VALUE_OF_TYPE: (
        "Give it a value of that type (-i KEY=@FILE: a picture, a sound, a value file)."
    ),
    Hint.CHECK_MODELS_FOLDER: "Fetch them into the right one with `comfy-remote models ensure`.",
    Hint.FETCH_MODEL_FIRST: (
        "Fetch it first (`comfy-remote models ensure`, or a job with action ensure), or set "
        "DOWNLOAD_MODELS=true on the worker, which lets a run fetch what it lacks."
    ),
    Hint.MODELS_DISK_FULL: (
        "Free some space on the disk of the models (`comfy-remote models prune` removes what the "
        "worker had fetched and you do not list), or use a larger volume. What has been fetched so"
        " far stays, and the next download continues from there."
    ),
    Hint.START_ENGINE: "Start it, or choose another engine with --engine.",
    Hint.COMFYUI_FOLDER: "Give the folder that holds ComfyUI's main.py, or --engine sandbox.",
    Hint.GPU_NUMBERS: "Give their numbers, for example --gpus 0,2, or --gpus all.",
    Hint.WITHOUT_GPUS: (
        "Without --gpus, one engine is started. If there are GPUs, check the driver (nvidia-smi), "
        "and COMFYUI_PYTHON, whose torch must know them."
    ),
    Hint.GPUS_OR_ENGINES: (
        "Omit --gpus, and give --engine once for each ComfyUI that runs already; or omit --engine, "
        "and have --gpus start a ComfyUI for each GPU."
    ),
    Hint.WORKER_TOKEN: "Make one where the gateway runs: `comfy-remote workers add NAME -o FILE`, "
    "and give that file as --token-file.",
    Hint.WORKER_NAME: "Give each worker a name and a token of its own: `comfy-remote workers add "
    "NAME`, where the gateway runs.",
    Hint.GPUS_NEED_COMFYUI: (
        "Name the folder of your ComfyUI with --comfyui. To try several engines out on a machine "
        "without a GPU: --engine sandbox --engine sandbox."
    ),
    Hint.SEVERAL_ENGINES: (
        "Give the address of each ComfyUI that runs already (--engine http://127.0.0.1:8188 "
        "--engine …), or have --gpus start one for each GPU."
    ),
    Hint.ONE_ENGINES_ARGUMENT: "Remove it from COMFYUI_ARGS, or omit --gpus.",
    Hint.RESUME_IN_TIME: "{kept} Fetch the job with `comfy-remote jobs resume`.",
    Hint.RESUME_WHEN_BACK: "When it is back, fetch the job with `comfy-remote jobs resume`.",
    Hint.NOT_SENT_AGAIN: (
        "Nothing was sent again. If it turns up after all, `comfy-remote jobs resume {job_id!q}` "
        "fetches it; otherwise check the address, and run the workflow again."
    ),
    Hint.NODE_FAILED: (
        "Correct that node's inputs. Its traceback is in the error's details, and in what "
        "`comfy-remote jobs show` prints."
    ),
    Hint.DEPLOY_APP: (
        "`modal app list` shows what is deployed; `comfy-remote deploy modal WORKFLOW --app "
        "{app!q}` deploys one."
    ),
    Hint.WORKER_TARGET: (
        "Choose a runpod: or modal: target with --on. On the machine of that ComfyUI, "
        "`comfy-remote serve` makes one of it."
    ),
    Hint.OTHER_TARGET: "Choose another target with --on.",
    Hint.NAME_A_POD: (
        "{first} Name it with --pod-url (or --on) ID-8188.proxy.runpod.net; or set RUNPOD_POD_URL "
        "for comfy-run-remote; or set RUNPOD_API_KEY, or install and configure runpodctl, to have "
        "the running pod found; or give another target with --on."
    ),
    Hint.WHICH_POD: "Say which: --on pod:{pod} (with comfy-run-remote: --pod-url {pod}).",
    Hint.HTTPS_OR_TUNNEL: (
        "Use https (`comfy-remote serve --certfile … --keyfile …`), or reach the machine through a"
        " tunnel: `ssh -L 8000:127.0.0.1:8000 MACHINE`."
    ),
    Hint.OPEN_TO_NETWORK: (
        "Give a token of at least {length} characters (--token-file FILE, or COMFY_REMOTE_TOKEN), "
        "or listen on 127.0.0.1."
    ),
    Hint.PROJECT_LINK: "Name the project's folder with --folder, or remove the link.",
    Hint.PROJECT_FILE_EDITED: (
        "{path} was edited, so it was left as it is. --force would change this:\n{changes}"
    ),
    Hint.PROJECT_FILE_UNUSABLE: "Correct it, or write it again with --force.",
    Hint.PROJECT_PARTS_MISSING: (
        "They are what is deployed, and what answers: keep their names, or write the file again "
        "with --force."
    ),
    Hint.TRUST_CONFIG: (
        "Review what it names, and trust it: comfy-remote trust {path!q} (in a terminal). Without "
        "a terminal, name the file with --config (in Python: config=), or put it into {own}."
    ),
    Hint.TRUST_ENV: (
        "Review what it names, and trust it: comfy-remote trust {path!q} (in a terminal). Without "
        "a terminal, set the variables in the environment, or put them into {own}."
    ),
    Hint.TRUST_PROJECT: (
        "Review what it names, and trust it: comfy-remote trust {path!q} (in a terminal). Without "
        "a terminal, give what it names with options (--secret, --custom-node, --pip, --apt), and "
        "have its files written again (--clean)."
    ),
    Hint.LOCK_NOT_MET: (
        "comfy-remote sync --lock LOCK --on TARGET --plan shows how that can be brought there. Or, "
        "if what is there is right, make the lock again by it: comfy-remote lock WORKFLOW --on "
        "TARGET."
    ),
    Hint.PACK_LACKING: (
        "comfy-remote sync WORKFLOW --on TARGET --plan shows how it can be brought there. Or take "
        "another target."
    ),
    Hint.MODELS_LACKING: (
        "comfy-remote sync WORKFLOW --on TARGET --plan shows how they can be brought there. By "
        "hand: download {names} into ComfyUI's models folder, under that name."
    ),
    Hint.TRUST_PACKS: (
        "Review them, and agree in a terminal: the same command without --yes. Without a terminal, "
        "name each pack yourself: --pack NAME@VERSION, --pack URL@COMMIT."
    ),
    Hint.UNUSED: (
        "Not trusted, so not used: {names}, {how} {path}. To review that, and trust it: "
        "comfy-remote trust {path!q}"
    ),
    Hint.SLOW_ANSWER: (
        "Check that it runs and that the address is right, or give it more time with --timeout."
    ),
    Hint.WATCH_BATCH: "See how far it is: `comfy-remote batch watch {batch!q}`.",
    Hint.CANCEL_BATCH: "Cancel it first: `comfy-remote batch cancel {batch!q}`.",
    Hint.BATCH_NAME: (
        "Give this one another --name, or remove that one: `comfy-remote batch rm {batch!q}`."
    ),
    Hint.WHICH_BATCH: "`comfy-remote batch list` lists them.",
    Hint.DOWNLOAD_WORKFLOW: "Download it first, or: curl -s URL | comfy-remote run -",
}
"""Filled in with the facts. ``{name!q}`` quotes one as the shell needs it; ``{name!o}`` is the
option that sets the variable of that name, if there is one."""


_OPTIONS = {
    "PROMPT": "--prompt TEXT, of run and check",
    "NEGATIVE": "--negative TEXT, of run and check",
    "SEED": "--seed N, of run and check",
    "WIDTH": "--width N, of run and check",
    "HEIGHT": "--height N, of run and check",
    "BATCH": "--batch N, of run and check",
    "OUTPUT_FOLDER": "--output-folder PATH, of comfy-run-remote",
    "IMAGE_ID": "--image-id ID, of comfy-run-remote",
}


class _Words(Formatter):
    def convert_field(self, value: object, conversion: str | None) -> object:
        if conversion == "q":
            return shell_quoted(str(value))
        if conversion == "o":
            option = _OPTIONS.get(str(value))
            return f" (or {option})" if option else ""
        return super().convert_field(value, conversion)


def for_terminal(advice: str) -> str:
    """Advice as the command line words it, with commands as they are typed here."""
    return as_typed_here(worded(advice, _words))


def shell_quoted(text: str) -> str:
    """One word of a command, as this system's shell takes it."""
    return subprocess.list2cmdline([text]) if os.name == "nt" else shlex.quote(text)


def _words(hint: Hint, facts: Mapping[str, Fact]) -> str | None:
    return _Words().vformat(WORDS[hint], (), facts).strip() if hint in WORDS else None
