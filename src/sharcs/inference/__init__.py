"""A trained model in use."""

from sharcs.inference.engine import InferenceEngine
from sharcs.inference.folder import open_model
from sharcs.inference.monitor import DriftMonitor
from sharcs.inference.predict import predict_table

__all__ = ["DriftMonitor", "InferenceEngine", "open_model", "predict_table"]
