"""What client and worker say to each other: pydantic models, one module a dialect."""
