"""Comfy API v2 in front of any target, for the official SDKs and whatever else speaks it."""
