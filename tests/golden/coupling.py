#!/usr/bin/env python3
"""Couplings by other people's packages: scipy's assignment, POT's exact plan and Sinkhorn, torchcfm.

    python tests/golden/coupling.py          (scipy, POT (`ot`), torchcfm 1.0.7, torch, numpy; seed 0)

Points are multiples of 1/64, so that JSON holds them exactly.
"""
import json
import os
from importlib.metadata import version

import numpy as np
import ot
import torch
from scipy.optimize import linear_sum_assignment
from torchcfm.optimal_transport import OTPlanSampler

rng = np.random.default_rng(0)
n, dims = 48, 3


def points():
    return np.round(rng.normal(size=(n, dims)) * 64) / 64


noise, data = points(), points() * 2 + 1
condition = np.round(rng.normal(size=(n, 1)) * 64) / 64
classes = (rng.permutation(n) % 3).astype(float)
cost = ((noise[:, None] - data[None]) ** 2).sum(-1)
extra = (condition[:, None] - condition[None])[..., 0] ** 2


def best(matrix):
    rows, columns = linear_sum_assignment(matrix)
    return columns.tolist(), float(matrix[rows, columns].sum())


exact, exact_cost = best(cost)
weighted, weighted_cost = best(cost + 3.5 * extra)
by_class, by_class_cost = best(cost + 1e6 * (classes[:, None] != classes[None]))
uniform = np.full(n, 1 / n)
emd2 = float(ot.emd2(uniform, uniform, cost))
reg = 2 * 1.0**2
plan = ot.sinkhorn(uniform, uniform, cost, reg, method="sinkhorn_log", numItermax=100000, stopThr=1e-14)

# torchcfm draws pairs from the exact plan, a permutation over n: the pairs that can come are `exact`.
torch.manual_seed(0)
plan_torchcfm = OTPlanSampler(method="exact").get_map(torch.tensor(noise), torch.tensor(data))

random = rng.integers(-50, 50, size=(40, 40)).astype(float)
integer_cost = best(random)[1]

out = {
    "packages": {name: version(name) for name in ["scipy", "pot", "torchcfm", "torch", "numpy"]},
    "n": n,
    "dims": dims,
    "noise": noise.ravel().tolist(),
    "data": data.ravel().tolist(),
    "condition": condition.ravel().tolist(),
    "classes": classes.tolist(),
    "exact": exact,
    "exact_cost": exact_cost,
    "emd2": emd2,
    "torchcfm_exact": plan_torchcfm.argmax(1).tolist(),
    "weight": 3.5,
    "weighted": weighted,
    "weighted_cost": weighted_cost,
    "by_class": by_class,
    "by_class_cost": by_class_cost,
    "reg": reg,
    "sinkhorn": plan.ravel().tolist(),
    "integers": random.ravel().tolist(),
    "integer_cost": integer_cost,
}
path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "coupling.json")
with open(path, "w") as file:
    json.dump(out, file)
print(os.path.getsize(path), "bytes; row error of the plan", abs(plan.sum(1) - 1 / n).max())
