"""The command ``sharcs``."""
