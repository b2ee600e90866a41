"""Which servers of Comfy API v2 Comfy itself runs: its cloud, and its deployments.

Facts: development/api-development/ of github.com/Comfy-Org/docs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yarl import URL

__all__ = ["CLOUD_HOST", "DEPLOYMENTS", "is_comfys"]

CLOUD_HOST = "cloud.comfy.org"
DEPLOYMENTS = ".run.comfy.app"
"""How the names of the deployments' hosts end."""


def is_comfys(url: URL) -> bool:
    """Whether a URL is at one of them."""
    host = (url.host or "").lower()
    own = host == CLOUD_HOST or host.endswith(DEPLOYMENTS)
    return own and url.scheme == "https" and url.port == 443
