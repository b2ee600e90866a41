"""What it takes to run workflows, what a target has of it, and the difference.

```
lock       what is needed: the model of comfy-remote.lock, and its file
plan       what is needed compared with what is there
```
"""
