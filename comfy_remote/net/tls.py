"""Which certificates a connection trusts."""

from __future__ import annotations

import ssl
from pathlib import Path

from ..advice import Hint
from ..errors import ConfigurationError

__all__ = ["trusting"]


def trusting(ca_file: Path | str | None) -> ssl.SSLContext | None:
    """Trust for the certificates that the system trusts, and those in a file.

    Args:
        ca_file: PEM: a server's own certificate, or that of whoever signs them. ``None`` for the
            system's alone.

    Raises:
        ConfigurationError: It is not a file of certificates.
    """
    if ca_file is None:
        return None
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(Path(ca_file).expanduser())
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(
            f"The certificates in {ca_file} cannot be used: {error.strerror or error}.",
            advice=Hint.SERVER_CERTIFICATE(),
        ) from error
    return context
