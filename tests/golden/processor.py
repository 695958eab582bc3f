#!/usr/bin/env python3
"""Golden values of LeRobot's normaliser steps for tests/processor.rs: processor.json.

    pip install lerobot==0.4.4
    python tests/golden/processor.py

Every case is one feature of shape [dim] in rows, its statistics (of shape [dim], or [horizon, dim]
for an action chunk), and what NormalizerProcessorStep makes of it; back is what
UnnormalizerProcessorStep makes of `input` taken as normalised. All numbers are f32. Seed: 5.
"""

import json
from importlib.metadata import version
from pathlib import Path

import torch
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.processor import NormalizerProcessorStep, UnnormalizerProcessorStep
from lerobot.processor.core import TransitionKey

HERE = Path(__file__).parent


def transform(step, key, kind, x):
    """Through the step's __call__, as LeRobot's pipeline does it."""
    if kind is FeatureType.ACTION:
        return step({TransitionKey.ACTION: x})[TransitionKey.ACTION]
    return step({TransitionKey.OBSERVATION: {key: x}})[TransitionKey.OBSERVATION][key]


def case(name, key, kind, mode, stats, raw, normalized):
    dim = raw.shape[-1]
    common = {
        "features": {key: PolicyFeature(type=kind, shape=(dim,))},
        "norm_map": {kind: mode},
        "stats": {key: {k: v.numpy() for k, v in stats.items()}},
    }
    forward = transform(NormalizerProcessorStep(**common), key, kind, raw)
    back = transform(UnnormalizerProcessorStep(**common), key, kind, normalized)
    assert forward.dtype == back.dtype == torch.float32
    flat = lambda t: t.flatten().tolist()
    return {
        "name": name,
        "mode": mode.value,
        "dim": dim,
        "stats": {k: flat(v) for k, v in stats.items()},
        "raw": flat(raw),
        "normalized": flat(forward),
        "input": flat(normalized),
        "back": flat(back),
    }


def main():
    g = torch.Generator().manual_seed(5)
    normal = lambda *shape: torch.randn(*shape, generator=g)
    pixels = lambda *shape: 512 * torch.rand(*shape, generator=g)
    state, env, action = FeatureType.STATE, FeatureType.ENV, FeatureType.ACTION
    mean_std, min_max = NormalizationMode.MEAN_STD, NormalizationMode.MIN_MAX
    identity = NormalizationMode.IDENTITY
    chunk = normal(3, 16, 2) * 40
    cases = [
        case(
            "mean_std",
            "observation.state",
            state,
            mean_std,
            {"mean": pixels(2), "std": 1 + pixels(2) / 4},
            pixels(5, 2),
            normal(5, 2),
        ),
        case(
            "mean_std, one scale for each row of the chunk",
            "action",
            action,
            mean_std,
            {"mean": chunk.mean(0), "std": chunk.std(0) * torch.linspace(0.1, 4, 16)[:, None]},
            chunk,
            normal(3, 16, 2),
        ),
        case(
            "mean_std without spread",
            "observation.state",
            state,
            mean_std,
            {"mean": torch.tensor([300.0, -2.0]), "std": torch.tensor([0.0, 1e-9])},
            torch.tensor([[300.0, -2.0], [300.0, -2.0]]),
            normal(2, 2),
        ),
        case(
            "min_max",
            "observation.environment_state",
            env,
            min_max,
            {"min": pixels(16) / 8, "max": 300 + pixels(16)},
            pixels(4, 16),
            normal(4, 16),
        ),
        case(
            "min_max, constant and far from zero",
            "observation.environment_state",
            env,
            min_max,
            {"min": torch.tensor([300.0, 1e6]), "max": torch.tensor([300.0, 1e6 + 0.5])},
            torch.tensor([[300.0, 1e6], [300.0, 1e6 + 0.25]]),
            normal(2, 2),
        ),
        case(
            "identity",
            "action",
            action,
            identity,
            {"mean": pixels(2), "std": pixels(2)},
            pixels(3, 2),
            normal(3, 2),
        ),
    ]
    versions = {"lerobot": version("lerobot"), "torch": version("torch"), "seed": 5}
    text = json.dumps({"made_with": versions, "cases": cases}, indent=None, separators=(",", ":"))
    (HERE / "processor.json").write_text(text.replace('{"name"', '\n{"name"') + "\n")


if __name__ == "__main__":
    main()
