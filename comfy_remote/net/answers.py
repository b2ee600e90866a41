"""A server's answer, and the error that its status, or its absence, means."""

from __future__ import annotations

import asyncio
import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path

import aiohttp
from yarl import URL

from ..clean import cleaned_error, one_line
from ..data_class import dataclass
from ..errors import (
    AuthenticationError,
    ComfyRemoteError,
    RateLimited,
    RequestTooLarge,
    TargetError,
    TargetNotFound,
    TargetUnreachable,
)
from ..json_text import parse_json
from ..types import JsonValue
from ..units import size_text
from .address import POD_PROXY
from .retry import STAYS, retry_after
from .system_advice import LOCAL_NETWORK, certificates_missing, is_kept_from_local_network

__all__ = ["BY_PROXY", "NOBODY_LISTENS", "REFUSALS", "Response", "error_of", "unreachable"]

# OpenSSL's X509_V_ERR_…
_EXPIRED, _NOT_YET_VALID, _NO_ISSUER, _OTHER_NAME = 10, 9, 20, (62, 64)
_NO_NETWORK = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)
BY_PROXY = "by_proxy"
"""In the details of a refusal that came from something in front of the target."""

_GAVE_UP = 408
REFUSALS = frozenset(range(400, 500)) - {_GAVE_UP}
"""HTTP statuses by which a server says that it did not do what it was asked.

408 is none: proxies (Envoy) also give up waiting for a server that has the whole request.
"""

NOBODY_LISTENS = "nobody_listens"
"""In the details of an error: there is a machine, and no server on that port."""

_LONGEST_ERROR = 65536
_TITLE = re.compile(rb"<title[^>]*>([^<]{1,120})", re.IGNORECASE)
# What OpenSSL says of an answer that is no TLS, in its versions.
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
_PLAIN_TO_TLS = re.compile(rb"plain http request|http request to an https", re.IGNORECASE)
_LOGIN = re.compile(r"login|log-in|signin|sign-in|sso|oauth|/auth", re.IGNORECASE)

_NO_POD = (
    "RunPod's proxy answers, but not the pod: it is stopped or still starting, or no ComfyUI "
    "listens on that port (it needs --listen). Look at the pod in RunPod's console."
)
_POD_ADVICE = {
    404: _NO_POD,
    502: _NO_POD,
    503: _NO_POD,
    524: "RunPod's proxy waits 100 s for an answer: the pod's ComfyUI is stuck or overloaded. Look "
    "at its log.",
}


@dataclass(frozen=True, slots=True)
class Response:
    """A complete answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> JsonValue:
        """The body as JSON.

        Raises:
            TargetError: It is something else, for example a proxy's error page.
        """
        try:
            return parse_json(self.body)
        except ValueError:
            if _is_page(self.body):
                raise TargetError(
                    f"The target answered with a web page{_title(self.body)}, not JSON.",
                    advice="A login or a proxy is in between, or another program is there. Check "
                    "the address; for a ComfyUI behind a login, put user and password_env, "
                    "key_env or headers_env into comfy-remote.toml.",
                ) from None
            raise TargetError(
                "The target answered with something that is not JSON: "
                f"{self.body[:120].decode('utf-8', 'replace')!r}.",
                advice="Check the address: another program, or a proxy's page, may be there.",
            ) from None


def unreachable(error: Exception, where: str) -> TargetUnreachable:
    """The error of a request that was not answered."""
    never_sent = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
    advice = "Check that it runs and that the address is right."
    network = "Check this machine's network connection. If that works, check the address."
    if isinstance(error, asyncio.TimeoutError):
        why = "it did not answer in time"
    elif isinstance(error, aiohttp.ClientConnectorCertificateError):
        why, advice = _distrust(error.certificate_error)
    elif isinstance(error, aiohttp.ClientConnectorSSLError) and _spoke_no_tls(error):
        why = "it does not speak https there"
        advice = "Write http:// instead of https://, or give the port that speaks https."
    elif isinstance(error, aiohttp.ClientConnectorDNSError):
        why = f"its name cannot be looked up ({error.strerror or error.os_error})"
        advice = network
    elif isinstance(error, aiohttp.ClientConnectorError):
        why = error.strerror or str(error.os_error)
        if error.errno in _NO_NETWORK:
            advice = network
        if is_kept_from_local_network(error.os_error):
            advice = LOCAL_NETWORK
    elif isinstance(error, aiohttp.ClientResponseError):
        why = error.message  # not its text, which has the whole URL
    elif isinstance(error, aiohttp.InvalidURL):
        why = "that is not an address"
    else:
        why = str(error) or type(error).__name__
    details: dict[str, JsonValue] = {"never_sent": never_sent}
    if isinstance(error, aiohttp.ClientSSLError):
        details[STAYS] = True
    if isinstance(getattr(error, "os_error", None), ConnectionRefusedError):
        details[NOBODY_LISTENS] = True
    return TargetUnreachable(
        f"{where} could not be reached: {why}.", advice=advice, details=details
    )


def _distrust(error: Exception) -> tuple[str, str]:
    """What is wrong with a server's certificate, and what to do about it."""
    code = getattr(error, "verify_code", 0)
    if code in _OTHER_NAME:
        said = getattr(error, "verify_message", "").rstrip(".")
        return (
            "its certificate names other addresses" + (f" ({said})" if said else ""),
            "Use an address that the certificate names, or make one that names this address "
            "(subjectAltName: DNS: for a name, IP: for an IP address).",
        )
    if code == _EXPIRED:
        return "its certificate has expired", "Make a new one there, and check this machine's date."
    if code == _NOT_YET_VALID:
        return "its certificate is not valid yet", "Check the date on both machines."
    why = "its certificate is not trusted"
    file = os.environ.get("SSL_CERT_FILE", "")
    if file and not Path(file).is_file():
        return why, f"SSL_CERT_FILE names {file}, which is not there. Correct it."
    if code == _NO_ISSUER and not file and (advice := certificates_missing()):
        return why, advice
    return (
        why,
        "If it is your own certificate, name the file (PEM) that has it: as ca_file of the target "
        "in comfy-remote.toml, for a worker as its CA file, or in SSL_CERT_FILE for all. Otherwise "
        "check the address.",
    )


def _spoke_no_tls(error: aiohttp.ClientConnectorSSLError) -> bool:
    said = f"{getattr(error.os_error, 'reason', '')} {error}"
    return any(reason in said for reason in _NO_TLS)


def error_of(
    response: Response, where: str, *, sent: int = 0, keyed: bool = True
) -> ComfyRemoteError:
    """The error that an answer's status means, its texts cleaned.

    Args:
        sent: Bytes of the request's body.
        keyed: Whether the request carried a key.
    """
    error = cleaned_error(_error_by_status(response, where, sent, keyed))
    if POD_PROXY in where and (advice := _POD_ADVICE.get(response.status)):
        error.advice = advice
    return error


def _error_by_status(response: Response, where: str, sent: int, keyed: bool) -> ComfyRemoteError:
    status = response.status
    said = _excerpt(response.body)
    details: dict[str, JsonValue] = {"http_status": status}
    if status in (401, 403):
        if not keyed:
            return AuthenticationError(
                f"{where} wants a login, and none was sent (HTTP {status})."
                if status == 401
                else f"{where} refused the request, which was sent without a key (HTTP {status}).",
                advice="Name the variable with its key or password in comfy-remote.toml: key_env, "
                "user and password_env, or headers_env.",
                details=details,
            )
        return AuthenticationError(
            f"{where} refused the key (HTTP {status}).",
            advice="Check that the key is right, and that it may use this target. The key for a "
            "gateway is the token that it was started with.",
            details=details,
        )
    if status == 404:
        return TargetNotFound(
            f"{where} has no such address (HTTP 404{said}).",
            advice="Check the endpoint's id, or the URL.",
            details=details,
        )
    if status == 413:
        size = f" of {size_text(sent)}" if sent else ""
        # ComfyUI and our gateway answer in words; a page, or nothing, is a proxy's.
        proxy = _is_page(response.body) or not response.body.strip()
        if proxy:
            details[BY_PROXY] = True
        return RequestTooLarge(
            f"A proxy in front of {where} refused a request{size} as too large (HTTP 413)."
            if proxy
            else f"{where} refused the request{size} as too large (HTTP 413{said}).",
            advice="Raise the limit of that proxy (nginx: client_max_body_size), or go around it."
            if proxy
            else "Use smaller input files, or a target that takes larger ones.",
            details=details,
        )
    if status == 429:
        if (after := retry_after(response.headers.get("Retry-After"))) is not None:
            details["retry_after"] = after
        return RateLimited(
            f"{where} takes nothing for now (HTTP 429{said})."
            if _said(response.body)
            else f"{where} is being asked too often (HTTP 429).",
            advice="Wait a little, then try again.",
            details=details,
        )
    if status == _GAVE_UP:
        return TargetUnreachable(
            f"{where} gave up waiting (HTTP {status}{said}).",
            advice="Try again shortly; if it goes on, look at the log of the target, or of the "
            "proxy in front of it.",
            details=details,
        )
    if status >= 500:
        return TargetUnreachable(
            f"{where} is failing (HTTP {status}{said}).",
            advice="Try again shortly; if it goes on, look at the target's own log.",
            details=details,
        )
    if 300 <= status < 400:
        location = response.headers.get("Location", "")
        login = _LOGIN.search(location) is not None
        return TargetError(
            f"{where} redirects to {'a login, ' if login else ''}{_host(location)}"
            f"{', and the key is not sent there' if keyed else ''} (HTTP {status}).",
            advice="For a ComfyUI behind a login, put user and password_env, key_env or "
            "headers_env into comfy-remote.toml."
            if login
            else "If that is right, give that address as the target's.",
            details=details,
        )
    if status == 400 and _PLAIN_TO_TLS.search(response.body[:_LONGEST_ERROR]):
        return TargetError(
            f"{where} speaks https at that port, and was asked by http.",
            advice="Write https:// instead of http://.",
            details=details,
        )
    return TargetError(
        f"{where} refused the request (HTTP {status}{said}).",
        advice="Check the address; if it is right, the target's log may say why.",
        details={**details, "body": response.body[:65536].decode("utf-8", "replace")},
    )


def _is_page(body: bytes) -> bool:
    start = body[:500].lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html", b"<head")) or b"<html" in start


def _title(body: bytes) -> str:
    """`` ("Sign in")``; empty for a page without a title."""
    import html  # here: only a page in place of an answer needs it

    found = _TITLE.search(body[:_LONGEST_ERROR])
    text = html.unescape(found[1].decode("utf-8", "replace")) if found else ""
    title = one_line(" ".join(text.split()))
    return f' ("{title}")' if title else ""


def _excerpt(body: bytes) -> str:
    words = " ".join((_said(body) or body[:400].decode("utf-8", "replace")).split())
    if not words or words.startswith("<"):  # a proxy's HTML page helps no reader
        return ""
    return f": {words[:200]}"


def _said(body: bytes) -> str:
    """The words of an error in JSON; empty if there are none."""
    if len(body) > _LONGEST_ERROR:
        return ""
    try:
        answer = parse_json(body)
    except ValueError:
        return ""
    if not isinstance(answer, dict):
        return ""
    ours = answer.get("comfy_remote")  # its message alone: our own advice follows
    words = ours.get("message") if isinstance(ours, dict) else answer.get("error")
    if isinstance(words, dict):  # Comfy API v2: {"error": {"code", "message"}}
        words = words.get("message")
    return words.rstrip(".") if isinstance(words, str) else ""


def _host(url: str) -> str:
    """Scheme and host of a URL: its path may be anything that we sent."""
    try:
        return str(URL(url).origin())
    except ValueError:
        return "another path"
