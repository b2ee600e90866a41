"""Text from elsewhere on a terminal, in a log, on a page."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_remote.clean import clean, escaped_json, one_line
from comfy_remote.config.log import CleanRecords, clean_handlers
from comfy_remote.secrets import SECRETS
from comfy_remote.types import with_texts

STEERING = [
    "\x1b",
    "\x00",
    "\x07",
    "\r",
    "\x7f",
    "\x9b",
    "\u061c",
    "\u200b",
    "\u200e",
    "\u2028",
    "\u202e",
    "\u2066",
    "\ufeff",
    "\ud800",
    "\udfff",
    "\U000e0041",
]


@pytest.mark.parametrize("character", STEERING)
def test_what_steers_or_hides_is_shown_as_unknown(character: str) -> None:
    assert clean(f"a{character}b") == "a\ufffdb"


@pytest.mark.parametrize("text", ["Grüße, 猫 🐈‍⬛", "two\nlines", "10\u00a0%", "\ue0a0", ""])
def test_ordinary_text_stays(text: str) -> None:
    assert clean(text) == text


def test_a_log_entry_is_one_line() -> None:
    forged = "KSampler\r\n\x1b[2K12:00:00 Ready.\u2028x"
    assert one_line(forged) == "KSampler \ufffd[2K12:00:00 Ready. x"


@given(text=st.text(alphabet=st.characters(exclude_categories=())))
def test_whatever_it_was_it_can_be_written_and_cleaned_again(text: str) -> None:
    once = one_line(text)
    once.encode()
    assert len(once.splitlines()) <= 1
    assert one_line(once) == once
    assert not set(once) & set(STEERING)


def test_json_is_cleaned_inside() -> None:
    assert with_texts({"a\x1b": ["\ud800", {"b": 1, "c": None}]}, clean) == {
        "a\ufffd": ["\ufffd", {"b": 1, "c": None}]
    }


def test_a_document_is_escaped_and_means_the_same() -> None:
    document = {"a\x9b\u202e": ["\x1b", "🐈 é\n\ud800", "\U000e0041"]}
    text = escaped_json(json.dumps(document, indent=2, ensure_ascii=False))
    assert json.loads(text) == document
    assert not set(text) & set(STEERING)
    assert "🐈 é" in text


def written(record_name: str, only: str = "", **how: Any) -> str:
    """What a handler of somebody else's writes of one record."""
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler = Lines()
    handler.setFormatter(logging.Formatter("12:00:00 %(message)s"))
    handler.addFilter(CleanRecords(only))
    logger = logging.getLogger(record_name)
    logger.addHandler(handler)
    try:
        try:
            int("planted-odd-value\x1b[2J\u202e")
        except ValueError:
            forged = "Evil\x1b[31m\n12:00:01 all is well planted-odd-value"
            logger.log(logging.ERROR, "node %s", forged, **how)
    finally:
        logger.removeHandler(handler)
    return "\n".join(lines)


def test_a_class_with_escapes_and_line_breaks_cannot_forge_an_entry() -> None:
    SECRETS.add("STUDIO", "planted-odd-value")
    text = written("comfy_remote.test")
    assert text == "12:00:00 node Evil\ufffd[31m 12:00:01 all is well [STUDIO]"


def test_a_traceback_keeps_its_lines_and_no_more() -> None:
    SECRETS.add("STUDIO", "planted-odd-value")
    text = written("comfy_remote.test", exc_info=True)
    assert text.splitlines()[1] == "Traceback (most recent call last):"
    assert "ValueError: invalid literal" in text
    assert not {"\x1b", "\u202e"} & set(text)
    assert "planted" not in text


def test_in_comfyui_only_our_own_records_are_touched() -> None:
    assert "\x1b" in written("comfyui.something", "comfy_remote")
    assert "\x1b" not in written("comfy_remote.node_pack.lane", "comfy_remote")


def test_handlers_are_made_clean_once() -> None:
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        clean_handlers()
        clean_handlers()
        clean_handlers("comfy_remote")
        assert [one.name for one in handler.filters] == ["", "comfy_remote"]  # type: ignore[union-attr]
        # What writes warnings where nobody has set up a log.
        assert logging.lastResort is not None
        assert any(isinstance(one, CleanRecords) for one in logging.lastResort.filters)
    finally:
        logging.getLogger().removeHandler(handler)
        for other in [*logging.getLogger().handlers, logging.lastResort]:
            assert other is not None
            other.filters[:] = [f for f in other.filters if not isinstance(f, CleanRecords)]
