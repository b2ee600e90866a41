"""Where ComfyUI's page comes from: the package on PyPI that ComfyUI itself installs."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ..errors import ConfigurationError

__all__ = ["find_frontend"]

_PACKAGE = "comfyui_frontend_package"


def find_frontend(where: Path | str = "installed") -> Path:
    """The folder with the page's ``index.html``.

    Args:
        where: ``"installed"`` for the package ``comfyui-frontend-package`` in this Python,
            else a folder: that of the page itself, or one in which the package lies.

    Raises:
        ConfigurationError: There is no page.
    """
    if where == "installed":
        spec = find_spec(_PACKAGE)
        places = [] if spec is None or spec.origin is None else [Path(spec.origin).parent]
    else:
        places = [Path(where), Path(where) / _PACKAGE]
    for place in places:
        for folder in (place, place / "static"):
            if (folder / "index.html").is_file():
                return folder.resolve()
    if where == "installed":
        raise ConfigurationError(
            "ComfyUI's page is not installed in this Python.",
            advice="Install it: pip install comfyui-frontend-package",
        )
    raise ConfigurationError(
        f"There is no index.html of ComfyUI's page in {where}.",
        advice='Name the folder "static" of an unpacked comfyui-frontend-package.',
    )
