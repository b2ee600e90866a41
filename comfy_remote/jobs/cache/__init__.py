"""Results that need not be computed again: found by a key that covers all that decides about them.

```
asking   what a run's key is, or why it has none
store    the files by their SHA-256, and the limits of size and age
keeping  stores what a run gave, once it is certain what ran it
hit      a stored result as the job that it saves
results  all of it, for a client
```
"""
