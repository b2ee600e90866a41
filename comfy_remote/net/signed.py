"""Requests that are signed with a token which itself is never sent.

A ComfyUI on a LAN speaks plain http, where a bearer token could be read and used by anybody on the
way. So a request carries an HMAC (RFC 2104, SHA-256) over its method, its path and the SHA-256 of
its content, over a challenge of the server's, and over a number that is used once. Who reads it
can neither send another request with it nor send the same one again.

What is answered is not signed, and nothing is hidden: where that matters, use https.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import TYPE_CHECKING

from ..errors import AuthenticationError

if TYPE_CHECKING:
    from pydantic import SecretStr

__all__ = ["CHALLENGE", "SHORTEST_TOKEN", "SIGNATURE_HEADER", "SignedRequests", "signature"]

SIGNATURE_HEADER = "Comfy-Remote-Signature"
CHALLENGE = "challenge"
"""In the details of a refusal: the one to sign with."""
SHORTEST_TOKEN = 20
"""Characters. A shorter one could be guessed from one signed request."""

_FORM = re.compile(r"1 ([0-9a-f]{32}) ([0-9a-f]{32}) ([0-9a-f]{64}) ([0-9a-f]{64})")


def signature(token: SecretStr, challenge: str, method: str, path: str, content: str) -> str:
    """The value of `SIGNATURE_HEADER` for one request: a further one for each try.

    Args:
        path: Without what a proxy may have before it.
        content: SHA-256 of the body, 64 lower-case hex digits.
    """
    once = secrets.token_hex(16)
    return f"1 {challenge} {once} {content} {_mac(token, challenge, once, method, path, content)}"


class SignedRequests:
    """Whether requests are signed with a token; the server's side.

    Args:
        most: Numbers that are remembered, those of one challenge; after so many requests, there
            is another challenge.
    """

    def __init__(self, token: SecretStr, *, most: int = 10_000) -> None:
        self._token = token
        self._most = most
        self._used: set[str] = set()
        self.challenge = secrets.token_hex(16)

    def check(self, header: str | None, method: str, path: str) -> str:
        """The SHA-256 that the body must have.

        Raises:
            AuthenticationError: The request is not signed, with another token, for another
                request, or it was sent before.
        """
        form = _FORM.fullmatch(header or "")
        if form is None:
            raise self._refused("The request is not signed with the token of this ComfyUI.")
        challenge, once, content, mac = form.groups()
        if challenge != self.challenge:
            raise self._refused("The request is signed for an earlier start of this ComfyUI.")
        expected = _mac(self._token, challenge, once, method, path, content)
        if not hmac.compare_digest(mac, expected):
            raise self._refused("The request is signed with another token than this ComfyUI's.")
        if once in self._used:
            raise self._refused("The request was sent before.")
        self._used.add(once)
        if len(self._used) >= self._most:
            self._used.clear()
            self.challenge = secrets.token_hex(16)
        return content

    def _refused(self, why: str) -> AuthenticationError:
        return AuthenticationError(
            why,
            advice="Its owner has set COMFY_REMOTE_SYNC_TOKEN there; the same token belongs here.",
            details={CHALLENGE: self.challenge},
        )


def _mac(token: SecretStr, challenge: str, once: str, method: str, path: str, content: str) -> str:
    said = "\n".join(["comfy-remote/1", method, path, challenge, once, content])
    return hmac.new(token.get_secret_value().encode(), said.encode(), hashlib.sha256).hexdigest()
