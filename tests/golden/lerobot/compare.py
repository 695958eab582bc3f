#!/usr/bin/env python3
"""Random LeRobot folders through `pathline infer`, against LeRobot.

    python tests/golden/lerobot/compare.py BINARY N [FIRST_SEED]

Prints for each folder the largest error of `action` relative to the action range and of
`action_normalized`, beside LeRobot's own distance from f64 (`floor`), and the folder's description.
Ends with 1 if a folder fails: no answer, an error above 1e-4 of the range, or above 1e-5 normalised where
LeRobot itself is within 2e-6 of f64.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import random_folder  # noqa: E402
from safetensors.torch import load_file  # noqa: E402


def describe(case):
    cameras = [k.rsplit(".", 1)[-1] for k in case["inputs"] if "image" in k]
    picture = next((f"{s[1]}x{s[2]}" for k, s in case["inputs"].items() if "image" in k), "")
    parts = [case["noise_scheduler_type"], case["prediction_type"], case["beta_schedule"].split("_")[0],
             f"T{case['num_train_timesteps']}/{case.get('num_inference_steps', 'all')}",
             f"obs{case['n_obs_steps']} h{case['horizon']} a{case['n_action_steps']}", str(case["down_dims"]),
             f"k{case['kernel_size']} g{case['n_groups']}"]
    if cameras:
        parts += ["+".join(cameras), picture, case["vision_backbone"],
                  "group" if case["use_group_norm"] else "batch",
                  "separate" if case["use_separate_rgb_encoder_per_camera"] else "shared"]
        parts += [f"{k}={case[k]}" for k in ("crop_shape", "resize_shape", "crop_ratio") if k in case]
    if "norm" in case:
        parts.append("/".join(case["norm"].values()))
    return " ".join(parts)


def run(binary, folder):
    """Errors (relative to the range, normalised), or what went wrong."""
    out = folder / "out.safetensors"
    command = [binary, "infer", "--policy", folder / "policy", "--observation", folder / "obs.safetensors",
               "--noise", folder / "noise.safetensors", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return done.stderr.strip() or f"exit {done.returncode}"
    got, expected = load_file(out), load_file(folder / "expected.safetensors")
    try:
        if got["action"].shape != expected["action"].shape:
            return f"action: expected {list(expected['action'].shape)}, got {list(got['action'].shape)}"
        relative = ((got["action"] - expected["action"]).abs() / expected["action_range"]).max()
        normalized = (got["action_normalized"] - expected["action_normalized"]).abs().max()
    except (KeyError, RuntimeError) as error:
        return repr(error)
    return float(relative), float(normalized)


def main(binary, count, first):
    worst, failed = [0.0, 0.0], []
    print("seed   action/range  normalized   floor: range  normalized")
    for seed in range(first, first + count):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            case, floor = random_folder.make(folder, seed)
            result = run(binary, folder)
        if isinstance(result, str):
            failed.append(seed)
            print(f"{seed:4}   FAILED {result}\n       {describe(case)}", flush=True)
            continue
        relative, normalized = result
        bad = not (relative <= 1e-4 and (normalized <= 1e-5 or floor["action_normalized"] > 2e-6))
        if bad:
            failed.append(seed)
        worst = [max(worst[0], relative), max(worst[1], normalized)]
        print(f"{seed:4}   {relative:12.1e}  {normalized:10.1e}   {floor['action/range']:12.1e}"
              f"  {floor['action_normalized']:10.1e}   {'BAD ' if bad else ''}{describe(case)}", flush=True)
    print(f"{count} folders: largest error {worst[0]:.1e} of the action range, {worst[1]:.1e} normalised;"
          f" {len(failed)} failed {failed or ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: compare.py BINARY N [FIRST_SEED]")
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) == 4 else 0))
