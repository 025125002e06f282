"""Every sub-network on every input: accuracy against cost."""
