#!/usr/bin/env python3
"""A random policy folder of LeRobot 0.4.4 and what LeRobot computes with it.

    python tests/golden/lerobot/random_folder.py OUT_DIR SEED

Writes OUT_DIR/policy (as LeRobot's save_pretrained does, with model.safetensors), OUT_DIR/obs.safetensors,
OUT_DIR/noise.safetensors (noise, and step_noise for DDPM) and OUT_DIR/expected.safetensors (the stages as in
make.py, `action`, `action_normalized`, and `action_range` [D] for errors relative to it; metadata `golden` has `floor`).
The seed decides everything: features and their order, widths, cameras, backbone, norms, modes, schedule.
Half of the seeds keep torch's initial weights, half take weights that use every bias and norm.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

torch.set_num_threads(1)
sys.path.insert(0, str(Path(__file__).resolve().parent))
from reference import ENV, STATE, Reference, write_golden  # noqa: E402

NAMES = ["top", "wrist", "front", "left_arm", "cam_0", "z"]
MODES = ["MIN_MAX", "MEAN_STD", "QUANTILES", "QUANTILE10"]


def random_case(rng):
    """A valid configuration, from everything that DiffusionConfig lets one choose."""
    pick = lambda *values: values[rng.integers(len(values))]
    chance = lambda p: rng.random() < p
    cameras = int(pick(0, 1, 1, 2, 2, 3))
    case = {
        "n_obs_steps": int(pick(1, 2, 2, 3, 4)),
        "action": int(rng.integers(1, 15)),
        "kernel_size": int(pick(3, 5, 5, 7)),
        "n_groups": int(pick(1, 2, 4, 8, 8)),
        "diffusion_step_embed_dim": int(pick(4, 8, 16, 32, 128)),
        "use_film_scale_modulation": chance(0.7),
        "prediction_type": pick("epsilon", "sample"),
        "noise_scheduler_type": pick("DDPM", "DDIM"),
        "num_train_timesteps": int(pick(100, 100, 50, 37, 1000)),
        "beta_schedule": pick("squaredcos_cap_v2", "squaredcos_cap_v2", "linear", "scaled_linear"),
        "beta_end": float(pick(0.02, 0.05)),
        "clip_sample_range": float(pick(1.0, 1.0, 1.5)),
    }
    # Without clipping, a squared-cosine schedule multiplies the first prediction by thousands.
    case["clip_sample"] = case["beta_schedule"].startswith("squared") or chance(0.7)
    train = case["num_train_timesteps"]
    if train > 100 or chance(0.6):
        case["num_inference_steps"] = int(rng.integers(1, min(train, 30) + 1))
    levels = int(pick(1, 2, 2, 3, 3, 4))
    unit = case["n_groups"]
    first = 8 * int(rng.integers(1, 7))  # the last block always has 8 groups
    case["down_dims"] = [first] + [unit * int(rng.integers(max(1, 8 // unit), 64 // unit + 1))
                                   for _ in range(levels - 1)]
    factor = 2**levels
    case["horizon"] = factor * int(rng.integers(-(-8 // factor), 32 // factor + 1))
    room = case["horizon"] - case["n_obs_steps"] + 1
    case["n_action_steps"] = int(rng.integers(1, room + 1))

    inputs = [(STATE, [int(rng.integers(1, 15))])]
    if cameras == 0 or chance(0.3):
        inputs.append((ENV, [int(rng.integers(1, 20))]))
    picture = [3, int(rng.integers(20, 121)), int(rng.integers(20, 121))]
    single = cameras == 1 and chance(0.5)
    names = rng.permutation(NAMES)[:cameras]
    inputs += [("observation.image" if single else f"observation.images.{name}", picture) for name in names]
    case["inputs"] = dict(inputs[i] for i in rng.permutation(len(inputs)))
    if cameras:
        case["vision_backbone"] = pick("resnet18", "resnet18", "resnet18", "resnet34", "resnet50")
        case["use_group_norm"] = chance(0.5)
        case["use_separate_rgb_encoder_per_camera"] = chance(0.4)
        case["spatial_softmax_num_keypoints"] = int(pick(32, 32, 16, 7))
        shape = lambda low, high: (int(rng.integers(low[0], high[0] + 1)), int(rng.integers(low[1], high[1] + 1)))
        how = pick("as it is", "crop", "resize", "resize and crop")
        if how == "crop":
            case["crop_shape"] = shape((18, 18), picture[1:])
        if how.startswith("resize"):
            case["resize_shape"] = shape((24, 24), (110, 110))
        if how == "resize and crop":
            case["crop_ratio"] = float(round(rng.uniform(0.6, 0.99), 2))
    if chance(0.5):
        case["norm"] = {kind: pick(*MODES, *extra) for kind, extra in
                        [("VISUAL", ["IDENTITY"]), ("STATE", []), ("ACTION", []), ("ENV", ["IDENTITY"])]}
    case["compile_model"] = chance(0.1)
    return case


def make(out, seed):
    """Writes the folder and its files; returns the configuration and the floor."""
    rng = np.random.default_rng([seed, 4])
    case = random_case(rng)
    reference = Reference(case, seed, salt=f"{seed}." if rng.random() < 0.5 else None)
    tensors, floor = reference.golden()
    out.mkdir(parents=True, exist_ok=True)
    reference.save(out / "policy", formula_weights=False)
    take = lambda keys: {k: tensors.pop(k) for k in keys if k in tensors}
    save_file(take(case["inputs"]), out / "obs.safetensors")
    save_file(take(["noise", "step_noise"]), out / "noise.safetensors")
    tensors["action_range"] = reference.action_range()
    write_golden(out / "expected.safetensors", tensors, floor=floor, case=case)
    return case, floor


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: random_folder.py OUT_DIR SEED")
    case, floor = make(Path(sys.argv[1]), int(sys.argv[2]))
    print(case)
    print({k: f"{v:.1e}" for k, v in floor.items()})
