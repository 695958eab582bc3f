"""Golden folders of LeRobot's ACT: configurations, weights, stages and actions.

    python tests/golden/act.py tests/golden/act
    python tests/golden/act.py FOLDER SEED COUNT     random folders, for `random_folders` in tests/act.rs

Each folder is what `save_pretrained` of policy and processors writes, with tiny random weights:
    keypoints       state and environment state, a VAE's encoder in the file
    ensemble        the same with a temporal ensemble
    prenorm         pre_norm, gelu, two decoder layers, no VAE, a state that the network does not see
    cameras         two cameras of different sizes, not in alphabetical order, ResNet-18, no state
    dilation        one camera, state and environment, ResNet-50 with dilation, temporal ensemble
Where there is a ResNet, model.safetensors would be large: weights.json has name, shape, offset and scale of
each tensor, and literal.safetensors what follows no formula (see `formula`).
rollout.safetensors where there is no camera: LeRobot's own `select_action` over 60 observations, `input/KEY`
[60, n] and `action` [60, n] in robot units; the last 20 after a reset.
expected.safetensors per folder, two samples:
    input/KEY       raw observation: vectors [2, n], pictures u8 [2, height, width, 3]
    normalized/KEY  the vectors after LeRobot's preprocessor
    tokens, encoder_out [2, s, d], positions [s, d]                the encoder's input and output
    action_normalized, action [2, chunk, n]                        the latter after LeRobot's postprocessor
observation.safetensors: the first sample as `pathline infer` reads it.
ensemble.safetensors: chunks [20, 8, 3] and, per coefficient of the metadata, actions [20, 3] of
ACTTemporalEnsembler.
Written with lerobot 0.4.4 (Apache-2.0), torch and torchvision on the CPU, float32, one thread, seed below.
"""

import importlib.metadata
import json
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy, ACTTemporalEnsembler
from lerobot.policies.act.processor_act import make_act_pre_post_processors
from safetensors.torch import save_file

from formula import formula

SEED = 4
BATCH = 2
STATE, ENV, ACTION = "observation.state", "observation.environment_state", "action"
TINY = dict(dim_model=32, n_heads=4, dim_feedforward=48, n_encoder_layers=2, n_decoder_layers=1,
            latent_dim=6, n_vae_encoder_layers=1, chunk_size=10, n_action_steps=7, device="cpu",
            pretrained_backbone_weights=None, push_to_hub=False)
CASES = {
    "keypoints": dict(inputs={ENV: (6,), STATE: (3,)}),
    "ensemble": dict(inputs={ENV: (6,), STATE: (3,)}, temporal_ensemble_coeff=0.01, n_action_steps=1),
    "prenorm": dict(inputs={STATE: (3,), ENV: (6,), "observation.effort": (2,)}, pre_norm=True,
                    feedforward_activation="gelu", n_decoder_layers=2, use_vae=False,
                    normalization_mapping=dict.fromkeys(("STATE", "ENV", "ACTION"), NormalizationMode.MIN_MAX)),
    "cameras": dict(inputs={"observation.images.wrist": (3, 48, 64), "observation.images.front": (3, 80, 70)}),
    "dilation": dict(inputs={"observation.image": (3, 64, 80), STATE: (3,), ENV: (6,)},
                     vision_backbone="resnet50", replace_final_stride_with_dilation=True,
                     temporal_ensemble_coeff=0.01, n_action_steps=1),
}


def rule(name, shape):
    """Offset and scale of a tensor: activations stay near 1, and no weight is 0 or 1 by default."""
    last = name.rsplit(".", 1)[-1]
    if "encoder_img_feat_input_proj" in name and len(shape) == 4:
        return 0.0, float(np.sqrt(1 / shape[1]))
    if len(shape) == 4:
        return 0.0, float(np.sqrt(6 / np.prod(shape[1:])))
    if len(shape) == 2 and "embed" not in name:
        return 0.0, float(np.sqrt(3 / shape[1]))
    if len(shape) == 2:
        return 0.0, 1.0
    if last == "running_var":
        return 1.0, 0.3
    if last == "weight":
        # The last norm of a residual branch: small, or the sum would double from block to block.
        branch = ".backbone." in name and (".bn3." in name or ".layer" in name and ".bn2." in name)
        return (0.4 if branch else 1.0), 0.2
    return 0.0, 0.1


def feature(key, shape):
    kinds = {STATE: FeatureType.STATE, ENV: FeatureType.ENV, ACTION: FeatureType.ACTION}
    kind = FeatureType.VISUAL if len(shape) == 3 else kinds.get(key, FeatureType.STATE)
    return PolicyFeature(type=kind, shape=shape)


def statistics(features):
    stats = {}
    for key, value in features.items():
        shape = (3, 1, 1) if len(value.shape) == 3 else value.shape
        low, high = torch.rand(shape) * 0.2, 0.8 + torch.rand(shape) * 0.2
        mean, std = 0.3 + torch.rand(shape) * 0.4, 0.1 + torch.rand(shape) * 0.3
        if key in (STATE, ACTION):
            # Units of a robot; LeRobot's defaults leave the environment as it is.
            low, high, mean, std = 100 * low - 50, 100 * high - 50, 100 * mean - 50, 100 * std
        stats[key] = {"min": low, "max": high, "mean": mean, "std": std, "count": torch.tensor([1000])}
    return stats


def observation(features, stats):
    raw = {}
    for key, value in features.items():
        if len(value.shape) == 3:
            _, h, w = value.shape
            # Smooth, so that the file is small, with some noise.
            y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
            phase = torch.rand(BATCH, 1, 1, 3) * 6
            wave = torch.sin(y[None, :, :, None] / 7 + phase) * torch.cos(x[None, :, :, None] / 5 - phase)
            raw[key] = (127 + 100 * wave + 20 * torch.rand(BATCH, h, w, 3)).clamp(0, 255).to(torch.uint8)
        else:
            raw[key] = stats[key]["mean"] + stats[key]["std"] * torch.randn(BATCH, *value.shape)
    return raw


def fold(name, root, inputs, small=True, formulas=True, **overrides):
    out = root / name
    out.mkdir(parents=True)
    action = PolicyFeature(type=FeatureType.ACTION, shape=(4,))
    config = ACTConfig(**{**TINY, **overrides}, output_features={ACTION: action},
                       input_features={k: feature(k, s) for k, s in inputs.items()})
    policy = ACTPolicy(config).eval()
    weights, literal = {}, {}
    state = policy.state_dict()
    for key, tensor in state.items():
        if key.endswith("vae_encoder_pos_enc"):
            literal[key] = tensor.clone()
            continue
        if not formulas:
            continue
        offset, scale = rule(key, tensor.shape)
        tensor.copy_(formula(key, tuple(tensor.shape), offset, scale))
        weights[key] = {"shape": list(tensor.shape), "offset": offset, "scale": scale}
    policy.load_state_dict(state)
    stats = statistics({**config.input_features, **config.output_features})
    pre, post = make_act_pre_post_processors(config, stats)
    policy.save_pretrained(out)
    pre.save_pretrained(out)
    post.save_pretrained(out)
    if config.image_features and small:
        (out / "model.safetensors").unlink()
        (out / "weights.json").write_text(json.dumps(weights, indent=0) + "\n")
        save_file(literal, out / "literal.safetensors")

    raw = observation(config.input_features, stats)
    batch = {key: x.permute(0, 3, 1, 2).float() / 255 if x.ndim == 4 else x for key, x in raw.items()}
    # LeRobot takes the device of the latent from here, even where the network sees no state.
    batch.setdefault(STATE, torch.zeros(BATCH, 1))
    batch = pre(batch)
    seen = {}

    def before(module, args, kwargs):
        seen["tokens"], seen["positions"] = args[0].transpose(0, 1), kwargs["pos_embed"].squeeze(1)

    def after(module, args, output):
        seen["encoder_out"] = output.transpose(0, 1)

    hooks = [policy.model.encoder.register_forward_pre_hook(before, with_kwargs=True),
             policy.model.encoder.register_forward_hook(after)]
    with torch.no_grad():
        seen["action_normalized"] = policy.predict_action_chunk(batch)
        seen["action"] = post(seen["action_normalized"].clone())
    for hook in hooks:
        hook.remove()
    expected = {f"input/{key}": x for key, x in raw.items()} | seen
    expected |= {f"normalized/{key}": batch[key] for key, x in raw.items() if x.ndim == 2}
    expected = {key: x.contiguous().clone() for key, x in expected.items()}
    about = {p: importlib.metadata.version(p) for p in ("lerobot", "torch", "torchvision")} | {"seed": SEED}
    # One entry: safetensors writes several in a random order.
    save_file(expected, out / "expected.safetensors", {"about": json.dumps(about)})
    save_file({key: x[:1].clone() for key, x in raw.items()}, out / "observation.safetensors")
    if not config.image_features:
        rollout(out, policy, pre, post, config, stats)
    spread = {key: round(float(x.abs().max()), 3) for key, x in seen.items()}
    print(name, {key: tuple(x.shape) for key, x in seen.items()}, spread)


def rollout(out, policy, pre, post, config, stats):
    ticks = [observation(config.input_features, stats) for _ in range(60)]
    actions = []
    for tick, raw in enumerate(ticks):
        if tick in (0, 40):
            policy.reset()
        actions.append(post(policy.select_action(pre({key: x[0] for key, x in raw.items()}))))
    tensors = {f"input/{key}": torch.cat([raw[key][:1] for raw in ticks]) for key in ticks[0]}
    save_file(tensors | {"action": torch.cat(actions)}, out / "rollout.safetensors")


def ensemble(root):
    coefficients = [0.01, 0.0, -0.1, 1.5]
    chunks = torch.randn(20, 8, 3)
    tensors = {"chunks": chunks}
    for i, coefficient in enumerate(coefficients):
        ensembler = ACTTemporalEnsembler(coefficient, 8)
        tensors[f"actions/{i}"] = torch.cat([ensembler.update(chunk[None]) for chunk in chunks])
    save_file(tensors, root / "ensemble.safetensors", {"coefficients": json.dumps(coefficients)})


def random_case(r):
    heads = r.choice([1, 2, 4, 8])
    width = heads * r.choice([4, 8, 12, 20])
    inputs = {}
    if r.random() < 0.7:
        inputs[STATE] = (r.randint(1, 20),)
    for camera in r.sample(["observation.image", "observation.images.top", "observation.images.a_b"],
                           r.choice([0, 1, 1, 2, 3])):
        inputs[camera] = (3, r.randint(20, 130), r.randint(20, 130))
    if r.random() < 0.5 or not any(len(shape) == 3 for shape in inputs.values()):
        inputs[ENV] = (r.randint(1, 20),)
    inputs = dict(r.sample(list(inputs.items()), len(inputs)))
    backbone = r.choice(["resnet18", "resnet34", "resnet50"])
    chunk = r.randint(1, 60)
    coefficient = r.choice([None, 0.01, 0.0, -0.02])
    modes = [NormalizationMode.MEAN_STD, NormalizationMode.MIN_MAX, NormalizationMode.IDENTITY]
    mapping = {kind: r.choice(modes) for kind in ("STATE", "ENV", "ACTION")}
    return dict(
        inputs=inputs, vision_backbone=backbone, dim_model=width, n_heads=heads, chunk_size=chunk,
        replace_final_stride_with_dilation=backbone == "resnet50" and r.random() < 0.5,
        n_action_steps=r.randint(1, chunk) if coefficient is None else 1, temporal_ensemble_coeff=coefficient,
        dim_feedforward=r.randint(8, 700), n_encoder_layers=r.randint(0, 4), n_decoder_layers=r.randint(0, 3),
        pre_norm=r.random() < 0.5, feedforward_activation=r.choice(["relu", "gelu"]),
        use_vae=r.random() < 0.5, latent_dim=r.randint(1, 40), n_vae_encoder_layers=r.randint(0, 2),
        normalization_mapping={"VISUAL": NormalizationMode.MEAN_STD, **mapping}, formulas=r.random() < 0.5)


def main():
    root = Path(sys.argv[1])
    torch.set_num_threads(1)
    if len(sys.argv) > 2:
        seed, count = int(sys.argv[2]), int(sys.argv[3])
        for i in range(seed, seed + count):
            torch.manual_seed(i)
            fold(f"random-{i}", root, small=False, **random_case(random.Random(i)))
        return
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    for name, case in CASES.items():
        torch.manual_seed(SEED)
        fold(name, root, **case)
    torch.manual_seed(SEED)
    ensemble(root)


main()
