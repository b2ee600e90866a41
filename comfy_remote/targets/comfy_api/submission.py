"""Sending a job once, and what a lost answer leaves to find out.

A key is used once: the server refuses a second request with it, unless the first was refused for
certain. So the same request may be sent again after a lost answer: if it is accepted (201), it is
the only run. If it is refused as used, the first has arrived, or may have. The refusal names no
job: only a list of jobs can tell which one it is, so jobs are labelled with our id where the server
takes labels.

Facts: ``openapi-v2.yaml`` 2.0.0. Labels and list: comfy-sdk 0.5.0 and its README. Comfy's
deployments take a map of labels, its cloud refuses them, comfy-api-proxy 0.1.6 takes one text.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias
from urllib.parse import urlencode

from pydantic import JsonValue, SecretStr

from ...advice import Hint
from ...aio import Deadline
from ...errors import ComfyRemoteError, RateLimited, SubmissionUnknown, TargetError
from ...net.answers import NOBODY_LISTENS, Response
from ...net.retry import Backoff, Retries
from ...types import mapping, mappings
from ...wire.comfy_api import IDEMPOTENCY_HEADER, ApiJob
from ...workflow.prompt import Prompt
from ..base import before_sending
from .answers import read_job
from .own_servers import CLOUD_HOST, is_comfys
from .refusals import api_code, api_error
from .server import ApiServer

__all__ = ["Submissions"]

LABEL = "comfy_remote_job"
_MOST_LISTED = 100
_MOST_PAGES = 5
_TRIES = 3
_NOBODY_BEHIND = (502, 503, 504)  # a proxy's statuses
_Labels: TypeAlias = Literal["map", "text", "none"]
_KEY_USED = "idempotency_key_reuse"


@dataclass(frozen=True, slots=True)
class _Job:
    """What is sent for one."""

    job_id: str
    prompt: Prompt
    partner_key: SecretStr | None

    def body(self, label: JsonValue) -> bytes:
        body: dict[str, JsonValue] = {"workflow": self.prompt}  # type: ignore[dict-item]
        if self.partner_key is not None:
            body["extra_data"] = {"api_key_comfy_org": self.partner_key.get_secret_value()}
        if label is not None:
            body["metadata"] = label
        return json.dumps(body).encode()


class Submissions:
    """Sends jobs to one server.

    Args:
        full: The waits while it takes no more jobs.
        search: Seconds for a job whose answer was lost to turn up in the list.
        between: Of these, between two looks.
    """

    def __init__(self, server: ApiServer, full: Backoff, *, search: float, between: float) -> None:
        self._server = server
        self._full = full
        self._search, self._between = search, between
        host = server.links.origin.host or ""
        self._labels: _Labels = "none" if host == CLOUD_HOST else "map"

    async def send(
        self, job_id: str, prompt: Prompt, partner_key: SecretStr | None
    ) -> ApiJob | str:
        """Send a job once. Returns it, or its id on the server where the answer was lost.

        Raises:
            SubmissionUnknown: It may have been accepted.
            RateLimited: The server took no more jobs for too long.
            ComfyRemoteError: The server refused it.
        """
        job = _Job(job_id, prompt, partner_key)
        try:
            return await self._accepted(job)
        except SubmissionUnknown as error:
            return await self._after_lost(job, error)

    async def find(self, job_id: str) -> str | None:
        """The server's id of a job that this client has labelled; ``None`` if it lists none.

        Raises:
            ComfyRemoteError: It has no list, or could not be asked.
        """
        query = {"limit": str(_MOST_LISTED), f"metadata[{LABEL}]": job_id}
        path = self._server.links.path("jobs")
        for _ in range(_MOST_PAGES):
            answer = mapping((await self._server.get(f"{path}?{urlencode(query)}")).json())
            for one in mappings(answer.get("jobs")):
                if isinstance(found := one.get("id"), str) and _is_labelled(one, job_id):
                    return found
            if not isinstance(cursor := answer.get("next_cursor"), str):
                break
            query["cursor"] = cursor
        return None

    async def _accepted(self, job: _Job) -> ApiJob:
        """Send it, without a label that the server refuses; wait while it takes no more jobs."""
        retries = Retries(self._full)
        while True:
            try:
                return await self._posted(job)
            except RateLimited as error:
                with before_sending():
                    await retries.wait_after(error)
            except _LabelRefused as refused:
                self._labels = refused.rather

    async def _posted(self, job: _Job, *, again: bool = False) -> ApiJob:
        form = self._labels
        labels: dict[str, JsonValue] = {
            "map": {LABEL: job.job_id},
            "text": f"{LABEL}={job.job_id}",
            "none": None,
        }
        body = job.body(labels[form])
        post = self._server.submit_again if again else self._server.submit
        answer = _without(await post(body, {IDEMPOTENCY_HEADER: job.job_id}), job.partner_key)
        if answer.status >= 400:
            self._check_refusal(answer, form)
            raise self._server.refused(answer, job.prompt)
        try:
            return read_job(answer.json())
        except TargetError as error:
            # Accepted, by its status: somebody in between has replaced the answer.
            raise SubmissionUnknown(
                f"{error.message} It is not known whether the job was accepted.",
                details=error.details,
            ) from error

    def _check_refusal(self, answer: Response, form: _Labels) -> None:
        # In whatever form: taken for another refusal, the job would be sent elsewhere as well.
        if _KEY_USED.encode() in answer.body:
            raise SubmissionUnknown(
                f"{self._server.name} has had the job's key before.",
                details={"http_status": answer.status, "api_code": _KEY_USED},
            )
        if (said := api_error(answer)) is None:
            return
        about_label = said.code.startswith("metadata") or (
            said.code == "invalid_request" and "metadata" in said.message
        )
        if about_label and form != "none":
            takes_text = form == "map" and "string" in said.message
            raise _LabelRefused("text" if takes_text else "none")

    async def _after_lost(self, job: _Job, lost: SubmissionUnknown) -> ApiJob | str:
        used, gone = _says_used(lost), False
        for _ in range(0 if used else _TRIES):
            try:
                if (found := await self.find(job.job_id)) is not None:
                    return found
            except ComfyRemoteError as error:
                gone = self._may_lose_keys(error)
            if gone:
                break
            try:
                return await self._posted(job, again=True)
            except _LabelRefused as refused:
                self._labels = refused.rather
            except ComfyRemoteError as error:
                used, gone = _says_used(error), self._may_lose_keys(error)
                if used or gone:
                    break
                # Lost again, or refused: which says nothing of the first.
                await asyncio.sleep(self._between)
        if used and (found := await self._searched(job.job_id)) is not None:
            return found
        if used:
            why = "It has had the job, or may have, and does not say which of its jobs that is."
        elif gone:
            why = "Then the server was gone, and nothing more was sent."
        else:
            why = "It was sent again under the same key, which cannot run it twice: no answer."
        raise SubmissionUnknown(
            f"{lost.message} {why}",
            advice=Hint.FIND_JOB(job_id=job.job_id),
            details=lost.details,
        ) from lost

    def _may_lose_keys(self, error: ComfyRemoteError) -> bool:
        """Whether the server is gone: started again, it may take the job a second time.

        comfy-api-proxy has the keys in memory; Comfy's own servers do not lose theirs.
        """
        if error.details.get(NOBODY_LISTENS) is True:
            return True
        by_proxy = error.details.get("http_status") in _NOBODY_BEHIND
        return by_proxy and not is_comfys(self._server.links.origin)

    async def _searched(self, job_id: str) -> str | None:
        """Look for a while: the server may still be at the request that was lost."""
        deadline = Deadline(self._search)
        while True:
            if (found := await self._listed(job_id)) is not None:
                return found
            if not deadline.left:
                return None
            await asyncio.sleep(min(self._between, deadline.left))

    async def _listed(self, job_id: str) -> str | None:
        try:
            return await self.find(job_id)
        except ComfyRemoteError:
            return None


class _LabelRefused(Exception):
    """The server does not take the label of a job."""

    def __init__(self, rather: Literal["text", "none"]) -> None:
        super().__init__(rather)
        self.rather = rather


def _without(answer: Response, key: SecretStr | None) -> Response:
    """The same answer, should it repeat the key for partner nodes: errors are recorded."""
    if key is None or not (secret := key.get_secret_value().encode()):
        return answer
    return replace(answer, body=answer.body.replace(secret, b"***"))


def _says_used(error: ComfyRemoteError) -> bool:
    """Whether the server has had the key of the job."""
    return api_code(error) == _KEY_USED


def _is_labelled(job: Mapping[str, JsonValue], job_id: str) -> bool:
    label = job.get("metadata")
    return label == f"{LABEL}={job_id}" or mapping(label).get(LABEL) == job_id
