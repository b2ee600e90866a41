"""A workflow as a service of its own, elsewhere. So far: `modal`."""
