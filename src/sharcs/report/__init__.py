"""A page that a manager can read."""

from sharcs.report.content import build_report
from sharcs.report.page import write_report

__all__ = ["build_report", "write_report"]
