"""What the owner of this machine has said: secrets, and what is trusted."""
