"""The routed network."""
