"""When something is tried again: back-off for requests, transfers and polling; Retry-After.

Not tenacity: progress resets the count of failures here, and polling and Retry-After share the
back-off.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from ..data_class import dataclass
from ..errors import ComfyRemoteError
from ..types import JsonValue

__all__ = [
    "STAYS",
    "Backoff",
    "Outage",
    "Polling",
    "Retries",
    "TryAgain",
    "at_most_tries",
    "retried",
    "retries_said",
    "retry_after",
]

STAYS = "stays"
"""In the details of an error that another try would give again: of TLS, say."""

_LONG_WAIT = 10.0
_SAID_EVERY = 15.0  # seconds, of an outage

_T = TypeVar("_T")
_say: ContextVar[Callable[[str], None] | None] = ContextVar("say", default=None)
_most: ContextVar[int | None] = ContextVar("most", default=None)
_log = logging.getLogger(__name__)


class TryAgain(Exception):
    """It did not work this time, and may the next.

    Attributes:
        retry_after: Seconds that the server asked us to wait.
    """

    def __init__(self, why: str, retry_after: float | None = None) -> None:
        super().__init__(why)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Backoff:
    """How often something is tried, and how long the waits between two tries are.

    Attributes:
        attempts: Tries in a row that may fail.
        first: Seconds after the first failure; each further wait is twice as long.
        longest: Seconds that a wait grows to.
        longest_asked: Seconds that a server may make us wait with ``Retry-After``.
        jitter: Up to so many seconds are added, so that many clients do not return at once.
    """

    attempts: int = 5
    first: float = 0.25
    longest: float = 4.0
    longest_asked: float = 60.0
    jitter: float = 0.2

    def seconds(self, failures: int, asked: float | None = None) -> float:
        """How long to wait after so many failures in a row."""
        # The exponent is bounded: polling may fail for hours.
        wait = min(self.first * 2.0 ** min(failures - 1, 32), self.longest)
        if asked is not None:
            return max(wait, min(asked, self.longest_asked))
        return wait + random.uniform(0, self.jitter)


@dataclass(frozen=True, slots=True)
class Polling:
    """How often the state of a remote run is asked for, and how long without an answer.

    Attributes:
        first: Seconds between two questions at first.
        longest: Seconds that this grows to.
        quick_for: Seconds for which it stays at ``first``.
        share: After that, this share of the time that has passed is waited.
        patience: Seconds without any answer after which it is given up.
        backoff: The waits between questions that fail.
    """

    first: float = 0.1
    longest: float = 2.0
    quick_for: float = 0.0
    share: float = 0.25
    patience: float = 60.0
    backoff: Backoff = Backoff(first=0.5, longest=2.0)

    def interval(self, elapsed: float) -> float:
        """Seconds to the next question, so many seconds after the first one."""
        if elapsed <= self.quick_for:
            return self.first
        return min(self.longest, max(self.first, elapsed * self.share))


class Outage:
    """Counts the questions in a row that failed, and for how long."""

    def __init__(self, polling: Polling) -> None:
        self._polling = polling
        self._since: float | None = None
        self._failures = 0
        self._said: set[str] = set()
        self._said_at = 0.0

    def answered(self) -> None:
        """Note an answer: the count begins again."""
        self._since, self._failures = None, 0
        self._said.clear()

    def said_of(self, message: str, wait: float) -> str:
        """What to say of the failure that was noted last; empty where that was said just now.

        The first of an outage is said as it is; then a line every 15 seconds has how many there
        were.

        Args:
            message: What went wrong, a sentence.
            wait: Seconds to the next question.
        """
        now = time.monotonic()
        if message in self._said and now - self._said_at < _SAID_EVERY:
            return ""
        self._said.add(message)
        self._said_at = now
        if self._failures == 1 or self._since is None:
            return f"{message} Trying again in {wait:.1f} s."
        return (
            f"{message} That was try {self._failures} in {now - self._since:.0f} s. Trying for "
            f"{self._polling.patience:.0f} s in all."
        )

    def failed(self, error: Exception) -> float | None:
        """Note a failure.

        Args:
            error: As for `Retries.wait_after`.

        Returns:
            Seconds to wait before the next question; ``None`` once the patience is over.
        """
        # Counted from the first failure, not from the last answer: in between, the caller may
        # have been busy, or the machine asleep.
        self._since = self._since or time.monotonic()
        self._failures += 1
        if time.monotonic() - self._since > self._polling.patience:
            return None
        return self._polling.backoff.seconds(self._failures, _asked(error))


class Retries:
    """Counts the failures of one piece of work, and waits between its tries."""

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._failures = 0

    def progressed(self) -> None:
        """Note that the last try brought something: the count begins again."""
        self._failures = 0

    async def wait_after(self, error: Exception) -> None:
        """Wait before the next try.

        Args:
            error: Why the last one failed. A `TryAgain`, or an error of ours with
                ``retry_after`` in its details, says what the server asked for.

        Raises:
            Exception: ``error``, if there is no next try.
        """
        self._failures += 1
        attempts = min(self._backoff.attempts, _most.get() or self._backoff.attempts)
        if self._failures >= attempts or _stays(error):
            raise error
        asked = _asked(error)
        wait = self._backoff.seconds(self._failures, asked)
        if (say := _say.get()) is not None:
            why = error.message if isinstance(error, ComfyRemoteError) else f"{error}."
            say(f"{why} Try {self._failures + 1} of {attempts} in {wait:.1f} s.")
        elif (asked or 0.0) >= _LONG_WAIT and isinstance(error, ComfyRemoteError):
            _log.warning("%s Trying again in %.0f s.", error.message, wait)
        else:
            _log.debug("Try %d failed: %s Next in %.1f s.", self._failures, error, wait)
        await asyncio.sleep(wait)


@contextmanager
def retries_said(say: Callable[[str], None]) -> Iterator[None]:
    """While inside, and in tasks that begin inside, retries are reported to a person.

    Without it, only long waits are logged.

    Args:
        say: Called before each wait with a sentence: why, which try is next, and in how many
            seconds.
    """
    token = _say.set(say)
    try:
        yield
    finally:
        _say.reset(token)


@contextmanager
def at_most_tries(number: int) -> Iterator[None]:
    """While inside, and in tasks that begin inside, nothing is tried more often, and none is said.

    For whoever goes on to another server instead.
    """
    most, said = _most.set(number), _say.set(None)
    try:
        yield
    finally:
        _say.reset(said)
        _most.reset(most)


async def retried(
    attempt: Callable[[], Awaitable[_T]], backoff: Backoff, *errors: type[Exception]
) -> _T:
    """The result of the first try that does not fail with one of these errors.

    Raises:
        Exception: The last try's error, or one of another kind at once.
    """
    retries = Retries(backoff)
    while True:
        try:
            return await attempt()
        except errors as error:
            await retries.wait_after(error)


def _stays(error: Exception) -> bool:
    return isinstance(error, ComfyRemoteError) and error.details.get(STAYS) is True


def _asked(error: Exception) -> float | None:
    if isinstance(error, TryAgain):
        return error.retry_after
    said = error.details.get("retry_after") if isinstance(error, ComfyRemoteError) else None
    return retry_after(said)


def retry_after(said: JsonValue) -> float | None:
    """Seconds that a ``Retry-After`` header, or a JSON key like it, asks to wait.

    Args:
        said: A number, as text or not, or a date (RFC 9110, 10.2.3).

    Returns:
        At least 0; ``None`` if it cannot be read.
    """
    if isinstance(said, bool) or not isinstance(said, str | int | float):
        return None
    try:
        try:
            seconds = float(said)
        except ValueError:
            seconds = _seconds_until(str(said))
    except (ValueError, OverflowError):
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _seconds_until(date: str) -> float:
    from email.utils import mktime_tz, parsedate_tz  # here: almost nobody sends a date

    parsed = parsedate_tz(date)
    return math.nan if parsed is None else mktime_tz(parsed) - time.time()
