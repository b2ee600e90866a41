"""Places where a prompt can run, behind one small protocol."""
