"""Cutting a prompt: the marked nodes run elsewhere, the others here. No network.

```
plan       the outcome: what runs where, and what crosses
marks      which nodes are marked, from a workflow in UI format
crossing   which values can travel, and how many bytes they have
sides      where each node runs: what is copied, and what is pulled along
parts      the nodes of a target as one or several jobs, none of which waits for itself
build      the prompts
cutting    all of it together
```
"""

from .cutting import cut
from .marks import images_in, marked_nodes, marks_in
from .plan import Crossing, Cut, Part, impossible

__all__ = [
    "Crossing",
    "Cut",
    "Part",
    "cut",
    "images_in",
    "impossible",
    "marked_nodes",
    "marks_in",
]
