"""Servers that speak Comfy API v2: Comfy's cloud, its deployments, its proxy, and our own.

`kind` says what an address means, and `target.ComfyApiTarget` is what it opens. Below it:

- `links`, `server`, `refusals`: a server's addresses, requests to it, its errors as ours
- `assets`: input files; `submission`: sending a job once; `remote_jobs`: asking for it, cancelling
- `follow`: a job to its end, by asking (`answers`) and live events (`live`, `sse`)
- `status`, `outputs`, `result`: what is said of a job, as our events; `content`: outputs' bytes
"""
