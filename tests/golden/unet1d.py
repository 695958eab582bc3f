"""Golden file of LeRobot's DiffusionConditionalUnet1d: weights, inputs, outputs and gradients.

    python tests/golden/unet1d.py tests/golden/unet1d.safetensors

Three tiny random networks: `film` (scale and shift, three levels), `shift` (shift only, kernel 3,
two levels, other group count) and `flat` (one level: no down- and no up-sampling).
Per network N the file holds
    N/weight/KEY   state_dict, keys as below `diffusion.unet.` in a checkpoint
    N/x, N/t, N/cond, N/out, N/cotangent
    N/grad/KEY     d sum(out·cotangent) / d weight;  N/grad_x, N/grad_cond likewise
and the metadata holds each network's configuration as JSON, and the versions.
Written with lerobot 0.4.4 (Apache-2.0) and torch on the CPU, in float64, stored as float32
(weights and inputs are float32 values, so nothing is lost there).
"""

import importlib.metadata
import json
import sys
from types import SimpleNamespace

import torch
from lerobot.policies.diffusion.modeling_diffusion import DiffusionConditionalUnet1d
from safetensors.torch import save_file

NETWORKS = {
    "film": dict(action_dim=2, cond_dim=5, down_dims=[8, 8, 16], kernel_size=5, n_groups=4,
                 diffusion_step_embed_dim=8, use_film_scale_modulation=True),
    "shift": dict(action_dim=3, cond_dim=4, down_dims=[8, 4], kernel_size=3, n_groups=2,
                  diffusion_step_embed_dim=6, use_film_scale_modulation=False),
    "flat": dict(action_dim=1, cond_dim=2, down_dims=[8], kernel_size=3, n_groups=2,
                 diffusion_step_embed_dim=4, use_film_scale_modulation=True),
}
HORIZON = {"film": 16, "shift": 6, "flat": 5}


def network(name, cfg):
    config = SimpleNamespace(
        action_feature=SimpleNamespace(shape=(cfg["action_dim"],)),
        **{k: cfg[k] for k in ("down_dims", "kernel_size", "n_groups", "diffusion_step_embed_dim",
                               "use_film_scale_modulation")})
    net = DiffusionConditionalUnet1d(config, cfg["cond_dim"])
    for key, p in net.named_parameters():
        # Norm weights and biases are 1 and 0 after construction, which would hide mistakes.
        if p.ndim == 1:
            p.data += 0.2 * torch.randn_like(p)
    net = net.double()
    batch, horizon = 3, HORIZON[name]
    single = lambda *shape: torch.randn(*shape).float().double()
    x = single(batch, horizon, cfg["action_dim"]).requires_grad_()
    cond = single(batch, cfg["cond_dim"]).requires_grad_()
    t = torch.tensor([0.25, 7.0, 93.0], dtype=torch.float64)
    out = net(x, t, cond)
    cotangent = single(*out.shape)
    (out * cotangent).sum().backward()
    tensors = {"x": x, "t": t, "cond": cond, "out": out, "cotangent": cotangent,
               "grad_x": x.grad, "grad_cond": cond.grad}
    for key, p in net.named_parameters():
        tensors[f"weight/{key}"] = p
        tensors[f"grad/{key}"] = p.grad
    assert set(net.state_dict()) == {k for k, _ in net.named_parameters()}
    return {f"{name}/{k}": v.detach().float().contiguous() for k, v in tensors.items()}


def main(path):
    torch.manual_seed(20261124)
    tensors = {}
    for name, cfg in NETWORKS.items():
        tensors |= network(name, cfg)
    versions = {p: importlib.metadata.version(p) for p in ("lerobot", "torch")}
    metadata = {name: json.dumps(cfg) for name, cfg in NETWORKS.items()}
    save_file(tensors, path, metadata | {"versions": json.dumps(versions), "seed": "20261124"})
    print(len(tensors), "tensors", versions)


main(sys.argv[1])
