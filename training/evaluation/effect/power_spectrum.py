"""The power of a perturbation over spatial frequencies.

B batch, S side, R = S // 2 frequencies.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def radial_power_spectrum(perturbations: NDArray[np.integer] | NDArray[np.floating]) -> NDArray[np.float64]:
    """Returns the radially averaged power spectrum of square perturbations.

    Power is |F|^2 / S^2 of the two-dimensional discrete Fourier transform of each channel, so that white noise of
    variance v has the power v at every frequency; a ring of frequencies between k - 1/2 and k + 1/2 and the three
    channels are averaged. The mean of a perturbation (k = 0) and the corners beyond the Nyquist frequency are left out.

    Args:
        perturbations: (B, S, S, 3) in 8-bit levels.

    Returns:
        (B, R) mean power in squared levels at 1..R cycles a side.

    Raises:
        ValueError: if they are not square.
    """
    if perturbations.ndim != 4 or perturbations.shape[1] != perturbations.shape[2]:
        raise ValueError(f"a radial spectrum needs (B, S, S, 3) squares, got an array of shape {perturbations.shape}")
    side = perturbations.shape[1]
    power = np.abs(np.fft.fft2(perturbations.astype(np.float64), axes=(1, 2))) ** 2 / side**2  # (B, S, S, 3)
    rings = _rings(side)  # (S, S)
    return np.stack([power[:, rings == ring].mean(axis=(1, 2)) for ring in range(1, side // 2 + 1)], axis=1)


def _rings(side: int) -> NDArray[np.int64]:
    """Returns the (S, S) rounded distance of each frequency from zero, in cycles a side."""
    cycles = np.fft.fftfreq(side, 1 / side)
    return np.asarray(np.rint(np.hypot(*np.meshgrid(cycles, cycles))), np.int64)
