"""Jobs: one run of a prompt on a target, recorded before it is submitted."""
