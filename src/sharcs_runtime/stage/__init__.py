"""One stage of a pipeline that others run on many machines: rows in, the same rows with answers out."""

from sharcs_runtime.stage.classify import Classify

__all__ = ["Classify"]
