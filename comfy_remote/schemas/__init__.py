"""Where the schemas of node classes come from, if a target cannot be asked.

```
finding    in which order they are looked for, and what is said about it
memory     what a target said the last time it was asked
registry   what the Comfy Registry says about the classes of packs
store      documents on disk, dated and bounded
```
"""
