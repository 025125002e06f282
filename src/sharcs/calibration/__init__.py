"""A policy with a guarantee."""

from sharcs.calibration.calibrate import calibrate
from sharcs.calibration.choice import Constraint

__all__ = ["Constraint", "calibrate"]
