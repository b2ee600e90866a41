"""Calls of the workflow's function: spawned, polled, cancelled.

Facts from Modal's SDK, 1.6.4: a `FunctionCall` without a result raises the built-in
`TimeoutError`, one whose result is gone `OutputExpiredError`, one that took longer than the
function's timeout `FunctionTimeoutError`; what else a container ends with is a `RemoteError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
import modal

from ...errors import ComfyRemoteError, EngineCrashed, JobTimedOut, TargetUnreachable

__all__ = ["MODAL_FAILED", "CallResult", "Load", "ModalCalls"]

MODAL_FAILED = (modal.exception.Error, OSError, aiohttp.ClientError)
"""What is raised where Modal cannot be asked; what is over 2 MiB travels by plain HTTP."""


@dataclass(frozen=True, slots=True)
class CallResult:
    """What became of a call.

    Attributes:
        ended: Whether it has.
        known: Whether Modal knows it, or no longer.
        text: What the function returned, if it did.
        error: Why it did not.
    """

    ended: bool = True
    known: bool = True
    text: str | None = None
    error: ComfyRemoteError | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """How busy the function is.

    Attributes:
        containers: Containers that are up, or starting.
    """

    waiting: int
    running: int
    containers: int


class ModalCalls:
    """Calls of one deployed class's method ``run``, which takes text and returns text."""

    def __init__(self, workflow: Any) -> None:
        # What the decorator makes of a class has no type of its own.
        self._workflow = workflow

    async def spawn(self, payload: str) -> str:
        """Call it, without waiting. Returns the call's id."""
        with _asking():
            return str((await self._workflow().run.spawn.aio(payload)).object_id)

    async def result(self, call_id: str) -> CallResult:
        """What has become of a call, without waiting."""
        try:
            text = await modal.FunctionCall.from_id(call_id).get.aio(timeout=0)
        except modal.exception.OutputExpiredError:
            return CallResult(known=False)
        except modal.exception.FunctionTimeoutError:
            return CallResult(
                error=JobTimedOut(
                    "The job took longer than the app allows.",
                    advice="Raise `timeout` in modal_config.json, and deploy again.",
                )
            )
        except (TimeoutError, modal.exception.TimeoutError):
            return CallResult(ended=False)
        except (modal.exception.NotFoundError, modal.exception.InvalidError):
            return CallResult(known=False)
        except (
            modal.exception.RemoteError,
            modal.exception.InternalFailure,
            # A container that did not start, for a reason whose class is not known here.
            modal.exception.ExecutionError,
        ) as error:
            return CallResult(error=_ended(str(error)))
        except MODAL_FAILED as error:
            raise _unreachable(error) from error
        # An exception of the function itself arrives as what it was there. Ours raises none.
        except Exception as error:  # noqa: BLE001
            return CallResult(error=_ended(f"{type(error).__name__}: {error}"))
        return CallResult(text=str(text))

    async def cancel(self, call_id: str) -> None:
        """Cancel a call; one that runs gets a `CancelledError` in its container."""
        with _asking(), suppress(modal.exception.NotFoundError):
            await modal.FunctionCall.from_id(call_id).cancel.aio()

    async def load(self) -> Load:
        """How busy it is."""
        with _asking():
            stats = await self._workflow().run.get_current_stats.aio()
        return Load(
            waiting=stats.backlog,
            running=stats.num_running_inputs,
            containers=stats.num_total_runners,
        )


def _ended(words: str) -> EngineCrashed:
    return EngineCrashed(
        f"The container ended while the job ran: {words.strip() or 'no reason was given'}",
        advice="Its log says more: https://modal.com/apps, or `modal app logs APP`.",
    )


@contextmanager
def _asking() -> Iterator[None]:
    """Turns Modal's errors into a `TargetUnreachable`."""
    try:
        yield
    except MODAL_FAILED as error:
        raise _unreachable(error) from error


def _unreachable(error: Exception) -> TargetUnreachable:
    return TargetUnreachable(
        f"Modal did not answer the app's front: {type(error).__name__}: {error}",
        advice="Try again; https://status.modal.com reports outages.",
    )
