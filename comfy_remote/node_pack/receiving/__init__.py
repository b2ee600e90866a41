"""Models and node packs that are brought to this ComfyUI from elsewhere, if its owner allows it.

```
settings   what its owner allows, and the token
guard      who may ask: no page, no other Host, nothing unsigned, nothing endless
jobs       jobs that are under way, and the parts that they wait for
ahead      the next part of a model, while one is written
models     what a job about models does
nodes      what a job about node packs does; `worker.nodes.at_start` has ComfyUI import them
routes     /remote/receiving
```

Off by default. ComfyUI has no login, and its own routes answer to whoever reaches them; these
change what is on its disk, so they are stricter than any of its own.
"""
