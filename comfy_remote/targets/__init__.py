"""Where a prompt can run: a protocol, the kinds of target, and one module or folder for each."""
