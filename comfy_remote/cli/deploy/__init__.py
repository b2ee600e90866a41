"""``comfy-remote deploy``: targets of one's own, made at a provider."""

from __future__ import annotations

import click

from .modal import modal
from .runpod import runpod

__all__ = ["deploy"]


@click.group()
def deploy() -> None:
    """Make a target of your own: a workflow on Modal, an endpoint on RunPod."""


deploy.add_command(modal)
deploy.add_command(runpod)
