"""A log that nobody reads holds up nobody."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from comfy_remote.config.log import CleanRecords
from comfy_remote.config.log_thread import LogThread
from comfy_remote.secrets import SECRETS


class Terminal(logging.Handler):
    """Writes a line when it is not paused."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.paused = threading.Event()
        self.goes_on = threading.Event()
        self.goes_on.set()

    def emit(self, record: logging.LogRecord) -> None:
        self.paused.set()
        self.goes_on.wait(200)
        self.lines.append(self.format(record))


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


def logger_of(handler: logging.Handler) -> logging.Logger:
    logger = logging.Logger("test")
    logger.addHandler(handler)
    return logger


def test_lines_are_written_in_order_and_all_of_them_at_the_end(terminal: Terminal) -> None:
    thread = LogThread(terminal)
    logger = logger_of(thread)
    for number in range(500):
        logger.info("line %d", number)
    thread.close()
    assert terminal.lines == [f"line {number}" for number in range(500)]


def test_whoever_logs_does_not_wait_and_what_is_lost_is_said(terminal: Terminal) -> None:
    terminal.goes_on.clear()
    thread = LogThread(terminal, most=10)
    logger = logger_of(thread)
    logger.info("first")
    assert terminal.paused.wait(180)
    began = time.monotonic()
    for number in range(1000):
        logger.info("line %d", number)
    assert time.monotonic() - began < 60
    terminal.goes_on.set()
    deadline = time.monotonic() + 60
    while len(terminal.lines) < 11 and time.monotonic() < deadline:
        time.sleep(0.01)
    logger.info("last")
    thread.close()
    assert terminal.lines[:2] == ["first", "line 0"]
    assert terminal.lines[-2].startswith("990 lines of the log were lost")
    assert terminal.lines[-1] == "last"


def test_a_terminal_that_is_paused_for_ever_does_not_keep_the_program(terminal: Terminal) -> None:
    terminal.goes_on.clear()
    thread = LogThread(terminal, most=10)
    logger = logger_of(thread)
    for number in range(50):
        logger.info("line %d", number)
    began = time.monotonic()
    thread.close()
    assert time.monotonic() - began < 60
    terminal.goes_on.set()


def test_records_are_cleaned_as_before(terminal: Terminal) -> None:
    SECRETS.add("TOKEN", "a-secret-value-of-mine")
    terminal.addFilter(CleanRecords())
    thread = LogThread(terminal)
    logger = logger_of(thread)
    logger.info("it is %s\n\x1b[2J", "a-secret-value-of-mine")
    error = RuntimeError("a-secret-value-of-mine")
    logger.error("it %s", "failed", exc_info=error)
    thread.close()
    assert terminal.lines[0] == "it is [TOKEN] \ufffd[2J"
    assert terminal.lines[1] == "it failed\nRuntimeError: [TOKEN]"
    assert "a-secret-value-of-mine" not in "".join(terminal.lines)
