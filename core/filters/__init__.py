"""Start values of convolution filters: random rules, structured ones, analytic banks and banks learned from images.

Specification: methods/filter-design.md, sections 3.1-3.4. This file lists the names and imports no torch; the door is
``attn.core.filters.initialise.initialise``, the mathematics is in ``rules``, ``structured``, ``residual``, ``lsuv``,
``analytic``, ``banks``, ``patches`` and ``learned``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

INITIALISERS: Mapping[str, str] = MappingProxyType(
    {
        "torch-default": "what the module has when it is made; changes nothing",
        "zeros": "all weights 0; only for a single last layer",
        "normal": "normal, standard deviation 0.02",
        "trunc-normal": "normal of nominal standard deviation 0.02, cut at two of them",
        "uniform": "uniform, standard deviation 0.02",
        "lecun": "normal, variance 1 / fan_in",
        "lecun-uniform": "uniform, variance 1 / fan_in",
        "xavier": "normal, variance 2 / (fan_in + fan_out) (Glorot)",
        "xavier-uniform": "uniform, variance 2 / (fan_in + fan_out) (Glorot)",
        "he": "normal, variance 2 / fan_in (Kaiming): keeps the variance forward through ReLU",
        "he-uniform": "uniform, variance 2 / fan_in (Kaiming)",
        "he-fan-out": "normal, variance 2 / fan_out: keeps the variance of gradients",
        "he-uniform-fan-out": "uniform, variance 2 / fan_out",
        "sparse": "15 non-zero weights per filter, variance 2 in all",
        "orthogonal": "orthonormal filters (columns, where filters outnumber their inputs)",
        "delta-orthogonal": "orthogonal at the kernel's centre, zero around it; orthogonal where channels shrink",
        "dirac": "identity: each filter passes one channel on",
        "icnr": "he, repeated before pixel shuffles so that they start without checkerboard",
        "fixup": "he, the last layer of every residual branch 0, its others scaled down by depth",
        "zero-gamma": "he, the last layer of every residual branch 0",
        "lsuv": "orthogonal, scaled to unit variance on a batch of images",
        "dct": "first layer: discrete cosine bank; deeper ones he",
        "gabor": "first layer: Gabor bank, two wavelengths, four directions, two phases; deeper ones he",
        "sobel": "first layer: Sobel and Scharr edge pairs; deeper ones he",
        "laplacian": "first layer: Laplacian; deeper ones he",
        "log": "first layer: Laplacians of Gaussians; deeper ones he",
        "gaussian": "first layer: Gaussian derivatives up to order 2; deeper ones he",
        "haar": "first layer: Haar basis (kernels of 2, 4, 8, ...); deeper ones he",
        "hadamard": "first layer: Walsh-Hadamard basis (kernels of 2, 4, 8, ...); deeper ones he",
        "schmid": "first layer: Schmid's rings; deeper ones he",
        "leung-malik": "first layer: edges, bars and blobs as in the Leung-Malik bank; deeper ones he",
        "fourier": "first layer: random plane waves; deeper ones he",
        "pca": "first layer: principal components of image patches; deeper ones he",
        "zca-kmeans": "first layer: spherical k-means of whitened image patches; deeper ones he",
        "sanger": "first layer: Sanger's rule (online PCA) on image patches; deeper ones he",
    }
)
"""Name -> one line, in the order in which they should be listed."""

NEEDS_IMAGES = frozenset({"lsuv", "pca", "zca-kmeans", "sanger"})
"""Names that ``initialise`` accepts only with ``images``."""
