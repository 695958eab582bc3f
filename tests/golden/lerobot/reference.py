"""LeRobot's DiffusionPolicy as the reference: builds a policy from a description, gives it weights by a
formula, writes its folder as LeRobot does, and records what it computes, stage by stage.

Shared by make.py (the committed golden folders), random_folder.py and the scripts in benches/peers.
Needs lerobot==0.4.4, torch 2.10.0, torchvision 0.25.0, diffusers 0.35.2 on the CPU.

Weights by formula: a ResNet would make every folder 45 MB, so both languages compute the same f32.
    h = FNV-1a-64 of the tensor's name (the golden folders' salt is empty)
    z = splitmix64's finaliser of h + (i + 1)·0x9E3779B97F4A7C15, i row-major
    u = (z >> 40) / 2^24;  value = offset + scale·(2u − 1), every operation in f32
"""

import json
import logging
import math
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import diffusers.schedulers.scheduling_ddpm as scheduling_ddpm
import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.utils import populate_queues
from safetensors.torch import load_file, save_file

PACKAGES = ["lerobot", "torch", "torchvision", "diffusers", "numpy", "safetensors"]
STATE, ENV, ACTION, IMAGES = (
    "observation.state", "observation.environment_state", "action", "observation.images")

logging.getLogger().setLevel(logging.ERROR)


def versions():
    return {name: version(name) for name in PACKAGES}


# Weights ------------------------------------------------------------------------------------------

def fnv1a(name):
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = (h ^ byte) * 0x100000001B3 % 2**64
    return h


def formula(name, shape, offset, scale):
    """The tensor called `name`, f32."""
    count = math.prod(shape)
    z = np.uint64(fnv1a(name)) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    u = (z >> np.uint64(40)).astype(np.float32) / np.float32(2**24)
    value = np.float32(offset) + np.float32(scale) * (np.float32(2) * u - np.float32(1))
    assert value.dtype == np.float32
    return torch.from_numpy(value.reshape(shape))


def offset_and_scale(name, tensor):
    """Centre and half width of a tensor's values: every bias and every norm does something, and the
    signal neither dies nor grows on its way."""
    if name.endswith("running_mean"):
        return 0.0, 0.2
    if name.endswith("running_var"):
        return 1.0, 0.5
    resnet = ".backbone." in name
    if name.endswith("bias"):
        if "cond_encoder" in name:
            return 0.3, 0.9
        return 0.0, 0.1 if resnet else 0.2
    if tensor.ndim == 1:  # weights of a norm
        if resnet and ".downsample." not in name:
            return 0.6, 0.2
        return 1.0, 0.3
    fan_in = math.prod(tensor.shape[1:])
    gain = 2.0 if resnet else 1.5
    if "cond_encoder" in name:
        gain = 0.75
    if "final_conv.1" in name:
        gain = 0.3
    return 0.0, math.sqrt(gain * 3.0 / fan_in)


def plain(name):
    """Without torch.compile's part of the name: compiled and not, a tensor has the same values."""
    return name.replace("_orig_mod.", "")


def fill(policy, salt, adjust):
    """Sets all parameters and buffers by the formula. Returns weights.json's entries and the tensors
    that follow no formula. `adjust` maps (name) → factor on the scale."""
    entries, literal = {}, {}
    for name, tensor in policy.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(1234)
        if name.endswith(("num_batches_tracked", "pos_grid")):
            literal[name] = tensor.clone()
            continue
        offset, scale = (float(np.float32(v)) for v in offset_and_scale(name, tensor))
        scale = float(np.float32(scale * adjust(name)))
        values = formula(salt + plain(name), tensor.shape, offset, scale)
        tensor.copy_(values)
        first = values.flatten()[:8].numpy().view(np.uint32)
        entries[name] = {"shape": list(tensor.shape), "offset": offset, "scale": scale,
                         "check": int(first.astype(np.uint64).sum())}
    return entries, literal


# Configuration and statistics ---------------------------------------------------------------------

KINDS = {STATE: FeatureType.STATE, ENV: FeatureType.ENV}


def config(case):
    """DiffusionConfig of a description: `inputs` {key: shape} in order, `action` dimension, `norm`
    {kind: mode}, and everything else under the config's own names."""
    case = dict(case)
    inputs = {key: PolicyFeature(type=KINDS.get(key, FeatureType.VISUAL), shape=tuple(shape))
              for key, shape in case.pop("inputs").items()}
    outputs = {ACTION: PolicyFeature(type=FeatureType.ACTION, shape=(case.pop("action"),))}
    norm = case.pop("norm", None)
    if norm is not None:
        case["normalization_mapping"] = {k: NormalizationMode(v) for k, v in norm.items()}
    return DiffusionConfig(input_features=inputs, output_features=outputs, device="cpu", **case)


def statistics(cfg, rng, constant=()):
    """Dataset statistics as LeRobotDataset.meta.stats has them: every column of the dataset, also those
    that the policy does not read. `constant`: (key, dimension) pairs with min = max and std 0."""
    stats = {}
    for key, feature in {**cfg.input_features, **cfg.output_features}.items():
        visual = feature.type is FeatureType.VISUAL
        shape = (3, 1, 1) if visual else tuple(feature.shape)
        if visual:
            low, high = np.full(shape, 0.0), np.full(shape, 1.0)
            low += rng.uniform(0, 0.05, shape)
            high -= rng.uniform(0, 0.05, shape)
            mean, std = rng.uniform(0.35, 0.6, shape), rng.uniform(0.15, 0.3, shape)
        else:
            mode = cfg.normalization_mapping.get(feature.type.value, NormalizationMode.IDENTITY)
            raw = mode is NormalizationMode.IDENTITY  # goes into the network, or comes out, as it is
            size = 10.0 ** rng.uniform(-0.5, 0.0 if raw else 2.5, shape)
            low = rng.uniform(-1.5, 0.2, shape) * size
            high = low + rng.uniform(0.5, 2.0, shape) * size
            mean = low + (high - low) * rng.uniform(0.3, 0.7, shape)
            std = (high - low) * rng.uniform(0.15, 0.35, shape)
        for name, dimension in constant:
            if name == key:
                high[dimension] = mean[dimension] = low[dimension]
                std[dimension] = 0.0
        spread = high - low
        stats[key] = {
            "min": low, "max": high, "mean": mean, "std": std, "count": np.array([4321]),
            "q01": low + 0.02 * spread, "q10": low + 0.12 * spread, "q50": mean,
            "q90": high - 0.1 * spread, "q99": high - 0.015 * spread,
        }
    for key in ["timestamp", "frame_index", "episode_index", "index", "task_index"]:
        stats[key] = {name: np.array([value]) for name, value in
                      [("min", 0.0), ("max", 24.9), ("mean", 12.0), ("std", 7.1), ("count", 4321)]}
    return stats


def observations(cfg, stats, rng, count):
    """Raw observations: vectors near and a little outside the statistics' min and max, pictures of
    stripes and noise."""
    out = {}
    for key, feature in cfg.input_features.items():
        if feature.type is FeatureType.VISUAL:
            _, h, w = feature.shape
            y, x = np.mgrid[0:h, 0:w]
            pictures = np.empty((count, h, w, 3))
            for i in range(count):
                for c in range(3):
                    fy, fx, phase = rng.uniform(0.02, 0.3), rng.uniform(0.02, 0.3), rng.uniform(0, 6)
                    pictures[i, :, :, c] = 127 + 80 * np.sin(fy * y + fx * x + phase)
            pictures += rng.uniform(-60, 60, pictures.shape)
            out[key] = torch.from_numpy(pictures.clip(0, 255).astype(np.uint8))
        else:
            low, high = stats[key]["min"], stats[key]["max"]
            u = rng.uniform(-0.1, 1.1, (count, *feature.shape))
            out[key] = torch.from_numpy((low + u * (high - low)).astype(np.float32))
    return out


# Running ------------------------------------------------------------------------------------------

def one(raw, i):
    """Observation i as LeRobot's eval hands it over: pictures u8 HWC → f32 CHW / 255."""
    step = {}
    for key, value in raw.items():
        if value.dtype == torch.uint8:
            picture = value[i].permute(2, 0, 1).contiguous().type(torch.float32)
            picture /= 255
            step[key] = picture
        else:
            step[key] = value[i].clone()
    return step


@contextmanager
def step_noises(noises):
    """DDPM's scheduler takes these in order instead of torch's generator."""
    left = list(noises)
    original = scheduling_ddpm.randn_tensor

    def handed_out(shape, generator=None, device=None, dtype=None):
        noise = left.pop(0).unsqueeze(0).to(dtype)
        assert tuple(noise.shape) == tuple(shape)
        return noise

    scheduling_ddpm.randn_tensor = handed_out
    try:
        yield left
    finally:
        scheduling_ddpm.randn_tensor = original


class Reference:
    """A policy with its processors. `salt` goes before the tensors' names in the formula; None keeps
    torch's own initial values (BatchNorm's running statistics still get the formula's)."""

    def __init__(self, case, seed, salt="", constant=()):
        case = dict(case)
        torch.manual_seed(seed)
        compiled = case.pop("compile_model", False)
        self.rng = np.random.default_rng(seed)
        self.config = config(case)
        self.stats = statistics(self.config, self.rng, constant)
        processors = make_pre_post_processors(self.config, dataset_stats=self.stats)
        self._take(DiffusionPolicy(self.config).eval(), *processors)
        raw = observations(self.config, self.stats, self.rng, self.config.n_obs_steps)
        factors = {}
        adjust = lambda name: next((f for part, f in factors.items() if part in name), 1.0)
        entries, literal = {}, {}
        with torch.no_grad():
            if salt is None:
                for name, tensor in self.policy.state_dict().items():
                    if "running" in name:
                        tensor.copy_(formula(name, tensor.shape, *offset_and_scale(name, tensor)))
            else:
                entries, literal = fill(self.policy, salt, adjust)
            if self.vision and salt is not None:
                # SpatialSoftmax sees logits of spread 0.8, so that it is neither flat nor one point.
                factors["pool.nets.weight"] = 0.8 / (self.logit_spread(raw) or 0.8)
                entries, literal = fill(self.policy, salt, adjust)
        self.raw, self.entries, self.literal = raw, entries, literal
        self.noise, self.step_noise = self.draw(self.rng)
        self.compiled = compiled

    @classmethod
    def load(cls, folder):
        """A folder's policy and processors, as LeRobot loads them."""
        self = cls.__new__(cls)
        self.config = PreTrainedConfig.from_pretrained(folder)
        if self.config.compile_model:  # the same network, without a compiler
            self.config.compile_model = False
            policy = DiffusionPolicy(self.config).eval()
            weights = load_file(Path(folder) / "model.safetensors")
            policy.load_state_dict({plain(name): tensor for name, tensor in weights.items()})
        else:
            policy = DiffusionPolicy.from_pretrained(folder, config=self.config, strict=True)
        self._take(policy, *make_pre_post_processors(self.config, pretrained_path=str(folder)))
        return self

    def _take(self, policy, pre, post):
        self.policy, self.pre, self.post = policy, pre, post
        self.vision = bool(self.config.image_features)
        self.ddpm = self.config.noise_scheduler_type == "DDPM"
        # LeRobot's sinusoids are f32 whatever the network is; `golden` runs the network in f64 as well.
        encoder = self.policy.diffusion.unet.diffusion_step_encoder
        encoder[0].register_forward_hook(lambda module, args, out: out.to(encoder[1].weight.dtype))

    def draw(self, rng):
        """`noise` [horizon, D] and, for DDPM, `step_noise` [steps, horizon, D]."""
        shape = (self.config.horizon, self.config.action_feature.shape[0])
        normal = lambda *shape: torch.from_numpy(rng.standard_normal(shape).astype(np.float32))
        steps = self.policy.diffusion.num_inference_steps
        return normal(*shape), normal(steps, *shape) if self.ddpm else None

    def encoders(self):
        encoder = self.policy.diffusion.rgb_encoder
        count = len(self.config.image_features)
        return list(encoder) if self.config.use_separate_rgb_encoder_per_camera else [encoder] * count

    def logit_spread(self, raw):
        spreads = []
        handles = [e.pool.nets.register_forward_hook(
            lambda m, i, o: spreads.append(float(o.flatten(-2).std(-1, correction=0).mean()))) for e in set(self.encoders())]
        self.network_inputs(raw)
        for handle in handles:
            handle.remove()
        return float(np.mean(spreads))

    def normalized(self, raw):
        """Each input through the preprocessor pipeline, one observation after the other as in a rollout."""
        steps = [self.pre(one(raw, i)) for i in range(self.config.n_obs_steps)]
        return {key: torch.cat([step[key] for step in steps]) for key in self.config.input_features}

    def network_inputs(self, raw):
        normal = self.normalized(raw)
        dtype = next(self.policy.parameters()).dtype
        out = {f"stage.normalized.{key}": value for key, value in normal.items()}
        for camera, (key, encoder) in enumerate(zip(self.config.image_features, self.encoders() if self.vision else [])):
            out[f"stage.encoder.{camera}"] = encoder(normal[key].to(dtype))
        return out

    @torch.no_grad()
    def chunk(self, raw, noise, step_noise):
        """One chunk as LeRobot computes it: queues filled, predict_action_chunk, postprocessor."""
        policy, dtype = self.policy, next(self.policy.parameters()).dtype
        tape = []
        hook = policy.diffusion.unet.register_forward_hook(
            lambda m, args, kwargs, out: tape.append((args[0][0], args[1], kwargs["global_cond"][0], out[0])),
            with_kwargs=True)
        full = {}
        sample = policy.diffusion.conditional_sample

        def recorded(*args, **kwargs):
            full["chunk"] = sample(*args, **kwargs)
            return full["chunk"]

        policy.diffusion.conditional_sample = recorded
        policy.reset()
        for i in range(self.config.n_obs_steps):
            batch = self.pre(one(raw, i))  # statistics stay f32 only as long as the inputs are f32
            batch = {k: v.to(dtype) for k, v in batch.items() if k in self.config.input_features}
            if self.vision:
                batch[IMAGES] = torch.stack([batch[key] for key in self.config.image_features], dim=-4)
            policy._queues = populate_queues(policy._queues, batch)
        with step_noises(step_noise if step_noise is not None else []):
            actions = policy.predict_action_chunk(batch, noise=noise.unsqueeze(0).to(dtype))
        hook.remove()
        del policy.diffusion.conditional_sample
        # The processor would change its own statistics to f64 (and save them so) if it saw f64 actions.
        out = {"action": self.post(actions.float())[0], "action_normalized": full["chunk"][0],
               "stage.global_cond": tape[0][2]}
        for k, i in enumerate([0, len(tape) // 2, len(tape) - 1]):
            x, t, _, y = tape[i]
            out |= {f"stage.unet.{k}.x": x, f"stage.unet.{k}.t": t.float(), f"stage.unet.{k}.out": y}
        return out

    @torch.no_grad()
    def golden(self, pictures=True):
        """All tensors of golden.safetensors, and how far f32 is from f64 in each (the network in f64 on
        the same normalised f32 inputs): no f32 program can be expected to come closer."""
        tensors = {**self.raw, "noise": self.noise}
        if self.ddpm:
            tensors["step_noise"] = self.step_noise
        result = self.network_inputs(self.raw) | self.chunk(self.raw, self.noise, self.step_noise)
        self.policy.double()
        exact = self.network_inputs(self.raw) | self.chunk(self.raw, self.noise, self.step_noise)
        unet = self.policy.diffusion.unet
        for k in range(3):
            x, t = (result[f"stage.unet.{k}.{v}"].unsqueeze(0) for v in "xt")
            cond = result["stage.global_cond"].double().unsqueeze(0)
            exact[f"stage.unet.{k}.out"] = unet(x.double(), t.long().flatten(), global_cond=cond)[0]
            del exact[f"stage.unet.{k}.x"]
        self.policy.float()
        floor = {key: float((result[key].double() - exact[key].double()).abs().max())
                 for key in exact if not key.startswith("stage.normalized")}
        floor["action/range"] = float(
            ((result["action"].double() - exact["action"].double()).abs() / self.action_range()).max())
        if not pictures:
            result = {k: v for k, v in result.items()
                      if k.removeprefix("stage.normalized.") not in self.config.image_features}
        tensors |= result
        return {k: v.contiguous().clone() for k, v in tensors.items()}, floor

    def action_range(self):
        """[D]: how far apart −1 and 1 of the normalised action lie in robot units."""
        ends = torch.ones(2, self.config.action_feature.shape[0])
        ends[0] = -1
        ends = self.post(ends)
        return ends[1] - ends[0]

    def save(self, folder, formula_weights):
        """The folder as LeRobot writes it; with `formula_weights`, weights.json and literal.safetensors
        stand for model.safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        policy = self.policy
        if self.compiled:
            # OptimizedModule renames the keys; nothing is compiled until it is called.
            policy.diffusion.unet = torch.compile(policy.diffusion.unet)
            self.config.compile_model = True
        policy.save_pretrained(folder)
        self.pre.save_pretrained(folder)
        self.post.save_pretrained(folder)
        if formula_weights:
            (folder / "model.safetensors").unlink()
            lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in self.entries.items())
            (folder / "weights.json").write_text(f"{{\n{lines}\n}}\n")
            save_file(self.literal, folder / "literal.safetensors")


def write_golden(path, tensors, **metadata):
    # One metadata key: safetensors writes several in random order.
    save_file(tensors, path, {"golden": json.dumps({"versions": versions(), **metadata})})
