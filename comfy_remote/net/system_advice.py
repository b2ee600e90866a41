"""Advice for connections that the system, or Python's installation, makes impossible."""

from __future__ import annotations

import errno
import ssl
import sys

__all__ = ["LOCAL_NETWORK", "certificates_missing", "is_kept_from_local_network"]

LOCAL_NETWORK = (
    "Check that it runs and that the address is right. If other programs reach it, macOS keeps "
    "this one from your network: in System Settings > Privacy & Security > Local Network, switch "
    "on the program that this runs in (your terminal, or ComfyUI), and start it again."
)


def is_kept_from_local_network(error: OSError, platform: str = sys.platform) -> bool:
    """Whether macOS may have refused a connection to the local network.

    Since macOS 15, a program that lacks the permission gets "no route to host".
    """
    return platform == "darwin" and error.errno == errno.EHOSTUNREACH


def certificates_missing(
    paths: ssl.DefaultVerifyPaths | None = None, platform: str = sys.platform
) -> str | None:
    """What to do where Python has no certificates to trust at all; ``None`` where it has some.

    Python from python.org has none on macOS until a program of its own has installed them. On
    Windows, they are the system's.
    """
    paths = paths or ssl.get_default_verify_paths()
    if platform == "win32" or paths.cafile is not None or paths.capath is not None:
        return None
    if platform == "darwin":
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return (
            "This Python has no certificates yet: open Applications > Python "
            f"{version} > Install Certificates.command, and run it again."
        )
    return (
        "This Python finds no certificates: install the system's (ca-certificates), or set "
        "SSL_CERT_FILE to a file (PEM) that has them."
    )
