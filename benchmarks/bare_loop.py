"""The barest command that runs a prompt: ``bare_loop.py URL WORKFLOW FOLDER``, standard library.

No conversion, no record, no progress, no check of anything.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlencode


def main() -> None:
    url, workflow, folder = sys.argv[1:]
    body = json.dumps({"prompt": json.loads(Path(workflow).read_text())}).encode()
    with urllib.request.urlopen(f"{url}/prompt", body) as answer:
        prompt_id = json.load(answer)["prompt_id"]
    while True:
        with urllib.request.urlopen(f"{url}/history/{prompt_id}") as answer:
            history = json.load(answer)
        if prompt_id in history:
            break
        time.sleep(0.005)
    for output in history[prompt_id]["outputs"].values():
        for image in output.get("images", ()):
            with urllib.request.urlopen(f"{url}/view?{urlencode(image)}") as answer:
                (Path(folder) / image["filename"]).write_bytes(answer.read())


if __name__ == "__main__":
    main()
