"""Settings, secrets and trust: what the owner of this machine has configured."""
