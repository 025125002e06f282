"""Exported networks on ONNX Runtime, with NumPy and tokenizers and without torch.

What the engine of :mod:`sharcs` has in common with it lives here too: this package imports nothing of ``sharcs``.
"""

import os

# Official builds of ONNX Runtime report to Microsoft unless this is set before the import; nothing is sent here.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from sharcs_runtime.answers import Answer, Answers, Prediction
from sharcs_runtime.drift import DisagreementCounter
from sharcs_runtime.errors import InputError
from sharcs_runtime.onnx import OnnxRunner
from sharcs_runtime.policy import RoutingPolicy

__all__ = ["Answer", "Answers", "DisagreementCounter", "InputError", "OnnxRunner", "Prediction", "RoutingPolicy"]
