"""Telling a client's address that its job is final; signed, where there is a secret.

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

import aiohttp
from pydantic import SecretStr
from yarl import URL

from ..errors import ConfigurationError

__all__ = ["deliver", "signed_headers", "webhook_key"]

_ATTEMPTS = 3
_TIMEOUT = aiohttp.ClientTimeout(total=30.0)
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


async def deliver(
    address: str,
    body: bytes,
    *,
    retry_delay: float,
    message_id: str = "",
    key: bytes | None = None,
) -> bool:
    """POST ``body`` (what ``/status`` answers) until it is answered by 200, three times at most.

    Redirects are not followed. What fails is logged, not raised: nobody waits for it.

    Args:
        message_id: The same each time, for a receiver to drop what it has got already.
        key: To sign with; ``None`` to leave the message unsigned, as RunPod does.

    Returns:
        Whether it was accepted.
    """
    url = URL(address)
    host = url.host
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(retry_delay)
            headers = {"Content-Type": "application/json"}
            if key is not None:
                headers |= signed_headers(key, message_id, int(time.time()), body)
            try:
                async with session.post(
                    url,
                    data=body,
                    headers=headers,
                    allow_redirects=False,
                ) as response:
                    if response.status == 200:
                        return True
                    _log.warning("The webhook at %s answered %d.", host, response.status)
            except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
                _log.warning("The webhook at %s could not be reached: %s.", host, error)
    return False
