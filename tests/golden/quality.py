"""Golden file of src/train/quality.rs: Frechet and kernel distance between sets of features.

    python tests/golden/quality.py tests/golden/quality.json

Written with numpy 1.26.4 and scipy 1.17.1 (scipy.linalg.sqrtm of the product of covariances, as
pytorch-fid has it). Features are rounded to five digits. Seed 0.
"""

import json
import sys

import numpy as np
import scipy.linalg

rng = np.random.default_rng(0)


def frechet(a, b):
    (ma, sa), (mb, sb) = [(x.mean(0), np.cov(x, rowvar=False)) for x in (a, b)]
    root = scipy.linalg.sqrtm(sa @ sb)
    return float(((ma - mb) ** 2).sum() + np.trace(sa) + np.trace(sb) - 2 * np.trace(root).real)


def kernel(a, b):
    k = lambda x, y: (x @ y.T / x.shape[1] + 1) ** 3
    within = lambda x: (k(x, x).sum() - np.trace(k(x, x))) / (len(x) * (len(x) - 1))
    return float(within(a) + within(b) - 2 * k(a, b).mean())


def mixed(n, d, scale, shift):
    """Correlated features, some of them rectified as a network's are."""
    x = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) * scale + shift
    x[:, ::2] = np.maximum(x[:, ::2], 0)
    return np.round(x, 5)


def main(path):
    sets = {
        "small": (mixed(30, 4, 0.5, 0), mixed(40, 4, 0.7, 0.3)),
        "wide": (mixed(60, 16, 0.2, 0.1), mixed(50, 16, 0.3, 0)),
        "far": (mixed(20, 3, 0.1, 5), mixed(20, 3, 2, -5)),
        "rank deficient": (mixed(8, 12, 0.4, 0), mixed(9, 12, 0.4, 0.5)),
    }
    cases = []
    for name, (a, b) in sets.items():
        case = {"name": name, "frechet": frechet(a, b), "kernel": kernel(a, b)}
        for key, x in [("a", a), ("b", b)]:
            case |= {key: x.flatten().tolist(), f"{key}_rows": len(x)}
        cases.append(case)
    with open(path, "w") as file:
        json.dump({"cases": cases}, file)
        file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
