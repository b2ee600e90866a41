"""What a command says of a job that did not give what was asked for."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import click
import pytest

from comfy_remote.cli.follow import _supervise
from comfy_remote.errors import ComfyRemoteError, OutputLost, TargetUnreachable
from comfy_remote.events import JobState
from comfy_remote.jobs.record import Record


@pytest.mark.parametrize(
    ("error", "resumable"),
    [
        (TargetUnreachable("gone for a while"), True),
        (OutputLost("The job succeeded, but it made no output."), False),
    ],
)
def test_taking_a_job_up_again_is_advised_only_where_it_helps(
    tmp_path: Path, error: ComfyRemoteError, resumable: bool
) -> None:
    async def work(_record: Record) -> None:
        raise error

    reporter = Mock()
    with Record(tmp_path) as record:
        record.add("job-1", target="gpu", source="x", folder=None, prompt={})
        record.state("job-1", JobState.SUCCEEDED)
        with pytest.raises(click.exceptions.Exit) as ended:
            _supervise(work, record, reporter, "job-1")
    assert ended.value.exit_code == error.exit_status
    reporter.failed.assert_called_once_with(error, "job-1", resumable=resumable)
