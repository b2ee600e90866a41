"""What it takes to run workflows, what a target has of it, and the difference.

```
lock       what is needed: the model of comfy-remote.lock, and its file
plan       what is needed compared with what is there
holding    a target held to a lock, and what to do about what differs

locking    from workflows to their lock, step by step:
needs        what they need by their own words
there        what a target has of it, or a ComfyUI here
making       both together: the lock
addresses    where its models can be had

local      a ComfyUI on this machine, found and read
snapshots  what ComfyUI-Manager and Comfy Desktop have noted of one
hashing    the SHA-256 of its models
```
"""
