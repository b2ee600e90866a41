"""What to do about an error, in an agent's words: which argument to give, whom to ask."""

from __future__ import annotations

from collections.abc import Mapping

from ..advice import Fact, Hint, worded
from ..targets.own_command import as_typed_here

__all__ = ["WORDS", "for_agent"]

WORDS: dict[Hint, str] = {
    Hint.RAISE_CAP: "No tool can go over it. A person can raise {where}.",
    Hint.SET_PRICE: (
        "No tool can go over it. A person can set price_per_hour for {target} in their own "
        "comfy-remote.toml."
    ),
    Hint.FIND_JOB: "Look for it: resume(job={job_id!r}).",
    Hint.RESUME_FOR_OUTPUTS: "Fetch them again: resume(job=…).",
    Hint.RESUME_OR_CANCEL: "Fetch it with resume(job={job_id!r}), or stop it with cancel.",
    Hint.RESUME_WITH_TIME: "Fetch the rest with resume(job={job_id!r}).",
    Hint.RESUME_WHEN_BACK: "When it is back: resume(job=…).",
    Hint.NOT_SENT_AGAIN: (
        "Nothing was sent again. If it turns up after all, resume(job={job_id!r}) fetches it."
    ),
    Hint.JOB_NOT_RECORDED: "`jobs` lists those that are known.",
    Hint.NAME_FILE: "Name it in `inputs`; only files below the server's folders are taken.",
    Hint.PUT_OR_NAME_FILE: "Name it in `inputs`; only files below the server's folders are taken.",
    Hint.SET_INPUT: "Set it: set={{'{input}': …}}",
    Hint.CONNECT_OR_SET: "Connect or set it: set={{'{input}': …}}",
    Hint.SET_OTHER_INPUT: "Set another input: set={{'NODE.input': value}}.",
    Hint.EXAMPLE_SETTING: "For example: set={{'3.seed': 42}}. `show` lists what can be set.",
    Hint.SET_TEXT_BY_NAME: "Set its input by name: set={{'NODE.input': 'TEXT'}}.",
    Hint.SET_ONE_TEXT: "Set the text you mean with `set`: {inputs}.",
    Hint.OTHER_TARGET: "Choose another `target`; `targets` lists them.",
    Hint.TRUST_CONFIG: (
        "No tool can trust it. A person can review what it names, in a terminal: comfy-remote "
        "trust {path}"
    ),
    Hint.TRUST_ENV: (
        "No tool can trust it. A person can review what it names, in a terminal: comfy-remote "
        "trust {path}"
    ),
    Hint.WHICH_BATCH: "batch(action='list') lists them.",
}


def for_agent(advice: str) -> str:
    """Advice as a tool words it, with commands as a person types them here."""
    return as_typed_here(worded(advice, _words))


def _words(hint: Hint, facts: Mapping[str, Fact]) -> str | None:
    return WORDS[hint].format_map(facts).strip() if hint in WORDS else None
