"""What to do about an error, in the words of a terminal: which flag to give, what to type."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping
from string import Formatter

from ..advice import Fact, Hint, worded

__all__ = ["WORDS", "for_terminal", "shell_quoted"]

WORDS: dict[Hint, str] = {
    Hint.RESUME_FOR_OUTPUTS: "Fetch it again with `comfy-remote jobs resume`.",
    Hint.ROOM_FOR_OUTPUTS: "Free some space, then fetch the outputs again with "
    "`comfy-remote jobs resume`.",
    Hint.ROOM_OR_OTHER_DISK: "Free some space, or name a folder on another disk with -o, then "
    "fetch the outputs with `comfy-remote jobs resume`. {variable} says how much stays free.",
    Hint.OUTPUT_SIZE_LIMIT: "If that is right, set {variable} (for example 200GB) and fetch it "
    "with `comfy-remote jobs resume`.",
    Hint.OTHER_FOLDER: "Choose another folder with -o (comfy-run-remote: --local-output).",
    Hint.WRITABLE_FOLDER: "Choose another folder with -o (comfy-run-remote: --local-output), or "
    "correct its permissions.",
    Hint.LINK_OUT_OF_FOLDER: "Remove that link, or choose another folder with -o "
    "(comfy-run-remote: --local-output).",
    Hint.FIND_JOB: "Look for it with `comfy-remote jobs resume {job_id!q}`.",
    Hint.RESUME_OR_CANCEL: (
        "Fetch it with `comfy-remote jobs resume {job_id!q}`, or stop it with `comfy-remote "
        "jobs cancel {job_id!q}`."
    ),
    Hint.RESUME_WITH_TIME: (
        "Fetch them with `comfy-remote jobs resume {job_id!q}`: what has arrived is not fetched"
        " again. With --timeout, give it more time."
    ),
    Hint.JOB_NOT_RECORDED: (
        "`comfy-remote jobs list` shows the jobs it knows. If it runs on a ComfyUI: `comfy-"
        "remote jobs resume {job_id!q} --on URL`."
    ),
    Hint.RECORD_DAMAGED: (
        "The file is damaged. Rename it, and the next command begins a new one (or set "
        "COMFY_REMOTE_HOME to another folder). What still runs on a ComfyUI can be fetched with"
        " `comfy-remote jobs resume PROMPT_ID --on URL`."
    ),
}
"""Filled in with the facts; ``{name!q}`` quotes one as the shell needs it."""


class _Words(Formatter):
    def convert_field(self, value: object, conversion: str | None) -> object:
        if conversion == "q":
            return shell_quoted(str(value))
        return super().convert_field(value, conversion)


def for_terminal(advice: str) -> str:
    """Advice as the command line words it."""
    return worded(advice, _words)


def shell_quoted(text: str) -> str:
    """One word of a command, as this system's shell takes it."""
    return subprocess.list2cmdline([text]) if os.name == "nt" else shlex.quote(text)


def _words(hint: Hint, facts: Mapping[str, Fact]) -> str | None:
    return _Words().vformat(WORDS[hint], (), facts) if hint in WORDS else None
