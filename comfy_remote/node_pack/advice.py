"""What to do about an error, in the words of ComfyUI's page: what to click, where a setting is.

In other languages, the page words it by its code: ``web/languages/advice.js``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import ParamSpec, TypeVar

from ..advice import Fact, Hint, worded
from ..clean import cleaned_error
from ..errors import ComfyRemoteError
from ..targets.own_command import as_typed_here, own_command
from ..types import JsonValue

__all__ = ["WORDS", "error_json", "for_page", "in_page_words", "shown_error"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

WORDS: dict[Hint, str] = {
    Hint.RESUME_FOR_OUTPUTS: "Fetch it again in a terminal: comfy-remote jobs resume.",
    Hint.ROOM_FOR_OUTPUTS: (
        "Free some space, then fetch the outputs in a terminal: comfy-remote jobs resume."
    ),
    Hint.ROOM_OR_OTHER_DISK: (
        "Free some space on the disk of ComfyUI's output folder, then fetch the outputs in a "
        "terminal: comfy-remote jobs resume. {variable} says how much stays free."
    ),
    Hint.OUTPUT_SIZE_LIMIT: (
        "If that is right, set {variable} (for example 200GB) in the environment that ComfyUI "
        "starts in, restart ComfyUI, and run the workflow again."
    ),
    Hint.RAISE_CAP: "Raise {where}.",
    Hint.SET_PRICE: "Set the price of {target} an hour: price_per_hour in comfy-remote.toml.",
    Hint.OTHER_FOLDER: "Check ComfyUI's output folder.",
    Hint.FIND_JOB: (
        "To see whether the target has it, in a terminal: comfy-remote jobs resume {job_id}."
    ),
    Hint.RESUME_OR_CANCEL: (
        "Fetch its outputs in a terminal: comfy-remote jobs resume {job_id}. Or stop it: "
        "comfy-remote jobs cancel {job_id}."
    ),
    Hint.RESUME_WITH_TIME: (
        "Fetch the rest in a terminal: comfy-remote jobs resume {job_id}. What has arrived is not "
        "fetched again."
    ),
    Hint.RESUME_WHEN_BACK: (
        "When it is back, fetch the outputs in a terminal: comfy-remote jobs resume."
    ),
    Hint.NOT_SENT_AGAIN: (
        "Nothing was sent again. If it turns up after all, fetch it in a terminal: comfy-remote "
        "jobs resume {job_id}. Otherwise check the address, and run the workflow again."
    ),
    Hint.OTHER_TARGET: "Choose another target in the Remote panel.",
    Hint.WRITABLE_FOLDER: "Correct the permissions of ComfyUI's output folder.",
    Hint.LINK_OUT_OF_FOLDER: "Remove that link.",
    Hint.NAME_FILE: "Put it into ComfyUI's input folder.",
    Hint.PUT_OR_NAME_FILE: "Put it into ComfyUI's input folder.",
    Hint.NODE_FAILED: "Correct that node's inputs.",
    Hint.PROJECT_FILE_EDITED: (
        "{path} was edited, so it was left as it is. clean_build would change this:\n{changes}"
    ),
    Hint.PROJECT_FILE_UNUSABLE: "Correct it, or have the file written again with clean_build.",
    Hint.PROJECT_PARTS_MISSING: (
        "They are what is deployed, and what answers: keep their names, or have the file written "
        "again with clean_build."
    ),
    Hint.TRUST_CONFIG: (
        "Review what it names, and trust it: comfy-remote trust {path} (in a terminal). Or put it "
        "into {own}."
    ),
    Hint.TRUST_ENV: (
        "Review what it names, and trust it: comfy-remote trust {path} (in a terminal). Or put the"
        " variables into {own}."
    ),
    Hint.TRUST_PROJECT: (
        "Review what it names, and trust it: comfy-remote trust {path} (in a terminal). Or give "
        "what it names with the node's inputs, and have its files written again with clean_build."
    ),
    Hint.UNUSED: (
        "Not trusted, so not used: {names}, {how} {path}. To review that, and trust it: "
        "comfy-remote trust {path}"
    ),
}
"""Filled in with the facts. Where a code is missing, everybody's words suit the page."""


def for_page(advice: str) -> str:
    """Advice as ComfyUI's page shows it, with commands as they are typed here."""
    return as_typed_here(worded(advice, _words))


def shown_error(error: ComfyRemoteError) -> ComfyRemoteError:
    """The error itself as the page shows it: cleaned, its advice in the page's words."""
    error.advice = for_page(cleaned_error(error).advice)
    return error


def error_json(error: ComfyRemoteError) -> dict[str, JsonValue]:
    """The error for our scripts in the page, which say advice by its code in other languages."""
    coded = cleaned_error(error).to_json()
    if isinstance(hint := coded.get("hint"), dict):
        hint["command"] = own_command()
    return {**coded, **shown_error(error).to_json()}


def in_page_words(execute: Callable[_P, Awaitable[_T]]) -> Callable[_P, Awaitable[_T]]:
    """A node's ``execute`` whose errors ComfyUI shows in the page's words."""

    @wraps(execute)
    async def run(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return await execute(*args, **kwargs)
        except ComfyRemoteError as error:
            shown_error(error)
            raise

    return run


def _words(hint: Hint, facts: Mapping[str, Fact]) -> str | None:
    return WORDS[hint].format_map(facts).strip() if hint in WORDS else None
