"""A network volume of RunPod's, by its S3 API: no worker is needed to put files on it.

Source of facts: docs.runpod.io/storage/s3-api. The address follows from the data centre, the bucket
is the volume's id, and the key pair is one of its own, made in the console. Keys are paths on the
volume, which serverless workers have at ``/runpod-volume``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import SecretStr
from yarl import URL

from ...errors import ConfigurationError
from ...net.address import base_address, is_loopback
from ...net.bucket import BucketSettings
from ...secrets import SECRETS

__all__ = ["KEYS_ADVICE", "VOLUME_KEYS", "Volume"]

VOLUME_KEYS = ("RUNPOD_S3_ACCESS_KEY_ID", "RUNPOD_S3_SECRET_ACCESS_KEY")
"""The variables with the key pair of the S3 API."""

KEYS_ADVICE = (
    "Make an S3 API key at https://console.runpod.io/user/settings (it is another one than the API "
    f"key), and set {VOLUME_KEYS[0]} and {VOLUME_KEYS[1]}."
)

_FORM = re.compile(
    r"(?P<id>[a-z0-9]{4,40})@(?P<center>[A-Za-z]{2,4}-[A-Za-z]{2,4}-[0-9]{1,3})"
    r"(?:/(?P<folder>[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*))?/?"
)


@dataclass(frozen=True, slots=True)
class Volume:
    """A network volume.

    Attributes:
        datacenter: As RunPod writes it: ``EU-RO-1``.
        folder: Of the models on it; ``None`` for what the worker would take.
    """

    id: str
    datacenter: str
    folder: str | None = None

    @classmethod
    def parse(cls, text: str) -> Volume:
        """``VOLUME_ID@DATACENTER``, with ``/FOLDER`` behind it or not.

        Raises:
            ConfigurationError: It is something else.
        """
        match = _FORM.fullmatch(text.strip())
        folder = match["folder"] if match is not None else None
        if match is None or ".." in (folder or "").split("/"):
            raise ConfigurationError(
                f"{text!r} names no network volume.",
                advice="Write VOLUME_ID@DATACENTER, as the console's storage page shows them: "
                "agv6w2qcg7@EU-RO-1; and the models' folder behind it, if it is another one than "
                "the worker's: agv6w2qcg7@EU-RO-1/ComfyUI/models.",
            )
        return cls(match["id"], match["center"].upper(), folder)

    @property
    def title(self) -> str:
        """For people."""
        return f"the volume {self.id} in {self.datacenter}"

    def settings(self, environ: Mapping[str, str] = os.environ) -> BucketSettings:
        """Its bucket. ``RUNPOD_S3_ENDPOINT`` names another server than RunPod's.

        Raises:
            ConfigurationError: The keys are not set.
        """
        access, secret = (environ.get(name, "").strip() for name in VOLUME_KEYS)
        if not access or not secret:
            raise ConfigurationError(
                f"The S3 keys for {self.title} are not set.", advice=KEYS_ADVICE
            )
        SECRETS.add(VOLUME_KEYS[1], secret)
        return BucketSettings(
            _endpoint(environ, f"https://s3api-{self.datacenter.lower()}.runpod.io"),
            self.id,
            self.datacenter,
            access_key_id=access,
            secret_access_key=SecretStr(secret),
        )


def _endpoint(environ: Mapping[str, str], usual: str) -> URL:
    url = base_address(environ.get("RUNPOD_S3_ENDPOINT", "").strip().rstrip("/") or usual)
    if url.scheme != "https" and not is_loopback(url.host):
        raise ConfigurationError(
            "RUNPOD_S3_ENDPOINT is not an https address.",
            advice="Only storage on this machine may be plain http.",
        )
    return url
