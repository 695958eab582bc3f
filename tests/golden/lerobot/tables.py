#!/usr/bin/env python3
"""diffusers' f32 tables of alphas_cumprod, as bits, thinned to 50 rows each.

    python tests/golden/lerobot/tables.py        (diffusers 0.35.2, torch 2.10.0; writes tables.json beside it)
"""
import json
import pathlib

import diffusers
import torch

result = {"diffusers": diffusers.__version__, "torch": torch.__version__, "tables": []}
for beta_schedule in ["linear", "scaled_linear", "sigmoid", "squaredcos_cap_v2"]:
    for steps in (50, 100, 1000):
        scheduler = diffusers.DDPMScheduler(
            num_train_timesteps=steps, beta_schedule=beta_schedule, beta_start=1e-4, beta_end=0.02)
        bits = scheduler.alphas_cumprod.view(torch.int32)[:: max(1, steps // 50)]
        result["tables"].append({"beta_schedule": beta_schedule, "num_train_timesteps": steps,
                                 "alphas_cumprod": [int(x) for x in bits]})
(pathlib.Path(__file__).parent / "tables.json").write_text(json.dumps(result) + "\n")
