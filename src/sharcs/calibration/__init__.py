"""A policy with a guarantee."""
