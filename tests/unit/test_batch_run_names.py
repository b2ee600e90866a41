"""Names of a run's folder and files are short, stable, and allowed everywhere."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_remote.batch.run_names import check_pattern, flat_name, run_name
from comfy_remote.errors import ConfigurationError
from comfy_remote.types import JsonValue

VALUES = st.one_of(st.text(), st.integers(), st.floats(allow_nan=False), st.booleans(), st.none())


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"KSampler.seed": 7, "KSampler.cfg": 5.5}, "0007_seed=7_cfg=5.5"),
        ({}, "0007"),
        ({"4.seed": 1, "9.seed": 2}, "0007_4.seed=1_9.seed=2"),
        ({"x.shift": -1.5, "y.on": True}, "0007_shift=-1.5_on=true"),
        ({"Load.ckpt_name": "sdxl/base v1.safetensors"}, "0007_ckpt_name=base-v1"),
        ({"LoadImage.image": "portraits/anna.png"}, "0007_image=anna"),
        ({"prompt": "A cat: on/off, “sleeping”?"}, "0007_prompt=A-cat-on-off-sleeping"),
        ({"prompt": ""}, "0007_prompt="),
        ({"prompt": "../../etc\x00\u202e"}, "0007_prompt=etc"),
    ],
)
def test_a_folder_is_named_by_what_varies(values: dict[str, JsonValue], name: str) -> None:
    assert run_name(7, values) == name


@given(
    index=st.integers(0, 10**6),
    values=st.dictionaries(st.text(min_size=1, max_size=30), VALUES, max_size=12),
)
def test_a_folder_has_a_name_that_every_system_takes(
    index: int, values: dict[str, JsonValue]
) -> None:
    name = run_name(index, values)
    assert name == run_name(index, values)
    assert len(name) <= 80
    assert len(name.encode()) <= 180
    assert name.isprintable()
    assert not re.search(r'[<>:"|?*\\/\s]', name)
    assert name == name.rstrip(". ")
    # The number decides, so no two differ in case alone.
    assert name.casefold().startswith(f"{index:04}")
    assert re.match(rf"{index:04}(_|$)", name)


@pytest.mark.parametrize(
    ("pattern", "number", "name"),
    [
        ("{index}_{seed}{ext}", 0, "0003_5.png"),
        ("{index}_{seed}{ext}", 2, "0003_5_3.png"),
        ("{index}_{K.seed}", 0, "0003_5.png"),
        ("{seed}/{index}_{name}{ext}", 1, "5/0003_out_00001_.png"),
        ("../{index}", 0, "0003.png"),
        ("con/{index}{prompt}", 0, "_con/0003.png"),
    ],
)
def test_a_pattern_names_files(pattern: str, number: int, name: str) -> None:
    found = flat_name(pattern, 3, {"K.seed": 5}, "out_00001_.png", number)
    assert found == name
    assert not PurePosixPath(found).is_absolute()


def test_a_pattern_that_cannot_work_says_why() -> None:
    check_pattern("{index}_{seed}_{K.cfg}{ext}", ["K.seed", "K.cfg"])
    with pytest.raises(ConfigurationError, match=r"no \{index\}"):
        check_pattern("{seed}{ext}", ["K.seed"])
    with pytest.raises(ConfigurationError, match=r"\{sed\}.* Did you mean 'seed'"):
        check_pattern("{index}_{sed}", ["K.seed"])
