"""ComfyUI's page as somebody in front of it uses it: the same steps in every version."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Error, Locator, Page, expect

START_MS = 60_000
WITH_ERRORS_TAB = (1, 40)
"""Newer pages show errors at the side, and have words of their own for many."""
# A busy machine is slow, not wrong.
expect.set_options(timeout=60_000)
ACTION_MS = 90_000
"""How long a click waits for what is clicked."""
ARTEFACTS = Path(__file__).resolve().parents[2] / "test-artefacts" / "page"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@dataclass
class ComfyPage:
    """A browser window.

    Attributes:
        url: The server's.
        artefacts: Where pictures are kept.
        name: What they are called.
        complaints: Errors in our scripts that nothing caught.
    """

    window: Page
    url: str
    artefacts: Path
    name: str
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.window.on("pageerror", self._note)

    def _note(self, error: Error) -> None:
        # Older pages have errors of their own.
        if "/extensions/" in (error.stack or ""):
            self.complaints.append(error.stack or error.message)

    def open(self) -> None:
        """Go there, and wait until the page is in working order."""
        self.window.goto(self.url)
        self.wait_until_started()

    def end(self) -> None:
        """Take a last picture, and note no more errors."""
        self.picture("end")
        self.window.remove_listener("pageerror", self._note)

    def reload(self) -> None:
        """As the browser's button does."""
        self.window.reload()
        self.wait_until_started()

    def wait_until_started(self) -> None:
        """The page has loaded its extensions and its first workflow."""
        self.switch.wait_for(timeout=START_MS)
        self.window.wait_for_function(
            "() => window.app?.vueAppReady && window.app.graph && window.app.api.clientId",
            timeout=START_MS,
        )
        self.wait_until_listed()
        self.dismiss_dialog()

    @property
    def version(self) -> tuple[int, ...]:
        """Of ComfyUI's frontend."""
        version = str(self.window.evaluate("() => window.__COMFYUI_FRONTEND_VERSION__"))
        return tuple(int(part) for part in version.split(".")[:2])

    def dismiss_dialog(self) -> None:
        """Older pages put one over everything when a workflow lacks nodes."""
        if self.version >= WITH_ERRORS_TAB:
            return
        dialog = self.window.locator(".p-dialog-mask")
        self.window.wait_for_timeout(1000)
        if dialog.count():
            self.window.keyboard.press("Escape")
            dialog.first.wait_for(state="detached")

    # -- Remote -----------------------------------------------------------------------------

    @property
    def switch(self) -> Locator:
        """The switch in the top bar."""
        return self.window.locator(".comfy-remote-toggle")

    @property
    def panel(self) -> Locator:
        """The panel in the sidebar."""
        return self.window.locator(".comfy-remote-panel").first

    @property
    def toasts(self) -> Locator:
        """What the page tells in its corner, in old and new pages."""
        return self.window.locator(
            ".p-toast-message, [data-sonner-toast], [data-toast], [role=alert]"
        )

    def switch_on(self, label: str = "Remote: there") -> None:
        """Click the switch, and wait until it is on and the lists have the target's models."""
        self.switch.click()
        expect(self.switch).to_contain_text(label)
        self.wait_until_listed()

    def wait_until_listed(self) -> None:
        """The page's lists have, or have not, what the target has."""
        expect(self.switch).to_have_attribute("aria-busy", "false", timeout=90_000)

    def open_panel(self) -> None:
        """By the arrow beside the switch."""
        self.window.locator(".comfy-remote-more").click()
        expect(self.panel).to_be_visible()

    def open_history(self) -> Locator:
        """The page's own list of jobs; the pictures in it."""
        new, old = "[data-testid=queue-overlay-toggle]", ".queue-tab-button"
        self.window.locator(f"{new}, {old}").first.click()
        return self.window.locator("img[src*='/view?'][src*='filename=']")

    # -- The graph --------------------------------------------------------------------------

    def load(self, path: Path, values: dict[int, list[object]] | None = None) -> None:
        """Open a workflow, with other values in some nodes' widgets."""
        document = json.loads(path.read_text())
        for node in document["nodes"]:
            node["widgets_values"] = (values or {}).get(node["id"], node["widgets_values"])
        self.window.evaluate("(document) => window.app.loadGraphData(document)", document)
        self.dismiss_dialog()

    def run(self, batch: int = 1) -> None:
        """Set the batch count, and press Run."""
        self.set_count(batch)
        self.window.locator("[data-testid=queue-button]").first.click()

    def set_count(self, batch: int) -> None:
        """Type how often Run runs."""
        count = self.window.locator(".batch-count input").first
        # As a person does: older pages take no value that was not typed.
        count.click()
        count.press("Control+A")
        count.press_sequentially(str(batch))
        count.press("Tab")

    def node(self, node_id: int, expression: str) -> object:
        """A JavaScript expression over ``node``."""
        return self.window.evaluate(
            f"(id) => {{ const node = window.app.graph.getNodeById(id); return {expression} }}",
            node_id,
        )

    def wait_for_node(self, node_id: int, condition: str, seconds: float = 90) -> None:
        """Until a JavaScript condition over ``node`` holds."""
        self.window.wait_for_function(
            f"(id) => {{ const node = window.app.graph.getNodeById(id); return {condition} }}",
            arg=node_id,
            timeout=seconds * 1000,
        )

    # -- The server -------------------------------------------------------------------------

    def history(self) -> list[dict[str, Any]]:
        """All that has run, as the page's own history reads it."""
        with urllib.request.urlopen(f"{self.url}/history", timeout=60) as answer:
            return list(json.load(answer).values())

    def wait_for_history(self, count: int, seconds: float = 120) -> list[dict[str, Any]]:
        """Until so many prompts have ended."""
        for _ in range(int(seconds * 5)):
            if len(history := self.history()) >= count:
                return history
            self.window.wait_for_timeout(200)
        raise AssertionError(f"{len(self.history())} of {count} prompts have ended")

    def picture(self, step: str) -> None:
        """Keep a screenshot."""
        self.artefacts.mkdir(parents=True, exist_ok=True)
        self.window.screenshot(path=self.artefacts / f"{self.name}-{step}.png")


OpenPage = Callable[[str], ComfyPage]
"""Opens a browser window on the page of the server at this URL."""
