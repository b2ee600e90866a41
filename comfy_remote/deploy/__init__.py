"""A workflow as a service of its own, elsewhere. `modal` is the one place so far."""
