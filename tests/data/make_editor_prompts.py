"""What ComfyUI's own editor makes of workflows: how the expected prompts in this folder came about.

    python make_editor_prompts.py URL OUT.json WORKFLOW.json …

URL is a running ComfyUI; Playwright (from PyPI) and a Chromium must be there. CHROMIUM names the
browser, ``/usr/bin/chromium`` by default. OUT.json becomes ``{file name: prompt}``; a workflow
that the editor cannot queue has ``{"error": …}``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from playwright.sync_api import Error, sync_playwright

READY = """() => window.app?.graph && window.app.extensionManager
    && Object.keys(window.LiteGraph?.registered_node_types ?? {}).length > 200"""
CONVERT = """async (workflow) => {
    await window.app.loadGraphData(workflow, true, false, null);
    return JSON.stringify((await window.app.graphToPrompt()).output);
}"""


def main(url: str, out: str, *files: str) -> None:
    prompts = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = browser.new_page()
        page.goto(url)
        page.wait_for_function(READY, timeout=90_000)
        page.wait_for_timeout(3_000)  # extensions are still being set up
        for path in map(Path, files):
            try:
                workflow = json.loads(path.read_text(encoding="utf-8"))
                prompts[path.name] = json.loads(page.evaluate(CONVERT, workflow))
            except Error as error:
                prompts[path.name] = {"error": str(error)}
        browser.close()
    Path(out).write_text(json.dumps(prompts, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
