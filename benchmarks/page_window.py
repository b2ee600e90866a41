"""A server with ComfyUI's page, and a browser, for the benchmarks of the page."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import ROOT, TINY, Skipped

sys.path[:0] = [str(ROOT / name) for name in ("tools", "tests", "tests/e2e", "tests/page")]

__all__ = ["server_and_browser"]


@contextmanager
def server_and_browser(folder: Path) -> Iterator[tuple[str, Any]]:
    """The URL of a server with the pack, a ComfyUI if one is named, and a Chromium.

    Args:
        folder: For the server's files.

    Raises:
        Skipped: There is no browser, or only a tiny run is wanted.
    """
    if TINY:
        raise Skipped("it takes a page's load")
    try:
        from comfy_page import BROWSERS
        from page_server import start_server
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise Skipped("no playwright") from None
    kind = "comfyui" if "COMFYUI_DIR" in os.environ else "sandbox"
    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    with start_server(kind, folder) as server, sync_playwright() as playwright:
        if browser_path is None and not Path(playwright.chromium.executable_path).is_file():
            raise Skipped("no Chromium")
        browser = playwright.chromium.launch(
            executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"]
        )
        yield server.url, browser
        browser.close()
