"""A network for another runtime."""

from sharcs.export.bundle import export_model

__all__ = ["export_model"]
