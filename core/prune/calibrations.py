"""What methods learn beforehand: the rows of ``attn prune calibrate``. A row resolves to a ``Verb``."""

from ..registry import Registry

CALIBRATIONS = Registry("prune calibrate", [])
"""What every row reads is stated in ``calibration.CalibrationOptions``, for its options to take in whole."""
