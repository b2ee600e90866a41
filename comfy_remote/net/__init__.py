"""Addresses, the guard for those that somebody else names, and what all network code shares."""
