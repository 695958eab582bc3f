"""Numbers that follow from a name, so that golden files need hold outputs only. tests/support/formula.rs has
the same."""
import numpy as np
import torch


def fnv(data):
    h = 0xCBF29CE484222325
    for byte in data:
        h = (h ^ byte) * 0x100000001B3 % 2**64
    return h


def formula(name, shape, offset, scale):
    """f32 numbers `offset ± scale`, uniform: the i-th is SplitMix64's of the FNV-1a hash of `name`, plus i."""
    n = int(np.prod(shape, dtype=np.int64))
    with np.errstate(over="ignore"):
        z = np.uint64(fnv(name.encode())) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(
            0x9E3779B97F4A7C15
        )
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    u = (z >> np.uint64(40)).astype(np.float32) / np.float32(2**24)
    values = np.float32(offset) + np.float32(scale) * (np.float32(2) * u - np.float32(1))
    return torch.from_numpy(values.reshape(shape))
