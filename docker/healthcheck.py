"""Ends with 0 while the container is well: for HEALTHCHECK.

With SERVE_API_LOCALLY, well means that the endpoint answers. A worker of RunPod's queue listens
nowhere: it is the container's process, so that the container runs is all there is to ask.
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request


def main() -> int:
    """Ask the endpoint, if there is one."""
    if os.environ.get("SERVE_API_LOCALLY", "").lower() not in ("true", "1", "yes", "on"):
        return 0
    request = urllib.request.Request(
        f"http://127.0.0.1:{os.environ.get('COMFY_REMOTE_PORT') or 8000}/v2/local/health"
    )
    if token := os.environ.get("COMFY_REMOTE_TOKEN"):
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=5):  # noqa: S310  # an http address of ours
            return 0
    except (urllib.error.URLError, OSError) as error:
        sys.stderr.write(f"The endpoint does not answer: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
