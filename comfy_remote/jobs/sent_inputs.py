"""Input files that an endpoint has from earlier jobs: they are not sent again.

A job names such a file by its SHA-256 alone. A worker that no longer has it says so before
anything runs, and the job is sent once more with the bytes. For that, the record has the request
until the job has ended: whoever follows the job, also after this client was killed, can send it
whole.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from ..errors import InputFileMissing
from ..events import Finished
from ..media.files import sha256_of
from ..targets.base import InputFile, KeepsInputs, RemoteRef, RunRequest, Target, input_errors
from ..workflow.prompt import Prompt
from .record import Record
from .recorded_request import request_from_json

__all__ = ["SentInputs", "check_unchanged"]

# Below, a second submission would cost more than the bytes do.
_SMALLEST = 256 * 1024
# A worker without a volume loses its files when it ends, and any worker may get the job.
_REMEMBERED_SECONDS = 6 * 3600.0


class SentInputs:
    """The files that one target is known to have, in the record.

    Targets that store none are sent everything. The methods block: call them through
    `Record.read` and `Record.write`.
    """

    def __init__(self, record: Record, target: Target) -> None:
        self._record = record
        self._keeper = target.inputs_kept_by if isinstance(target, KeepsInputs) else None

    @property
    def remembered(self) -> bool:
        """Whether the target stores files."""
        return self._keeper is not None

    def without_known(self, request: RunRequest) -> RunRequest:
        """The request, naming by SHA-256 those of its larger files that the target has."""
        large = frozenset(file.sha256 for file in request.files if file.size > _SMALLEST)
        if self._keeper is None or not large:
            return request
        kept = self._record.kept_inputs(self._keeper, since=time.time() - _REMEMBERED_SECONDS)
        return replace(request, known_inputs=kept & large)

    def missed(self, ref: RemoteRef, end: Finished) -> bool:
        """Whether a job ended because a file that was named by its SHA-256 was no longer there.

        Then nothing has run, and the job is sent again, by us or by another that follows it.
        """
        if not isinstance(end.error, InputFileMissing):
            return False
        if "missing_inputs" not in end.error.details:
            return False
        return self._record.can_be_sent_again(ref)

    def claim(self, ref: RemoteRef, prompt: Prompt) -> RunRequest | None:
        """The request to send again, whole; ``None`` if another process does so.

        From then on the record has the job as one whose submission was not answered, and it is not
        sent a third time.
        """
        text = self._record.claim_request(ref)
        request = None if text is None else request_from_json(ref.job_id, prompt, text)
        if request is None:
            return None
        self._forget(request)
        return replace(request, known_inputs=frozenset())

    def ended(self, job_id: str, prompt: Prompt, end: Finished) -> None:
        """Note which files the target has now, from how a job ended."""
        if self._keeper is None:
            return
        kept = end.details.get("kept_inputs")
        if isinstance(kept, list):
            hashes = [one for one in kept if isinstance(one, str)]
            since = time.time() - _REMEMBERED_SECONDS
            self._record.inputs_kept(self._keeper, hashes, since=since)
        text = self._record.drop_request(job_id)
        request = None if text is None else request_from_json(job_id, prompt, text)
        if request is not None and end.error is not None:
            # Perhaps a worker of another kind, which does not understand hashes.
            self._forget(request)

    def _forget(self, request: RunRequest) -> None:
        if self._keeper is not None:
            self._record.inputs_gone(self._keeper, request.known_inputs)


def check_unchanged(files: Sequence[InputFile]) -> None:
    """Raise `InputFileMissing` if a file has been removed or changed. Blocking: it reads them."""
    for file in files:
        with input_errors(file.path):
            same = sha256_of(file.path) == file.sha256
        if not same:
            raise InputFileMissing(
                f"{file.path}, which the job needs again, has changed since it was submitted.",
                advice="Run the workflow again.",
                details={"path": str(file.path)},
            )
