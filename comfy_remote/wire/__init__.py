"""What client and worker say to each other: pydantic models, one module a dialect.

Keys that a model does not know are ignored: another version may send more.
"""
