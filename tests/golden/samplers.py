#!/usr/bin/env python3
"""Trajectories of diffusers, k-diffusion and torchdiffeq's Dopri5 on a network known in closed form.

    python tests/golden/samplers.py            (diffusers 0.42.1, k-diffusion, torchdiffeq 0.2.5)

The network is the exact answer for data that are, number by number, a mixture of three normal
distributions: `E[data | x_t]` by `posterior_mean` below, turned into epsilon, sample or v. It is
computed in f64 from the state and the timestep that the scheduler hands out, and so it is in
tests/samplers.rs.

Every case runs twice: as diffusers is (f32), and with float32 of the scheduler's module replaced by
float64, tables included: then only the formulas can differ. The step noise is recorded: draw number i
is row i of `noise`. States are stored as the scheduler has them: EulerDiscrete, EulerAncestral
and Heun keep the data at unit scale (x/alpha), as k-diffusion does, which runs in f64 as it is.
"""
import importlib.metadata
import json
import math
import os
import sys
import types

import diffusers
import numpy as np
import torch
import torchdiffeq
from diffusers.schedulers import (
    scheduling_ddim,
    scheduling_ddpm,
    scheduling_dpmsolver_multistep,
    scheduling_euler_ancestral_discrete,
    scheduling_euler_discrete,
    scheduling_flow_match_euler_discrete,
    scheduling_heun_discrete,
)
from safetensors.numpy import save_file

# k-diffusion imports CLIP for an evaluation that is not used here, and CLIP needs an old setuptools.
sys.modules.setdefault("clip", types.ModuleType("clip"))
from k_diffusion import sampling as k_sampling  # noqa: E402

SEED = 20261124
STEPS, SHAPE = 12, (2, 1, 4)
MIXTURE = [(0.5, -1.2, 0.3), (0.3, 0.4, 0.5), (0.2, 1.3, 0.2)]  # weight, mean, deviation
REAL = {"torch": torch, "np": np}

rng = np.random.default_rng(SEED)
# f32 numbers, so that both runs start from the same.
START = rng.standard_normal(SHAPE).astype(np.float32).astype(np.float64)
NOISE = rng.standard_normal((STEPS, *SHAPE)).astype(np.float32).astype(np.float64)


def posterior_mean(x, alpha, sigma):
    """E[data | alpha*data + sigma*noise = x], number by number, in f64."""
    total, mean = 0.0, 0.0
    for weight, m, s in MIXTURE:
        variance = (alpha * s) ** 2 + sigma**2
        off = x - alpha * m
        share = weight / math.sqrt(variance) * np.exp(-0.5 * off * off / variance)
        total, mean = total + share, mean + share * (m + alpha * s * s / variance * off)
    return mean / total


def betas64(schedule, n=1000, start=0.0001, end=0.02):
    if schedule == "linear":
        return np.linspace(start, end, n)
    if schedule == "scaled_linear":
        return np.linspace(start**0.5, end**0.5, n) ** 2
    bar = lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.array([min(1 - bar((i + 1) / n) / bar(i / n), 0.999) for i in range(n)])


class Table:
    """alpha and sigma at a timestep, in f64; between whole ones sigma/alpha is interpolated."""

    def __init__(self, schedule, zero_snr, log, start=0.0001, end=0.02):
        bar = np.cumprod(1 - betas64(schedule, start=start, end=end))
        if zero_snr:
            root = np.sqrt(bar)
            bar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
        self.bar, self.log = bar, log

    def at(self, t):
        if t == int(t):
            bar = self.bar[int(t)]
            return math.sqrt(bar), math.sqrt(1 - bar)
        hats = np.sqrt((1 - self.bar) / self.bar)
        hat = math.exp(np.interp(t, np.arange(1000), np.log(hats))) if self.log else np.interp(t, np.arange(1000), hats)
        return 1 / math.sqrt(1 + hat * hat), hat / math.sqrt(1 + hat * hat)


def output(target, x, alpha, sigma):
    mean = posterior_mean(x, alpha, sigma)
    noise = (x - alpha * mean) / sigma
    return {
        "sample": mean,
        "epsilon": noise,
        "v_prediction": alpha * noise - sigma * mean,
        "flow": noise - mean,
    }[target]


class Wide:
    """A module whose float32 is float64."""

    def __init__(self, real, wide):
        self._real, self.float32 = real, wide

    def __getattr__(self, name):
        return getattr(self._real, name)


def run(module, make, model, call, wide, scaled):
    """The states of one run, as the scheduler has them, and its timesteps."""
    dtype = torch.float64 if wide else torch.float32
    torch.set_default_dtype(dtype)
    module.torch = Wide(torch, torch.float64) if wide else torch
    module.np = Wide(np, np.float64) if wide else np
    step = {"i": 0}
    module.randn_tensor = lambda shape, generator=None, device=None, dtype=None: torch.tensor(
        NOISE[step["i"]]
    ).to(dtype)
    scheduler = make()
    x = torch.tensor(START).to(dtype)
    if scaled:  # the deviation of a state at unit scale of the data
        x = x * (scheduler.sigmas[0] ** 2 + 1) ** 0.5
    states, times = [x.to(torch.float64).numpy()], []
    order = getattr(scheduler, "order", 1)
    count = len(scheduler.timesteps)
    for k, t in enumerate(scheduler.timesteps):
        step["i"] = k
        inner = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        out = torch.tensor(model(inner.to(torch.float64).numpy(), float(t))).to(dtype)
        x = call(scheduler, out, t, x)
        assert x.dtype == dtype, x.dtype
        # Heun: a grid point is reached every second call, and at the last.
        if order == 1 or k % 2 == 1 or k == count - 1:
            states.append(x.to(torch.float64).numpy())
            times.append(float(scheduler.timesteps[k - 1 if order == 2 and k % 2 == 1 else k]))
    module.torch, module.np = torch, np
    torch.set_default_dtype(torch.float32)
    return np.stack(states), times, scheduler


TENSORS, CASES = {}, []


def case(name, module, klass, target, scaled=False, steps=10, log=False, step_args=None, times=None, **config):
    schedule = config.get("beta_schedule", "linear")
    ends = [config.get(f"beta_{end}", default) for end, default in (("start", 0.0001), ("end", 0.02))]
    table = Table(schedule, config.get("rescale_betas_zero_snr", False), log, *ends)
    flow = target == "flow"

    def make():
        scheduler = klass(**config)
        scheduler.set_timesteps(**(times or {"num_inference_steps": steps}))
        return scheduler

    def model(x, t):
        alpha, sigma = (1 - t / 1000, t / 1000) if flow else table.at(t)
        return output(target, x, alpha, sigma)

    def call(scheduler, out, t, x):
        return scheduler.step(out, t, x, **(step_args or {})).prev_sample

    f32, timesteps, _ = run(module, make, model, call, False, scaled)
    f64, wide_times, scheduler = run(module, make, model, call, True, scaled)
    assert np.isfinite(f32).all() and np.isfinite(f64).all(), name
    TENSORS[f"{name}.f32"], TENSORS[f"{name}.f64"] = f32.astype(np.float32), f64
    CASES.append(
        {
            "name": name,
            "scheduler": klass.__name__,
            "prediction_type": target,
            "steps": steps,
            "timesteps": wide_times,
            "sigmas": [float(s) for s in getattr(scheduler, "sigmas", [])][: 2 * steps + 2],
            **{k: v for k, v in config.items() if not callable(v)},
            **(step_args or {}),
        }
    )
    gap = np.abs(f32 - f64).max() / np.abs(f64).max()
    print(f"{name:60s} f32 against f64: {gap:.1e}")


TARGETS = ["epsilon", "sample", "v_prediction"]
SPACINGS = ["leading", "trailing", "linspace"]

ddpm = (scheduling_ddpm, scheduling_ddpm.DDPMScheduler)
ddim = (scheduling_ddim, scheduling_ddim.DDIMScheduler)
euler = (scheduling_euler_discrete, scheduling_euler_discrete.EulerDiscreteScheduler)
ancestral = (
    scheduling_euler_ancestral_discrete,
    scheduling_euler_ancestral_discrete.EulerAncestralDiscreteScheduler,
)
heun = (scheduling_heun_discrete, scheduling_heun_discrete.HeunDiscreteScheduler)
dpm = (scheduling_dpmsolver_multistep, scheduling_dpmsolver_multistep.DPMSolverMultistepScheduler)
flow = (
    scheduling_flow_match_euler_discrete,
    scheduling_flow_match_euler_discrete.FlowMatchEulerDiscreteScheduler,
)

for spacing in SPACINGS:
    for target in TARGETS:
        common = {"prediction_type": target, "timestep_spacing": spacing}
        case(f"ddpm.{spacing}.{target}", *ddpm, target, clip_sample=False, **common)
        for eta in [0.0, 0.5]:
            case(
                f"ddim.{spacing}.{target}.eta{eta}", *ddim, target,
                clip_sample=False, step_args={"eta": eta}, **common,
            )
        case(f"euler.{spacing}.{target}", *euler, target, scaled=True, **common)
        if target != "sample":  # not implemented there
            case(f"euler_ancestral.{spacing}.{target}", *ancestral, target, scaled=True, **common)
        case(f"heun.{spacing}.{target}", *heun, target, scaled=True, beta_start=0.0001, beta_end=0.02, **common)
        for kind in ["dpmsolver++", "sde-dpmsolver++"]:
            case(f"{kind}.{spacing}.{target}", *dpm, target, algorithm_type=kind, **common)

eps = {"prediction_type": "epsilon"}
case("ddpm.cosine", *ddpm, "epsilon", clip_sample=False, beta_schedule="squaredcos_cap_v2", **eps)
case("ddpm.clip", *ddpm, "epsilon", clip_sample=True, clip_sample_range=0.8, **eps)
threshold = {"thresholding": True, "dynamic_thresholding_ratio": 0.8, "sample_max_value": 1.4}
case("ddpm.threshold", *ddpm, "epsilon", **threshold, **eps)
case("ddpm.zero_snr", *ddpm, "v_prediction", clip_sample=False, rescale_betas_zero_snr=True,
     timestep_spacing="trailing", prediction_type="v_prediction")
case("ddim.eta1", *ddim, "epsilon", clip_sample=False, step_args={"eta": 1.0}, **eps)
case("ddim.first_alpha", *ddim, "epsilon", clip_sample=False, set_alpha_to_one=False, steps_offset=1, **eps)
case("ddim.seven", *ddim, "epsilon", clip_sample=False, steps=7, timestep_spacing="trailing", **eps)
case("ddim.clip", *ddim, "epsilon", clip_sample=True, clip_sample_range=0.8, **eps)
case("ddim.clip_anew", *ddim, "epsilon", clip_sample=True, clip_sample_range=0.8,
     step_args={"use_clipped_model_output": True}, **eps)
# Stable Diffusion's table, sigma up to 14.6: with the other one (up to 157) and timesteps that are not
# whole, diffusers' f32 is off from its own f64 by 1.1e-5 (DPMSolver) to 3.2e-5 (Euler).
sd = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
karras, v = {"use_karras_sigmas": True, **sd}, {"prediction_type": "v_prediction"}
case("euler.karras", *euler, "epsilon", scaled=True, log=True, **karras, **eps)
case("euler.exponential", *euler, "v_prediction", scaled=True, log=True, use_exponential_sigmas=True, **sd, **v)
case("heun.karras", *heun, "epsilon", scaled=True, log=True, **karras, **eps)
case("dpmsolver++.karras", *dpm, "epsilon", log=True, **karras, **eps)
case("sde-dpmsolver++.karras", *dpm, "v_prediction", log=True, algorithm_type="sde-dpmsolver++", **karras, **v)
for shift in [1.0, 3.0]:
    case(f"flow.shift{shift:.0f}", *flow, "flow", shift=shift)
    case(f"flow.stochastic.shift{shift:.0f}", *flow, "flow", shift=shift, stochastic_sampling=True)
# Flux: mu from the number of tokens, over a grid that is handed in.
mu = (1.15 - 0.5) / (4096 - 256) * (1024 - 256) + 0.5
case("flow.dynamic", *flow, "flow", times={"sigmas": np.linspace(1, 1 / 10, 10), "mu": mu}, use_dynamic_shifting=True)


# torchdiffeq: the velocity of the straight path, noise at 1.
def field(t, y):
    field.nfe += 1
    t, x = float(t), y.numpy()
    mean = posterior_mean(x, 1 - t, t)
    # noise - data = (x - data)/t, without the division: the mixture's own posterior noise.
    total, flow = 0.0, 0.0
    for weight, m, s in MIXTURE:
        variance = ((1 - t) * s) ** 2 + t**2
        off = x - (1 - t) * m
        share = weight / math.sqrt(variance) * np.exp(-0.5 * off * off / variance)
        total, flow = total + share, flow + share * (t / variance * off - m - (1 - t) * s * s / variance * off)
    return torch.tensor(flow / total)


SOLVES = []
times = torch.tensor([1.0, 0.73, 0.5, 0.21, 0.0], dtype=torch.float64)
for rtol, atol in [(1e-3, 1e-4), (1e-5, 1e-5), (1e-7, 1e-9), (1e-9, 1e-11)]:
    def solve(**options):
        field.nfe = 0
        y = torchdiffeq.odeint(
            field, torch.tensor(START), times, rtol=rtol, atol=atol, method="dopri5", options=options
        )
        return y.numpy(), field.nfe

    # By default it steps beyond the last time and interpolates; `step_t` makes it stop there, as
    # Pathline does: the path may end there.
    _, beyond = solve()
    y, nfe = solve(step_t=times[-1:])
    name = f"dopri5.{rtol:.0e}"
    TENSORS[name] = y
    SOLVES.append(
        {"name": name, "rtol": rtol, "atol": atol, "times": times.tolist(), "nfe": nfe, "nfe_beyond": beyond}
    )
    print(name, nfe, beyond)

# k-diffusion: samplers over deviations, in f64 as they are; states at unit scale of the data.
SIGMAS = k_sampling.get_sigmas_karras(10, 0.03, 15.0).double()


def k_case(name, sampler, **arguments):
    states, step = [], {"i": 0}

    def model(x, sigma):
        return torch.tensor(posterior_mean(x.numpy(), 1.0, float(sigma[0])))

    def keep(info):
        states.append(info["x"].numpy().copy())
        step["i"] = info["i"]

    if "eta" in arguments:
        arguments["noise_sampler"] = lambda *_: torch.tensor(NOISE[step["i"]])
    x = sampler(model, torch.tensor(START) * SIGMAS[0], SIGMAS, callback=keep, disable=True, **arguments)
    TENSORS[f"k.{name}"] = np.stack([*states, x.numpy()])


k_case("euler", k_sampling.sample_euler)
k_case("euler_ancestral", k_sampling.sample_euler_ancestral, eta=0.5)
k_case("heun", k_sampling.sample_heun)
k_case("dpmpp_2m", k_sampling.sample_dpmpp_2m)
k_case("dpmpp_2m_sde", k_sampling.sample_dpmpp_2m_sde, eta=0.5, solver_type="midpoint")
TENSORS["k.sigmas"] = SIGMAS.numpy()

TENSORS["start"], TENSORS["noise"] = START, NOISE
meta = {
    "made_by": "tests/golden/samplers.py",
    "versions": f"diffusers {diffusers.__version__}, torchdiffeq {torchdiffeq.__version__}, "
    f"k-diffusion {importlib.metadata.version('k-diffusion')}, "
    f"torch {torch.__version__}, numpy {np.__version__}",
    "seed": str(SEED),
    "mixture": json.dumps(MIXTURE),
    "cases": json.dumps(CASES),
    "solves": json.dumps(SOLVES),
}
path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "samplers.safetensors")
save_file({k: np.ascontiguousarray(v) for k, v in TENSORS.items()}, path, meta)
print(len(CASES), "cases,", os.path.getsize(path), "bytes;", meta["versions"])
