"""Webhooks: a final job's status, posted to the client's address; signed if there is a secret.

The signature is that of Standard Webhooks (https://www.standardwebhooks.com): HMAC-SHA256 of
``{id}.{timestamp}.{body}``, in base64, after ``v1,``.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
import time

from pydantic import SecretStr

from ..aio import timeout
from ..errors import ConfigurationError, TargetError
from ..net.fetch import NETWORK_ERRORS, GuardedHttp
from ..net.guard import Guard
from .limits import GatewayLimits

__all__ = ["WEBHOOK", "deliver", "signed_headers", "webhook_guard", "webhook_key"]

WEBHOOK = "The webhook's address"
"""What to call it in errors."""

_ATTEMPTS = 3
_PATIENCE = 30.0
_log = logging.getLogger(__name__)


def webhook_key(secret: SecretStr) -> bytes:
    """The key in a secret as Standard Webhooks writes it: ``whsec_`` and base64 of 16 to 64 bytes.

    Raises:
        ConfigurationError: It is not of that form.
    """
    text = secret.get_secret_value().removeprefix("whsec_")
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not 16 <= len(key) <= 64:
        raise ConfigurationError(
            "The secret for webhooks is not whsec_ followed by base64 of 16 to 64 bytes.",
            advice='Make one: python -c "import base64, os; '
            "print('whsec_' + base64.b64encode(os.urandom(32)).decode())\"",
        )
    return key


def signed_headers(key: bytes, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers of a signed message."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{signature}",
    }


def webhook_guard(limits: GatewayLimits) -> Guard:
    """Where the webhooks that clients name may lead."""
    return Guard(
        limits.webhook_hosts,
        advice="Webhooks go to public https addresses. Whoever runs the gateway may name others "
        "in COMFY_REMOTE_WEBHOOK_HOSTS.",
    )


async def deliver(
    address: str,
    body: bytes,
    *,
    guard: Guard,
    retry_delay: float,
    message_id: str = "",
    key: bytes | None = None,
) -> bool:
    """POST ``body`` (what ``/status`` answers) until it is accepted (2xx), three times at most.

    Redirects are not followed. What fails is logged, not raised: nobody waits for it.
    ``True`` if it was accepted.

    Args:
        guard: Where it may go; see `webhook_guard`.
        message_id: The same each time, for a receiver to drop what it has got already.
        key: To sign with; ``None`` to leave the message unsigned, as RunPod does.
    """
    async with GuardedHttp(guard, patience=_PATIENCE) as http:
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(retry_delay)
            headers = {"Content-Type": "application/json"}
            if key is not None:
                headers |= signed_headers(key, message_id, int(time.time()), body)
            try:
                async with (
                    timeout(_PATIENCE),
                    http.request(
                        "POST", address, what=WEBHOOK, headers=headers, data=body
                    ) as answer,
                ):
                    status = answer.response.status
            except TargetError as error:
                _log.warning("A webhook was not sent: %s", error)
                return False
            except NETWORK_ERRORS as error:
                _log.warning("A webhook could not be sent: %s.", type(error).__name__)
                continue
            if 200 <= status < 300:
                return True
            _log.warning("A webhook was answered with HTTP %d.", status)
    return False
