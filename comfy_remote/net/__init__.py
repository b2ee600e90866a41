"""What targets, worker, gateway and command share of the network: addresses and one guard."""
