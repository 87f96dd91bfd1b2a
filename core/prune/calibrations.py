"""What methods learn beforehand: the rows of ``attn prune calibrate``. A row resolves to a ``Verb``."""

from ..registry import Method, Registry

CALIBRATIONS = Registry(
    "prune calibrate",
    [
        Method(
            "debias",
            home="attn.core.prune.debias.options:CALIBRATION",
            summary="the trend of attention over positions, for +debias",
            paper="arXiv 2508.17807",
            year=2026,
        ),
    ],
)
"""What every row reads is stated in ``calibration.CalibrationOptions``, for its options to take in whole."""
