"""What network code shares: HTTP clients, the guard for others' addresses, retries, buckets."""
