"""Value files as Remote Output writes them and Remote Input reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from comfy_remote.errors import ValueCannotTravel
from comfy_remote.media.remote_values import items_of_file, keep_value


@pytest.mark.parametrize(("highest", "exact"), [(1.0, False), (1.1, True)])
def test_a_picture_goes_exactly_where_8_bits_cannot_hold_it(
    tmp_path: Path, highest: float, exact: bool
) -> None:
    picture = np.linspace(0, highest, 8 * 8 * 3, dtype=np.float32).reshape(1, 8, 8, 3)
    kept = keep_value([picture, picture[:, :4]], "IMAGE", tmp_path, images="png")
    back = items_of_file(kept.path, "key", tensors="numpy")
    assert [np.array_equal(np.asarray(back[0]), picture)] == [exact]
    assert np.allclose(np.asarray(back[1]), picture[:, :4], atol=0.5 / 255)


@pytest.mark.parametrize("images", ["exact", "png"])
def test_an_object_is_refused(tmp_path: Path, images: str) -> None:
    with pytest.raises(ValueCannotTravel, match="object"):
        keep_value([object()], "IMAGE", tmp_path, images=images)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
