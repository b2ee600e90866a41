"""What the commands that serve have in common: their address, their token, their log."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    import ssl

    from pydantic import SecretStr

__all__ = [
    "HOW_TO_MAKE_A_TOKEN",
    "TOKEN_VARIABLE",
    "address_for_others",
    "engine_choices",
    "keep_option",
    "listen_options",
    "read_token",
    "serve_until_stopped",
    "show_log",
    "ssl_context",
]

TOKEN_VARIABLE = "COMFY_REMOTE_TOKEN"  # noqa: S105  # its name, not its value

_FILES = 4096
_LONGEST_KEEP = 10 * 365 * 24  # hours
HOW_TO_MAKE_A_TOKEN = (
    'To make a token: python -c "import secrets; print(secrets.token_urlsafe(32))" > token.txt'  # noqa: S105
)

_Command = TypeVar("_Command", bound=Callable[..., object])

_PORT = 8000


def _host_and_port(port: int) -> tuple[Callable[[_Command], _Command], ...]:
    return (
        click.option(
            "--host",
            metavar="ADDRESS",
            default="127.0.0.1",
            show_default=True,
            help="Address to listen on. Any but this machine's own needs a token.",
        ),
        click.option(
            "--port",
            metavar="PORT",
            type=click.IntRange(0, 65535),
            default=port,
            show_default=True,
            help="0 takes a free one.",
        ),
    )


_TOKEN_AND_CERTIFICATE = (
    click.option(
        "--token-file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help=f"File that holds the token. Default: the variable {TOKEN_VARIABLE}.",
    ),
    click.option(
        "--certfile",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Certificate chain (PEM), to serve https.",
    ),
    click.option(
        "--keyfile",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="The certificate's private key (PEM).",
    ),
)


def listen_options(*, before: bool, port: int = _PORT) -> Callable[[_Command], _Command]:
    """``--host`` and ``--port``, which stand before a command's own options, or those after.

    Args:
        port: The usual one.
    """

    def decorate(command: _Command) -> _Command:
        for option in reversed(_host_and_port(port) if before else _TOKEN_AND_CERTIFICATE):
            command = option(command)
        return command

    return decorate


def keep_option(help_text: str) -> Callable[[_Command], _Command]:
    """``--keep HOURS``: how long something is stored, a day by default."""
    return click.option(
        "--keep",
        metavar="HOURS",
        type=click.FloatRange(min=0, min_open=True, max=_LONGEST_KEEP),
        callback=_finite,
        default=24.0,
        show_default=True,
        help=help_text,
    )


def engine_choices(comfyui: Path | None, engines: Sequence[str]) -> Sequence[str]:
    """The engines that were asked for by ``--comfyui`` or ``--engine``; empty for neither.

    Raises:
        ConfigurationError: Both were given.
    """
    from ..errors import ConfigurationError

    if comfyui is None:
        return engines
    if engines:
        raise ConfigurationError(
            "--comfyui starts a ComfyUI, and --engine names an engine.", advice="Give one of them."
        )
    return [str(comfyui.expanduser())]


def _finite(context: click.Context, parameter: click.Parameter, value: float) -> float:
    """A number given on the command line, which has to be one: ``nan`` passes every range."""
    del context, parameter
    if not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a number of hours.")
    return value


def show_log() -> None:
    """What the server does, a line each, on standard error."""
    import logging

    from ..config.log import log_to_stderr
    from ..config.log_thread import log_in_thread

    log_to_stderr(logging.INFO, "%(asctime)s %(message)s", "%H:%M:%S")
    log_in_thread()


def read_token(
    file: Path | None, variable: str = TOKEN_VARIABLE, *, advice: str = HOW_TO_MAKE_A_TOKEN
) -> SecretStr | None:
    """The token in a file, else in the environment; ``None`` if there is none.

    Args:
        advice: How to get one, for an error.
    """
    from pydantic import SecretStr

    from ..config.token_file import read_token_file
    from ..secrets import SECRETS

    if file is not None:
        return read_token_file(file, variable, advice=advice)
    value = os.environ.get(variable, "").strip()
    SECRETS.add(variable, value)
    return SecretStr(value) if value else None


def serve_until_stopped(
    work: Coroutine[object, object, None], politely: Callable[[], None] | None = None
) -> None:
    """Run a server. It ends by being stopped, which is no error.

    Args:
        politely: See `run_interruptible`.
    """
    import asyncio

    from .interrupt import run_interruptible

    _allow_more_files()
    with contextlib.suppress(asyncio.CancelledError, KeyboardInterrupt):
        run_interruptible(work, politely)


def _allow_more_files() -> None:
    """Let this process open more files, within what its user may: connections are files, too."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def address_for_others(url: str) -> str:
    """A server's address as people on other machines type it."""
    return url.replace("//0.0.0.0:", "//THIS-MACHINE:").replace("//[::]:", "//THIS-MACHINE:")


def ssl_context(certfile: Path | None, keyfile: Path | None) -> ssl.SSLContext | None:
    """What https needs; ``None`` for plain HTTP."""
    import ssl

    from ..errors import ConfigurationError

    if certfile is None:
        if keyfile is not None:
            raise ConfigurationError("--keyfile needs --certfile.")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certfile, keyfile)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(
            f"The certificate {certfile} cannot be used: {error}.",
            advice="Give a PEM file with the chain, and --keyfile if it does not hold the key.",
        ) from error
    return context
