"""Golden file of training objectives: torchcfm's flow matchers, diffusers' DDPM training helpers,
and the terms of the variational bound by formulas written out here in numpy.

    python tests/golden/objectives.py tests/golden/objectives.safetensors

    cfm/DTYPE/{x0,x1,t,eps}      x0 is noise, x1 is data, torchcfm's time (noise at 0)
    cfm/DTYPE/NAME/{x_t,u_t}     icfm (sigma 0 and 0.1), target (sigma 0.1), sb (sigma 0.7), vp
    ddpm/{x0,eps,t}, ddpm/NAME/{alphas_cumprod,x_t,v,snr}
                                 diffusers' add_noise, get_velocity, training_utils.compute_snr, f32
    ddpm/NAME/weight_{epsilon,sample,v_prediction}
                                 min-SNR-5 weights as diffusers' training scripts compute them
    vlb/{betas,x0,eps,guess}     a table of 8 steps, 8-bit data, a made-up estimate x̂0 for each step
    vlb/KIND/{prior,terms}       nats, summed over the dimensions; KIND is fixed_small, fixed_large

The plan of SB-CFM is replaced by the identity: the pairs are given. f64 values are stored as f64.
Written with torchcfm 1.0.7 (MIT), diffusers 0.42.1 (Apache-2.0), torch, numpy, scipy on the CPU.
"""

import importlib.metadata
import sys

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from safetensors.torch import save_file
from scipy.stats import norm
from torchcfm.conditional_flow_matching import (
    ConditionalFlowMatcher,
    SchrodingerBridgeConditionalFlowMatcher,
    TargetConditionalFlowMatcher,
    VariancePreservingConditionalFlowMatcher,
)

SEED = 20261124
out = {}


def flow_matchers():
    generator = torch.Generator().manual_seed(SEED)
    shape = (7, 3, 2)
    draw = lambda: torch.randn(shape, generator=generator, dtype=torch.float32)
    x0, x1, eps = draw(), draw(), draw()
    t = torch.rand(shape[0], generator=generator, dtype=torch.float32) * 0.98 + 0.01
    for name, dtype in (("f32", torch.float32), ("f64", torch.float64)):
        a, b, e, s = (x.to(dtype) for x in (x0, x1, eps, t))
        for key, value in (("x0", a), ("x1", b), ("eps", e), ("t", s)):
            out[f"cfm/{name}/{key}"] = value.clone()
        sb = SchrodingerBridgeConditionalFlowMatcher(sigma=0.7)
        for kind, matcher in (
            ("icfm", ConditionalFlowMatcher(sigma=0.0)),
            ("icfm_sigma", ConditionalFlowMatcher(sigma=0.1)),
            ("target", TargetConditionalFlowMatcher(sigma=0.1)),
            ("sb", sb),
            ("vp", VariancePreservingConditionalFlowMatcher(sigma=0.0)),
            ("vp_sigma", VariancePreservingConditionalFlowMatcher(sigma=0.1)),
        ):
            x_t = matcher.sample_xt(a, b, s, e)
            out[f"cfm/{name}/{kind}/x_t"] = x_t
            out[f"cfm/{name}/{kind}/u_t"] = matcher.compute_conditional_flow(a, b, s, x_t)


def ddpm():
    generator = torch.Generator().manual_seed(SEED + 1)
    t = torch.tensor([0, 1, 17, 250, 500, 900, 998])
    x0 = torch.randn((len(t), 4), generator=generator)
    eps = torch.randn((len(t), 4), generator=generator)
    out.update({"ddpm/x0": x0, "ddpm/eps": eps, "ddpm/t": t})
    for name, config in (
        ("linear", dict(beta_start=1e-4, beta_end=0.02, beta_schedule="linear")),
        ("scaled_linear", dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")),
        ("squaredcos_cap_v2", dict(beta_schedule="squaredcos_cap_v2")),
    ):
        scheduler = DDPMScheduler(num_train_timesteps=1000, **config)
        snr = compute_snr(scheduler, t)
        low = torch.stack([snr, 5.0 * torch.ones_like(t)], dim=1).min(dim=1)[0]
        out.update({
            f"ddpm/{name}/x_t": scheduler.add_noise(x0, eps, t),
            f"ddpm/{name}/v": scheduler.get_velocity(x0, eps, t),
            f"ddpm/{name}/snr": snr,
            f"ddpm/{name}/weight_epsilon": low / snr,
            f"ddpm/{name}/weight_sample": low,
            f"ddpm/{name}/weight_v_prediction": low / (snr + 1),
        })


def bound():
    rng = np.random.default_rng(SEED + 2)
    betas = np.array([0.0004, 0.002, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4])
    n, shape = len(betas), (5, 6)
    x0 = rng.integers(0, 256, shape) / 127.5 - 1.0
    x0[0, :2] = (-1.0, 1.0)  # both open cells
    eps = rng.standard_normal((n, *shape))
    guess = x0[None] + 0.05 * rng.standard_normal((n, *shape))
    guess[0] = x0 + 0.01 * rng.standard_normal(shape)
    alphas = 1.0 - betas
    bar = np.cumprod(alphas)
    before = np.concatenate([[1.0], bar[:-1]])
    small = betas * (1.0 - before) / (1.0 - bar)
    kl = lambda m1, v1, m2, v2: 0.5 * (np.log(v2 / v1) + (v1 + (m1 - m2) ** 2) / v2 - 1.0)
    prior = kl(np.sqrt(bar[-1]) * x0, 1.0 - bar[-1], 0.0, 1.0).sum(-1)
    for kind, variance in (
        ("fixed_small", np.concatenate([[small[1]], small[1:]])),
        ("fixed_large", np.concatenate([[small[1]], betas[1:]])),
    ):
        terms = []
        for t in range(n):
            x_t = np.sqrt(bar[t]) * x0 + np.sqrt(1.0 - bar[t]) * eps[t]
            a = np.sqrt(before[t]) * betas[t] / (1.0 - bar[t])
            b = np.sqrt(alphas[t]) * (1.0 - before[t]) / (1.0 - bar[t])
            mean = a * guess[t] + b * x_t
            if t > 0:
                term = kl(a * x0 + b * x_t, small[t], mean, variance[t])
            else:
                s = np.sqrt(variance[0])
                high = np.where(x0 > 0.999, np.inf, x0 + 1.0 / 255.0)
                low = np.where(x0 < -0.999, -np.inf, x0 - 1.0 / 255.0)
                cell = norm.cdf((high - mean) / s) - norm.cdf((low - mean) / s)
                term = -np.log(np.maximum(cell, 1e-12))
            terms.append(term.sum(-1))
        out[f"vlb/{kind}/prior"] = torch.from_numpy(prior)
        out[f"vlb/{kind}/terms"] = torch.from_numpy(np.stack(terms))
    for key, value in (("betas", betas), ("x0", x0), ("eps", eps), ("guess", guess)):
        out[f"vlb/{key}"] = torch.from_numpy(value)


flow_matchers()
ddpm()
bound()
packages = ("torchcfm", "diffusers", "torch", "numpy", "scipy")
metadata = {name: importlib.metadata.version(name) for name in packages}
metadata["seed"] = str(SEED)
save_file({k: v.contiguous().clone() for k, v in out.items()}, sys.argv[1], metadata=metadata)
print({k: tuple(v.shape) for k, v in out.items()}, metadata)
