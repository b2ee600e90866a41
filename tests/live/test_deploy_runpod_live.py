"""``deploy runpod`` and ``sync`` in a real RunPod account: made, used, and removed again.

    export RUNPOD_API_KEY=…                # one that may change endpoints and volumes
    export RUNPOD_S3_ACCESS_KEY_ID=… RUNPOD_S3_SECRET_ACCESS_KEY=…     # for the volume; optional
    COMFY_REMOTE_LIVE=spend make live

It takes about ten minutes and some cents: one worker until it has made a picture, and a volume of
10 GB for as long. A process of its own removes both, also after Ctrl-C or a kill; it says so in
``removed.log`` in the folder that is printed. Nothing else in the account is touched.

- ``COMFY_REMOTE_LIVE_IMAGE`` names another image than the published one,
- ``COMFY_REMOTE_LIVE_GPU`` other GPUs, as ``--gpu`` takes them.
"""

from __future__ import annotations

import os
import uuid
import warnings
from pathlib import Path

import pytest
from live_kit import Commands, Round, removed_at_the_end
from pydantic import SecretStr

from comfy_remote.deploy.runpod.gpus import gpus_by_name, gpus_of
from comfy_remote.deploy.runpod.image import image_facts
from comfy_remote.deploy.runpod.listed import S3_CENTERS
from comfy_remote.deploy.runpod.mark import Mark
from comfy_remote.deploy.runpod.there import There, look, mark_of
from comfy_remote.deploy.runpod.wanted import IMAGE
from comfy_remote.targets.runpod.account import RunPodAccount
from comfy_remote.targets.runpod.volume import VOLUME_KEYS

pytestmark = [pytest.mark.live, pytest.mark.timeout(2400)]

KEY = os.environ.get("RUNPOD_API_KEY", "")
if not KEY or os.environ.get("COMFY_REMOTE_LIVE") != "spend":
    pytest.skip("skipped: no RUNPOD_API_KEY with COMFY_REMOTE_LIVE=spend", allow_module_level=True)

PREFIX = "comfy-remote-live-"
# Small ones, and enough of them that one is free.
GPUS = os.environ.get("COMFY_REMOTE_LIVE_GPU", "AMPERE_16,AMPERE_24,ADA_24")
NAMED_IMAGE = os.environ.get("COMFY_REMOTE_LIVE_IMAGE")


async def account() -> There:
    async with RunPodAccount(SecretStr(KEY), os.environ) as one:
        return await look(one)


def made_by_live_tests(there: There) -> list[str]:
    marks = [mark_of(one) for one in there.endpoints]
    marks += [Mark.of_volume(one.name) for one in there.volumes]
    return sorted({one.name for one in marks if one is not None and one.name.startswith(PREFIX)})


def free_center(there: There) -> str:
    """A data centre with volumes that have an S3 API, and with a GPU that is free."""
    choice = gpus_by_name([one.strip() for one in GPUS.split(",")], there.gpus)
    types = gpus_of(choice.pools, choice.excluded, there.gpus)
    levels = {
        center.id: center.availability
        for gpu in types
        for center in gpu.centers or []
        if center.availability != "NONE" and center.id in S3_CENTERS
    }
    having = {one.id for one in there.centers if one.volume_types}
    good = sorted(levels.keys() & having, key=lambda one: (levels[one] != "HIGH", one))
    if not good:
        pytest.fail(f"No data centre with S3 volumes has {choice.title} free now: try later.")
    return good[0]


async def test_one_round_and_nothing_is_left(tmp_path: Path) -> None:
    image = NAMED_IMAGE or IMAGE
    facts = await image_facts(image)
    if facts.state == "not public":  # before anything costs money: its job would wait for ever
        pytest.fail(f"{image} is not public. Name one that is: COMFY_REMOTE_LIVE_IMAGE.")
    before = await account()
    if left := made_by_live_tests(before):
        removal = "comfy-remote deploy runpod --remove --with-volume --name"
        warnings.warn(
            f"Earlier live tests have left {', '.join(left)}. If none runs now, remove them: "
            f"{removal} {left[0]}",
            stacklevel=1,
        )
    name = f"{PREFIX}{uuid.uuid4().hex[:8]}"
    with_volume = all(os.environ.get(one) for one in VOLUME_KEYS)
    if not with_volume:
        warnings.warn(f"No volume is tried: {' and '.join(VOLUME_KEYS)} are not set.", stacklevel=1)
    print(f"\nin {tmp_path}, as {name}", flush=True)
    commands = Commands(tmp_path)
    with removed_at_the_end(commands, name):
        center = free_center(before) if with_volume else None
        # Storage that a test names is no volume of the worker's.
        same_disk = "RUNPOD_S3_ENDPOINT" not in os.environ
        Round(commands, name, GPUS, NAMED_IMAGE, center, same_disk=same_disk).all()
    after = await account()
    assert name not in made_by_live_tests(after)
    ids = {one.id for one in before.endpoints}, {one.id for one in before.volumes}
    lost = ids[0] - {one.id for one in after.endpoints}, ids[1] - {one.id for one in after.volumes}
    assert lost == (set(), set()), "gone meanwhile; was it you?"
