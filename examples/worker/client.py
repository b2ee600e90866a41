"""A client of a worker in ten lines, with nothing but Python.

    RUNPOD_API_KEY=… RUNPOD_ENDPOINT_ID=… python client.py flux.json "prompt=a red fox" seed=7

Pictures go to the current folder. What else a job may send: docs/worker.md.
"""

import base64
import json
import os
import sys
import time
from pathlib import Path
from urllib.request import Request, urlopen

base = os.environ.get("RUNPOD_ENDPOINT_BASE_URL", "https://api.runpod.ai/v2")
key = "Bearer " + os.environ["RUNPOD_API_KEY"]
headers = {"Authorization": key, "Content-Type": "application/json"}


def ask(path: str, body: object = None) -> dict:
    url, data = f"{base}/{os.environ['RUNPOD_ENDPOINT_ID']}/{path}", json.dumps(body).encode()
    return json.load(urlopen(Request(url, data if body else None, headers)))


job = {"workflow": json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), "format": "plain"}
answer = ask("run", {"input": {**job, **dict(word.split("=", 1) for word in sys.argv[2:])}})
while answer["status"] in ("IN_QUEUE", "IN_PROGRESS"):
    time.sleep(0.5)
    answer = ask(f"status/{answer['id']}")
if answer["status"] != "COMPLETED":
    sys.exit(f"{answer['status']}: {answer.get('error')}")
for name, picture in zip(answer["output"]["filenames"], answer["output"]["images"], strict=True):
    print(Path(name).name, Path(Path(name).name).write_bytes(base64.b64decode(picture)), "bytes")
