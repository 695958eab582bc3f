#!/usr/bin/env python3
"""Golden folders of LeRobot's DiffusionPolicy: one folder a case beside this file.

    pip install lerobot==0.4.4        (Python 3.11; brings torch 2.10.0, torchvision 0.25.0, diffusers 0.35.2)
    python tests/golden/lerobot/make.py [CASE …]

Every folder is what LeRobot's own save_pretrained writes (config.json, processors with their state
files, model.safetensors), with random weights. Where a ResNet is in, weights.json and
literal.safetensors stand for model.safetensors (reference.py has the formula).
golden.safetensors holds
    observation.state, observation.environment_state  f32 [n_obs, D], oldest first
    observation.image, observation.images.NAME        u8 [n_obs, H, W, 3]
    noise f32 [horizon, D];  step_noise f32 [steps, horizon, D] for DDPM, row i for step i, the last unused
    stage.normalized.KEY    after the preprocessor (pictures only where small)
    stage.encoder.CAMERA    f32 [n_obs, F], cameras in the order of config.json
    stage.global_cond       f32 [C]
    stage.unet.K.x, .t, .out   the network at the first, the middle and the last step
    action_normalized f32 [horizon, D];  action f32 [n_action_steps, D] in robot units
and its metadata `golden` the versions and `floor`: LeRobot in f32 against itself in f64, largest difference.
rollout.safetensors (two cases): 100 observations, `noise` [chunks, horizon, D] in the order used, 100
actions of select_action + postprocessor; metadata `golden` has `resets`: before which observations reset() came.
Seeds: the case's number in CASES.
"""

import shutil
import sys
from pathlib import Path

import torch

torch.set_num_threads(1)
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from reference import ENV, STATE, Reference, observations, one, write_golden  # noqa: E402

IMAGE, TOP, WRIST = "observation.image", "observation.images.top", "observation.images.wrist"
KEYPOINTS = dict(inputs={STATE: [2], ENV: [16]}, action=2, down_dims=[8, 16], diffusion_step_embed_dim=8)
DDIM = dict(noise_scheduler_type="DDIM", num_inference_steps=10)


def keypoints(**changes):
    return KEYPOINTS | changes


def camera(inputs=None, **changes):
    return dict(inputs={IMAGE: [3, 40, 40], STATE: [2]} if inputs is None else inputs, action=2,
                down_dims=[8, 16], diffusion_step_embed_dim=8, **DDIM) | changes


CASES = {
    # Keypoints: real model.safetensors.
    "keypoints_ddpm": keypoints(),
    "keypoints_ddim_sample": keypoints(**DDIM, prediction_type="sample"),
    "keypoints_ddpm_sample_20_steps": keypoints(prediction_type="sample", num_inference_steps=20),
    "obs_1_shift": keypoints(n_obs_steps=1, use_film_scale_modulation=False),
    "obs_3_levels_4": keypoints(n_obs_steps=3, down_dims=[8, 8, 8, 16], n_groups=2, n_action_steps=5, **DDIM),
    "obs_4_kernel_3_groups_4": keypoints(n_obs_steps=4, kernel_size=3, n_groups=4, down_dims=[8, 12, 16],
                                         horizon=24, **DDIM),
    "no_clip_linear": keypoints(clip_sample=False, beta_schedule="linear"),
    "clip_range_2_scaled_linear": keypoints(clip_sample_range=2.0, beta_schedule="scaled_linear",
                                            beta_end=0.05),
    "train_50_ddim_7": keypoints(num_train_timesteps=50, noise_scheduler_type="DDIM", num_inference_steps=7),
    "train_50_sigmoid": keypoints(num_train_timesteps=50, beta_schedule="sigmoid", beta_end=0.1),
    "ddim_16": keypoints(noise_scheduler_type="DDIM", num_inference_steps=16),
    "quantiles": keypoints(norm={"STATE": "QUANTILES", "ENV": "QUANTILES", "ACTION": "QUANTILES"}, **DDIM),
    "quantile_10_identity": keypoints(norm={"STATE": "QUANTILE10", "ENV": "IDENTITY", "ACTION": "MEAN_STD"},
                                      **DDIM),
    "compiled": keypoints(compile_model=True, **DDIM),
    "action_7_state_9": keypoints(inputs={ENV: [3], STATE: [9]}, action=7, down_dims=[16, 32],
                                  norm={"STATE": "MIN_MAX", "ENV": "MIN_MAX", "ACTION": "MIN_MAX"}),
    "rollout_keypoints": keypoints(n_action_steps=3, **DDIM),
    # Cameras: weights by formula.
    "camera_group": camera({IMAGE: [3, 96, 96], STATE: [2]}, crop_shape=(84, 84), noise_scheduler_type="DDPM",
                           num_inference_steps=None),
    "camera_batch_resize_crop": camera({IMAGE: [3, 70, 90], STATE: [2]}, use_group_norm=False,
                                       resize_shape=(57, 75), crop_ratio=0.9),
    "two_cameras_shared": camera({WRIST: [3, 61, 83], STATE: [2], TOP: [3, 61, 83]}, crop_shape=(50, 70)),
    "two_cameras_separate": camera({WRIST: [3, 45, 37], TOP: [3, 45, 37], STATE: [4], ENV: [5]}, action=3,
                                   use_separate_rgb_encoder_per_camera=True),
    "resnet34": camera(vision_backbone="resnet34", n_obs_steps=1),
    "resnet50_batch": camera(vision_backbone="resnet50", use_group_norm=False),
    "resize_up": camera({IMAGE: [3, 48, 40], STATE: [2]}, resize_shape=(64, 72)),
    "mean_std_image_min_max": camera(norm={"VISUAL": "MIN_MAX", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"},
                                     n_obs_steps=3),
    "softmax_5": camera(spatial_softmax_num_keypoints=5, prediction_type="sample"),
    "rollout_camera": camera({IMAGE: [3, 24, 24], STATE: [2]}, resize_shape=(65, 65), n_action_steps=8,
                             spatial_softmax_num_keypoints=8),
}
# A dimension that never moved in the data set: min = max, std = 0.
CONSTANT = {"keypoints_ddpm": [(STATE, 1)], "quantiles": [(STATE, 0)]}
RESETS, OBSERVATIONS = [0, 60], 100


@torch.no_grad()
def rollout(reference, folder):
    """LeRobot's own policy object through 100 observations."""
    raw = observations(reference.config, reference.stats, reference.rng, OBSERVATIONS)
    policy, noises, actions = reference.policy, [], []
    shape = (1, reference.config.horizon, reference.config.action_feature.shape[0])
    for i in range(OBSERVATIONS):
        if i in RESETS:
            policy.reset()
        due = not policy._queues["action"]
        noise = torch.from_numpy(reference.rng.standard_normal(shape).astype("float32")) if due else None
        if due:
            noises.append(noise)
        actions.append(reference.post(policy.select_action(reference.pre(one(raw, i)), noise=noise)))
    tensors = {**raw, "noise": torch.cat(noises), "action": torch.cat(actions)}
    write_golden(folder / "rollout.safetensors", tensors, resets=RESETS)
    return len(noises)


def main(names):
    for number, (name, case) in enumerate(CASES.items()):
        if names and name not in names:
            continue
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        reference = Reference(case, seed=number, constant=CONSTANT.get(name, ()))
        if name in CONSTANT:
            for key, dimension in CONSTANT[name]:
                assert (reference.raw[key][:, dimension] ==
                        torch.tensor(reference.stats[key]["min"][dimension], dtype=torch.float32)).all()
        tensors, floor = reference.golden(pictures=name in ("mean_std_image_min_max", "two_cameras_separate"))
        chunks = None
        if name.startswith("rollout"):
            folder.mkdir(parents=True)
            chunks = rollout(reference, folder)
        reference.save(folder, formula_weights=reference.vision)
        write_golden(folder / "golden.safetensors", tensors, floor=floor)
        a = tensors["action_normalized"]
        clip = reference.config.clip_sample_range if reference.config.clip_sample else float("inf")
        encoded = [v for k, v in tensors.items() if k.startswith("stage.encoder")]
        size = sum(f.stat().st_size for f in folder.iterdir())
        worst, where = max((v, k) for k, v in floor.items() if "stage" in k)
        print(f"{name:32} {size / 1024:6.0f} KiB  |a|≤{float(a.abs().max()):.2f} free"
              f" {float((a.abs() < clip).float().mean()):.2f}  out {float(tensors['stage.unet.0.out'].std()):.2f}"
              f"  encoder " + " ".join(f"{float((v > 0).float().mean()):.2f}/{float((v[0] - v[-1]).abs().max()):.2f}" for v in encoded)
              + f"  floor: {where[6:]} {worst:.1e}, normalized {floor['action_normalized']:.1e},"
              f" action/range {floor['action/range']:.1e}" + (f"  chunks {chunks}" if chunks else ""), flush=True)
    total = sum(f.stat().st_size for f in HERE.rglob("*") if f.is_file() and "__pycache__" not in f.parts)
    print(f"all: {total / 1024:.0f} KiB")


if __name__ == "__main__":
    main(sys.argv[1:])
