"""Every sub-network on every input: accuracy against cost."""

from sharcs.evaluation.accuracy import accuracy_report
from sharcs.evaluation.answers import AllAnswers
from sharcs.evaluation.widths import run_all_widths

__all__ = ["AllAnswers", "accuracy_report", "run_all_widths"]
