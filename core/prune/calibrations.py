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
        Method(
            "vflowopt",
            home="attn.core.prune.vflowopt.options:CALIBRATION",
            summary="settings of vflowopt for one model and budget, by Bayesian optimisation",
            paper="ICCV 2025, arXiv 2508.05211",
            year=2025,
        ),
        Method(
            "sgl",
            home="attn.core.prune.sgl.options:CALIBRATION",
            summary="from which decision on a guide's answer spares the large model",
            paper="CVPR 2025, arXiv 2412.03324",
            year=2025,
        ),
    ],
)
"""What every row reads is stated in ``calibration.CalibrationOptions``, for its options to take in whole."""
