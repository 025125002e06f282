"""One comparison of every method that a user could run, on one reference, one counter and frozen settings."""
