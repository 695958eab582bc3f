"""Golden file of the training pieces: AdamW, moving average, learning-rate schedules.

    python tests/golden/training.py tests/golden/training.json

Written with torch 2.15.0 (torch.optim.AdamW, clip_grad_norm_, clip_grad_value_) and diffusers 0.42.1
(training_utils.EMAModel, optimization.get_scheduler) on the CPU, in float64. Seed 0.
"""

import json
import sys
import warnings

import diffusers
import torch
from diffusers.optimization import get_cosine_schedule_with_warmup, get_scheduler
from diffusers.training_utils import EMAModel

warnings.filterwarnings("ignore")
torch.manual_seed(0)
STEPS = 20


def single(*shape):
    return torch.randn(*shape).float().double()


def flat(x):
    return [float(v) for v in x.detach().flatten()]


def adamw(clip_norm=None, clip_value=None):
    """A matrix with decay and a vector without; gradients of very different size."""
    w, b = torch.nn.Parameter(single(3, 2)), torch.nn.Parameter(single(3))
    first = {"w": flat(w), "b": flat(b)}
    groups = [{"params": [w], "weight_decay": 0.1}, {"params": [b], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95), eps=1e-8)
    steps = []
    for i in range(STEPS):
        w.grad, b.grad = single(3, 2) * 10.0 ** (-(i % 4)), single(3)
        grads = {"w": flat(w.grad), "b": flat(b.grad)}
        norm = float(torch.nn.utils.get_total_norm([w.grad, b.grad]))
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_([w, b], clip_norm)
        if clip_value is not None:
            torch.nn.utils.clip_grad_value_([w, b], clip_value)
        lr = 0.01 * (1 + i % 3)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        steps.append({"grads": grads, "norm": norm, "lr": lr, "w": flat(w), "b": flat(b)})
    return {"start": first, "steps": steps}


def ema(**kwargs):
    p = torch.nn.Parameter(single(4))
    model = EMAModel([p], **kwargs)
    model.shadow_params = [s.double() for s in model.shadow_params]
    start, steps = flat(p), []
    for _ in range(STEPS):
        p.data = p.data + 0.1 * single(4)
        model.step([p])
        steps.append({"weights": flat(p), "decay": float(model.cur_decay_value),
                      "ema": flat(model.shadow_params[0])})
    return {"start": start, "steps": steps}


def schedule(name, total, warmup, **kwargs):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    steps = dict(num_warmup_steps=warmup, num_training_steps=total)
    # get_scheduler drops the cycles of a plain cosine without a word.
    scheduler = (get_cosine_schedule_with_warmup(optimizer, **steps, **kwargs) if kwargs
                 else get_scheduler(name, optimizer, **steps))
    lrs = []
    for _ in range(total + 3):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return {"name": name, "total": total, "warmup": warmup, "lr": lrs, **kwargs}


golden = {
    "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
    "adamw": {
        "plain": adamw(),
        "norm": adamw(clip_norm=0.7),
        "value": adamw(clip_value=0.3),
    },
    "ema": {
        "ratio": ema(decay=0.5),
        "late": ema(decay=0.9, update_after_step=5, min_decay=0.25),
        "power": ema(decay=0.9999, use_ema_warmup=True, inv_gamma=2.0, power=0.75),
    },
    "schedules": [
        schedule("constant", 20, 0),
        schedule("constant_with_warmup", 20, 6),
        schedule("linear", 30, 6),
        schedule("linear", 30, 0),
        schedule("cosine", 30, 6),
        schedule("cosine", 30, 0, num_cycles=1),
    ],
}
with open(sys.argv[1], "w") as out:
    json.dump(golden, out)
    out.write("\n")
