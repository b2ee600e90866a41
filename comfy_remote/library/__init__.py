"""What Python programs use: `run`, `Client`, `SyncClient`. All of it is exported by `comfy_remote`.

```
client     Client: jobs.client's, with many runs at once, calls, and what can be asked before a run
sync       SyncClient: the same methods without await
run        run: one workflow in one call
notebook   progress in a notebook
```
"""
