"""Servers that speak Comfy API v2: Comfy's cloud, its deployments, its proxy, and our own."""
