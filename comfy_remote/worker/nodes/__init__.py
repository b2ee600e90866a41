"""Node packs on a worker: brought by jobs, tried, and used by its engine.

`sets.NodeSets` is the way in. `install_custom_nodes` is the script that images run, and has the
reading of its list.
"""
