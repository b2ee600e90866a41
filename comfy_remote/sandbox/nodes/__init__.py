"""The sandbox's nodes, one module a subject."""
