#!/usr/bin/env python3
"""A folder that `pathline train` wrote, in LeRobot: it loads there and gives the same actions.

    pip install lerobot==0.4.4
    python benches/peers/lerobot_load_back.py FOLDER BINARY [--observations 10] [--seed 0]

FOLDER is a pretrained_model of type diffusion, or a run with checkpoints/last/pretrained_model. Loads it by
DiffusionPolicy.from_pretrained (strict: no tensor missing, none unexpected) and
make_pre_post_processors(pretrained_path=FOLDER), as LeRobot's own programs do; then, for made-up observations
between the statistics' min and max and fixed noise, runs both and prints the largest differences. Ends with 1
above 1e-4 of the action range.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests/golden/lerobot"))
import numpy as np  # noqa: E402
import torch  # noqa: E402
from reference import Reference, observations  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

torch.set_num_threads(1)


def limits(policy):
    """{key: {min, max}} from the preprocessor's statistics; mean ± 2 std where those are missing."""
    stats = next(step.stats for step in policy.pre.steps if hasattr(step, "norm_map"))
    out = {}
    for key, feature in policy.config.input_features.items():
        if feature.type.value == "VISUAL":
            continue
        s = stats.get(key, {})
        if "min" in s and "max" in s:
            low, high = s["min"], s["max"]
        elif "mean" in s and "std" in s:
            low, high = np.subtract(s["mean"], 2 * np.array(s["std"])), np.add(s["mean"], 2 * np.array(s["std"]))
        else:
            low, high = -np.ones(feature.shape), np.ones(feature.shape)
        out[key] = {"min": np.array(low), "max": np.array(high)}
    return out


def main(options):
    folder = Path(options.folder)
    if not (folder / "config.json").exists():
        folder = folder / "checkpoints/last/pretrained_model"
    policy = Reference.load(folder)
    rng = np.random.default_rng(options.seed)
    ranges, between = policy.action_range(), limits(policy)
    worst = {"robot units": 0.0, "of the action range": 0.0, "normalised": 0.0}
    with tempfile.TemporaryDirectory() as work:
        obs, noises, out = (Path(work) / f"{name}.safetensors" for name in ("obs", "noise", "out"))
        for i in range(options.observations):
            raw = observations(policy.config, between, rng, policy.config.n_obs_steps)
            noise, step_noise = policy.draw(rng)
            save_file(raw, obs)
            save_file({"noise": noise} | ({} if step_noise is None else {"step_noise": step_noise}), noises)
            subprocess.run([options.binary, "infer", "--policy", folder, "--observation", obs,
                            "--noise", noises, "--out", out], check=True, stdout=subprocess.DEVNULL)
            ours, theirs = load_file(out), policy.chunk(raw, noise, step_noise)
            if ours["action"].shape != theirs["action"].shape:
                sys.exit(f"action: LeRobot {list(theirs['action'].shape)}, Pathline {list(ours['action'].shape)}")
            apart = (ours["action"] - theirs["action"]).abs()
            normalized = (ours["action_normalized"] - theirs["action_normalized"]).abs()
            if not (torch.isfinite(apart).all() and torch.isfinite(normalized).all()):
                sys.exit(f"observation {i}: an action is not finite")
            for key, value in zip(worst, (apart.max(), (apart / ranges).max(), normalized.max())):
                worst[key] = max(worst[key], float(value))
    c = policy.config
    print(f"{folder}: {sum(p.numel() for p in policy.policy.parameters()):,} parameters, {c.noise_scheduler_type}"
          f" {policy.policy.diffusion.num_inference_steps} steps, loaded strictly by LeRobot;"
          f" {options.observations} observations, actions {list(theirs['action'].shape)} between"
          f" {float(theirs['action'].min()):.3g} and {float(theirs['action'].max()):.3g}")
    print("largest difference: " + ", ".join(f"{value:.1e} {key}" for key, value in worst.items()))
    return worst["of the action range"] > 1e-4


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("binary", help="path of pathline")
    parser.add_argument("--observations", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    sys.exit(main(parser.parse_args()))
