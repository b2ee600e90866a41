"""The sandbox: our own small engine, as a target."""
