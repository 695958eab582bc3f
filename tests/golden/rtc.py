"""Writes rtc.json: LeRobot's real-time chunking on a small network, and the same with the true derivative.

LeRobot 0.4.4 (PyPI), torch f64, CPU; no seed: the numbers come from sines. The network is
v = 2·tanh(x·M). `lerobot` is RTCProcessor.denoise_step (its correction is the error itself);
`vjp` is the paper's step (arXiv 2506.07339, noise at t = 0) by torch.autograd, its velocity negated
into LeRobot's direction.
"""

import json
import pathlib

import torch
from lerobot.configs.types import RTCAttentionSchedule
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.policies.rtc.modeling_rtc import RTCProcessor

torch.set_default_dtype(torch.float64)
HORIZON, DIM, DELAY, END = 12, 4, 3, 8


def wave(rows, columns, phase):
    i = torch.arange(rows * columns, dtype=torch.float64).reshape(rows, columns)
    return torch.sin(1.7 * i + phase)


matrix = wave(DIM, DIM, 0.3)
x = wave(HORIZON, DIM, 1.1)[None] * 1.5
prev = wave(HORIZON, DIM, 2.6)[None]
network = lambda x: 2 * torch.tanh(x @ matrix)

cases = []
for name in ("LINEAR", "EXP", "ONES", "ZEROS"):
    config = RTCConfig(
        prefix_attention_schedule=RTCAttentionSchedule[name], execution_horizon=END, max_guidance_weight=5.0
    )
    processor = RTCProcessor(config)
    weights = processor.get_prefix_weights(DELAY, END, HORIZON).to(torch.float64)
    for t in (1.0, 0.7, 0.4, 0.1):
        with torch.no_grad():
            out = processor.denoise_step(
                x_t=x, prev_chunk_left_over=prev, inference_delay=DELAY, time=torch.tensor(t),
                original_denoise_step_partial=network, execution_horizon=END,
            )
        # The paper: tau = 1 - t, u = -v, x1 = x + (1 - tau) u, u' = u + w g.
        tau = 1 - t
        state = x.clone().requires_grad_(True)
        u = -network(state)
        x1 = state + (1 - tau) * u
        error = (prev - x1).detach() * weights[None, :, None]
        (g,) = torch.autograd.grad(x1, state, error)
        r2 = (tau**2 + (1 - tau) ** 2) / (1 - tau) ** 2
        w = min((1 - tau) / tau * r2, 5.0) if tau > 0 else 5.0
        vjp = -(u.detach() + w * g)
        cases.append({
            "schedule": name, "t": t, "weights": weights.tolist(), "lerobot": out.flatten().tolist(),
            "vjp": vjp.flatten().tolist(),
        })

out = {"horizon": HORIZON, "dim": DIM, "delay": DELAY, "end": END, "beta": 5.0, "matrix": matrix.flatten().tolist(),
       "x": x.flatten().tolist(), "prev": prev.flatten().tolist(), "cases": cases}
pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(out))
