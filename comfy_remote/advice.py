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
from string import Formatter
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["Advice", "Fact", "Hint", "advice_from_json", "worded"]

Fact: TypeAlias = str | int | float


class Advice(str):
    """A sentence or two in words that suit everybody, with what a face needs to say it again.

    Attributes:
        hint: The code.
        facts: What the words are filled in with.
    """

    hint: Hint
    facts: Mapping[str, Fact]

    def __new__(cls, hint: Hint, facts: Mapping[str, Fact]) -> Advice:
        advice = super().__new__(cls, hint.value.format_map(facts))
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
    WRITABLE_FOLDER = "Choose another folder, or correct its permissions."
    LINK_OUT_OF_FOLDER = "Remove that link, or choose another folder."
    FIND_JOB = "Resume job {job_id} to see whether the target has it."
    RESUME_OR_CANCEL = "Resume job {job_id} to fetch its outputs, or cancel it."
    RESUME_WITH_TIME = "Resume job {job_id} with more time: what has arrived is not fetched again."
    JOB_NOT_RECORDED = (
        "Check the id. A job that runs on a ComfyUI can be resumed there by its id, without a "
        "record."
    )
    RECORD_DAMAGED = (
        "The file is damaged. Rename it to begin a new record, or set COMFY_REMOTE_HOME to another "
        "folder. What still runs on a ComfyUI can be resumed there by its prompt id."
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
        return frozenset(name for _, name, _, _ in Formatter().parse(self.value) if name)


def advice_from_json(hint: JsonValue, words: str) -> str:
    """Advice that came from another program.

    Args:
        hint: As `Advice.to_json` gives it; anything else is ignored, and so is a code that this
            version does not know.
        words: The advice in everybody's words.
    """
    if not isinstance(hint, dict):
        return words
    known = next((one for one in Hint if one.code == hint.get("code")), None)
    facts = hint.get("facts")
    if known is None or not isinstance(facts, dict):
        return words
    usable = {k: v for k, v in facts.items() if isinstance(v, str | int | float)}
    return known(**usable) if known.facts <= usable.keys() else words


def worded(advice: str, words: Callable[[Hint, Mapping[str, Fact]], str | None]) -> str:
    """The advice in a face's own words.

    Args:
        advice: Of an error or a finding; a plain string stays as it is.
        words: The face's words for a code; ``None`` where everybody's words suit it.
    """
    if not isinstance(advice, Advice):
        return advice
    try:
        own = words(advice.hint, advice.facts)
    except KeyError:  # another version's advice has other facts
        own = None
    return str(advice) if own is None else own
