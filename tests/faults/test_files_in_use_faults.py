"""Windows' sharing violations: a virus scanner, say, holds each new file for a moment.

Each change of each name is refused once, twice or three times, in this process, which is client,
gateway and worker.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from helpers import until
from lanes import (
    Lane,
    assert_picture,
    content,
    fetch,
    file,
    files_in,
    new_mark,
    picture,
    resume_newest,
)
from proxy import Cut, Drop
from sharing import sharing_violations

from comfy_remote.errors import LocalStorageError, TargetUnreachable

pytestmark = [pytest.mark.usefixtures("home")]
each = pytest.mark.parametrize("times", [1, 2, 3])


@each
async def test_a_run_ends_well(lane: Lane, out: Path, times: int) -> None:
    """With a worker in this process, too, on the lane that has a gateway."""
    with sharing_violations(times) as seen:
        saved = await fetch(lane.target(), picture(new_mark()), out)
        await until(lambda: len(files_in(out)) == 1)  # what is thrown away goes in a thread
    assert_picture(saved, out)
    assert "replace" in {change for change, _ in seen.refused}


@each
async def test_a_large_output_ends_well(gateway: Lane, out: Path, times: int) -> None:
    """One that the worker puts into the gateway's store, as a file."""
    size = 3_000_000
    with sharing_violations(times):
        [saved] = await fetch(gateway.target(), file(new_mark(), size), out)
    assert saved.path.read_bytes() == content(size)


@each
async def test_a_resume_goes_on_with_what_is_there(comfyui: Lane, out: Path, times: int) -> None:
    size = 3_000_000
    comfyui.proxy.plan("/view", Cut(2_000_000))
    comfyui.proxy.plan("/view", Drop(), times=None)
    with sharing_violations(times):
        with pytest.raises(TargetUnreachable):
            await fetch(comfyui.target(), file(new_mark(), size), out)
        comfyui.proxy.heal()
        await resume_newest(out, [content(size)])
    assert len(files_in(out)) == 1


async def test_what_has_arrived_stays_if_it_never_gets_its_name(comfyui: Lane, out: Path) -> None:
    mark, size = new_mark(), 3_000_000
    with (
        sharing_violations(
            math.inf, lambda change, path: change == "replace" and path.name.endswith(".part")
        ),
        pytest.raises(LocalStorageError, match="cannot access the file"),
    ):
        await fetch(comfyui.target(), file(mark, size), out)
    assert [name for name in files_in(out) if name.endswith(".part")]
    asked = comfyui.proxy.count("/view")
    await resume_newest(out, [content(size)])
    assert len(files_in(out)) == 1
    assert comfyui.proxy.count("/view") <= asked + 1


async def test_a_note_that_cannot_be_removed_is_no_error(comfyui: Lane, out: Path) -> None:
    with sharing_violations(math.inf, lambda change, path: path.name.endswith(".version")):
        saved = await fetch(comfyui.target(), picture(new_mark()), out)
    assert len(saved) == 1
    assert saved[0].path.stat().st_size == saved[0].size
