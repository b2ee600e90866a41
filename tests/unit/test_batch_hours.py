"""When a batch may begin runs."""

from __future__ import annotations

from datetime import datetime

import pytest

from comfy_remote.batch.hours import Hours
from comfy_remote.errors import ConfigurationError

NOON = datetime.fromisoformat("2026-11-30T12:00").timestamp()  # here


def test_a_time_of_day_is_the_next_one_here() -> None:
    night = Hours.of("23:00", "7:30", NOON)
    assert (night.start, night.until) == (NOON + 11 * 3600, NOON + 19.5 * 3600)
    assert night.wait(NOON) == 11 * 3600 and night.wait(NOON + 12 * 3600) == 0
    assert night.begins(NOON) == "It begins at 23:00."
    assert night.begins(NOON + 11 * 3600) is None and Hours().begins(NOON) is None
    assert not night.over(NOON, 3600) and night.over(NOON + 19 * 3600, 3600)


def test_who_resumes_it_begins_at_once_and_keeps_to_its_end() -> None:
    night = Hours.of("23:00", "7:30", NOON)
    assert night.resumed(NOON) == Hours(None, night.until)
    tomorrow = NOON + 24 * 3600
    assert night.resumed(tomorrow) == Hours(None, NOON + 43.5 * 3600)


@pytest.mark.parametrize("text", ["24:00", "7", "7:60", "noon", ""])
def test_what_is_no_time_of_day_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a time of day"):
        Hours.of(text, None, NOON)
