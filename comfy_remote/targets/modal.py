"""``modal:APP``: a workflow that ``comfy-remote deploy modal`` has put on Modal.

Its front speaks RunPod's endpoint API, so all of `RunPodTarget` holds. What differs is where it
is found, what opens it, and how much a request may hold.

Facts: modal.com/docs/guide/webhook-proxy-auth (the two headers), modal.com/docs/guide/webhooks
(a request of up to 4 GiB), and the SDK, 1.6.4 (`Function.from_name`, `get_web_url`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote

from ..advice import Hint
from ..errors import ConfigurationError, TargetNotFound, TargetUnreachable
from .runpod.target import RunPodTarget

if TYPE_CHECKING:
    from pydantic import SecretStr

    from ..net.bucket import BucketSettings
    from ..workflow.prompt import Prompt

__all__ = ["BODY_LIMIT", "FRONT", "ModalTarget", "find_front"]

FRONT = "front"
"""What the web function of a deployed app is called."""

BODY_LIMIT = 100 * 2**20
"""Bytes of a request: the front has all of one in memory, and passes it on."""

# Nothing is ever sent there: the name is reserved for that (RFC 6761).
_NOT_FOUND_YET = "https://modal.invalid"
_PATH = "/v2"


class ModalTarget(RunPodTarget):
    """The `Target` of one app.

    Args:
        app: Its name.
        headers: What opens it: see `config.MODAL_PROXY_HEADERS`.
        url: Where its front is (``https://WORKSPACE--APP-front.modal.run``); ``None`` asks Modal
            when the target is opened, for which the package ``modal`` has to be here and logged
            in.
        name: What to call it; ``modal:APP`` by default.
        keep_stored, memory, bucket: As for `RunPodTarget`.

    Raises:
        ConfigurationError: As `RunPodTarget`.
    """

    kind: ClassVar[str] = "modal"
    provider: ClassVar[str] = "Modal"
    results_kept: ClassVar[str] = "Modal keeps results for seven days at the most."
    no_worker: ClassVar[str] = (
        "If jobs wait for ever, there is no GPU of that type to be had at the moment, or the "
        "workspace's limit is reached: https://modal.com/apps shows the app's containers."
    )
    delay_means_begun: ClassVar[bool] = True
    body_limit: ClassVar[int] = BODY_LIMIT

    def __init__(
        self,
        app: str,
        headers: Mapping[str, SecretStr],
        *,
        url: str | None = None,
        name: str | None = None,
        keep_stored: bool = False,
        memory: Path | None = None,
        bucket: BucketSettings | None = None,
        storage_hosts: Collection[str] = (),
    ) -> None:
        if not app or quote(app, safe="") != app:
            raise ConfigurationError(
                f"{app!r} is not the name of an app on Modal.",
                advice="`modal app list` shows what is deployed: modal:NAME is the target.",
            )
        self._found = url is not None
        super().__init__(
            app,
            None,
            base_url=_api(url or _NOT_FOUND_YET),
            name=name,
            keep_stored=keep_stored,
            memory=memory,
            bucket=bucket,
            headers=headers,
            storage_hosts=storage_hosts,
        )

    async def __aenter__(self) -> ModalTarget:
        if not self._found:
            self._use(_api(await asyncio.to_thread(find_front, self._endpoint)))
            self._found = True
        await super().__aenter__()
        return self

    def not_returned(self, prompt: Prompt) -> str:
        """Nothing: the workers are Comfy Remote's."""
        del prompt
        return ""

    def _no_such_endpoint(self, error: TargetNotFound) -> TargetNotFound:
        return _no_such_app(self._endpoint, error)


def find_front(app: str) -> str:
    """Where the front of a deployed app is. Blocking: Modal is asked.

    Raises:
        ConfigurationError: The package ``modal`` is not here, or not logged in.
        TargetNotFound: There is no such app, or it is not one of ours.
        TargetUnreachable: Modal does not answer.
    """
    if find_spec("modal") is None:
        raise ConfigurationError(
            f"It is not known where modal:{app} is.",
            advice=f'Install Modal\'s SDK (`pip install "comfy-remote[modal]"`, then `modal '
            f"setup`), or write its address into comfy-remote.toml: base_url, beside target = "
            f'"modal:{app}".',
        )
    import modal

    try:
        url = modal.Function.from_name(app, FRONT).get_web_url()
    except modal.exception.NotFoundError as error:
        raise _no_such_app(app, error) from error
    except modal.exception.AuthError as error:
        raise ConfigurationError(
            f"Modal cannot be asked where modal:{app} is: {_said(error)}",
            advice="Log in with `modal setup`, or set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET.",
        ) from error
    except (modal.exception.Error, OSError) as error:
        raise TargetUnreachable(
            f"Modal could not be asked where modal:{app} is: {_said(error)}",
            advice="Check the network, and https://status.modal.com.",
        ) from error
    if url is None:
        raise _no_such_app(app, None)
    return url


def _api(url: str) -> str:
    return url.rstrip("/").removesuffix(_PATH) + _PATH


def _said(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _no_such_app(app: str, error: Exception | None) -> TargetNotFound:
    details = error.details if isinstance(error, TargetNotFound) else {}
    return TargetNotFound(
        f"There is no app {app!r} of Comfy Remote on Modal.",
        advice=Hint.DEPLOY_APP(app=app),
        details=details,
    )
