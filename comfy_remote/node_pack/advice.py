"""What to do about an error, in the words of ComfyUI's page: what to click, where a setting is."""

from __future__ import annotations

from collections.abc import Mapping

from ..advice import Fact, Hint, worded
from ..clean import cleaned_error
from ..errors import ComfyRemoteError

__all__ = ["WORDS", "for_page", "shown_error"]

WORDS: dict[Hint, str] = {
    Hint.WRITABLE_FOLDER: "Correct the permissions of ComfyUI's output folder.",
    Hint.LINK_OUT_OF_FOLDER: "Remove that link.",
}
"""Filled in with the facts. Where a code is missing, everybody's words suit the page."""


def for_page(advice: str) -> str:
    """Advice as ComfyUI's page shows it."""
    return worded(advice, _words)


def shown_error(error: ComfyRemoteError) -> ComfyRemoteError:
    """The error itself as the page shows it: cleaned, its advice in the page's words."""
    error.advice = for_page(cleaned_error(error).advice)
    return error


def _words(hint: Hint, facts: Mapping[str, Fact]) -> str | None:
    return WORDS[hint].format_map(facts) if hint in WORDS else None
