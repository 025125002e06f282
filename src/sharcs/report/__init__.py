"""A page that a manager can read."""
