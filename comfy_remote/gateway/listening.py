"""Listening on an address: who may be let in there, and the errors."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from pydantic import SecretStr

from ..advice import Hint
from ..errors import ConfigurationError
from ..net.address import is_loopback
from ..net.serving import GuardedRunner, GuardedSite
from .limits import MINIMUM_TOKEN_LENGTH

__all__ = ["check_token", "in_url", "listen", "serving"]


@asynccontextmanager
async def serving(
    app: web.Application,
    host: str,
    port: int,
    context: ssl.SSLContext | None,
    *,
    handler_cancellation: bool = False,
) -> AsyncIterator[str]:
    """Serve an application as long as the context lasts; gives ``http://HOST:PORT``.

    Args:
        port: 0 picks a free one.
        handler_cancellation: Whether a client that hangs up cancels its request's handler.

    Raises:
        ConfigurationError: The address or port cannot be used, with what to do.
    """
    runner = GuardedRunner(app, shutdown_timeout=2.0, handler_cancellation=handler_cancellation)
    await runner.setup()
    try:
        port = await listen(runner, host, port, context)
        scheme = "http" if context is None else "https"
        yield f"{scheme}://{in_url(host)}:{port}"
    finally:
        await runner.cleanup()


async def listen(
    runner: GuardedRunner, host: str, port: int, context: ssl.SSLContext | None
) -> int:
    """Listen, on a free port if ``port`` is 0; returns the port.

    Raises:
        ConfigurationError: The address or port cannot be used, with what to do.
    """
    site = GuardedSite(runner, host, port, context)
    before = len(runner.addresses)
    try:
        await site.start()
    except socket.gaierror as error:
        raise ConfigurationError(
            f"{host} is not an address of this machine: {error.strerror}.",
            advice="Use 127.0.0.1, or 0.0.0.0 with a token.",
        ) from error
    except (OSError, OverflowError) as error:
        raise _cannot_listen(host, port, error) from error
    port_taken: int = runner.addresses[before][1]
    return port_taken


def check_token(host: str, token: SecretStr | None) -> None:
    """Check that an address which others reach has a token that cannot be guessed.

    Raises:
        ConfigurationError: There is no token, and others reach this address; or it is too short.
    """
    if token is None:
        if not is_loopback(host):
            raise ConfigurationError(
                f"Listening on {host} without a token would let anybody on the network run jobs.",
                advice=Hint.OPEN_TO_NETWORK(length=MINIMUM_TOKEN_LENGTH),
            )
    elif len(token.get_secret_value()) < MINIMUM_TOKEN_LENGTH:
        raise ConfigurationError(
            f"The token is shorter than {MINIMUM_TOKEN_LENGTH} characters.",
            advice='Make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"',
        )


def in_url(host: str) -> str:
    """A host as a URL has it: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _cannot_listen(host: str, port: int, error: OSError | OverflowError) -> ConfigurationError:
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EADDRINUSE:
        return ConfigurationError(
            f"Port {port} on {host} is taken by another program.",
            advice="Stop that program, or choose another port (0 picks a free one).",
        )
    if number in (errno.EACCES, errno.EPERM):
        if port > 1023:  # Windows has lent it to Hyper-V, WSL or Docker
            return ConfigurationError(
                f"Port {port} on {host} may not be used: Windows reserves it, or another program "
                "has it for itself.",
                advice="Choose another port (0 picks a free one). This lists what is reserved: "
                "netsh interface ipv4 show excludedportrange protocol=tcp",
            )
        return ConfigurationError(
            f"Port {port} on {host} may not be used by this user.",
            advice="Choose a port above 1023.",
        )
    # Since Python 3.13 asyncio skips such addresses, and says without a number that none is left.
    if number == errno.EADDRNOTAVAIL or (number is None and isinstance(error, OSError)):
        return ConfigurationError(
            f"{host} is not an address of this machine.",
            advice="Use 127.0.0.1, or 0.0.0.0 with a token.",
        )
    return ConfigurationError(
        f"It is not possible to listen on {host}:{port}: {error}.",
        advice="Choose another address or port.",
    )
