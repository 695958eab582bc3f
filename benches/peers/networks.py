#!/usr/bin/env python3
"""Pathline beside PyTorch (eager, compiled) and ONNX Runtime on the shipped policies' networks.

    pip install lerobot==0.4.4 onnxruntime onnx onnxscript        (brings torch 2.10)
    cargo build --release && cargo bench --no-run --bench networks
    python benches/peers/networks.py target/release/pathline [--threads 2] [--repeat 3] [--json FILE]

    chunk      pusht-flow: its MLP of 448, encoder and 8 Euler evaluations, one observation. Pathline's row has
               normalisation and features in it, PyTorch's has only the network
    step       pusht-diffusion: one call of its UNet (LeRobot's class, these sizes), one chunk
    train      the same UNet, 64 chunks: forward, mean square, backward

The programs take turns, --repeat times, each in a process of its own with as many threads; medians of a run, and
of the runs. `compiled` is torch.compile; `onnx` is ONNX Runtime on an export of the eager network. The weights of
the MLP are the shipped ones; those of the UNet are new, which costs the same.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EVALUATIONS = 8


def main(options):
    rows = {}
    for _ in range(options.repeat):
        for name, values in [("pathline", ours(options)), ("peers", peers(options))]:
            del name
            for key, value in values.items():
                rows.setdefault(key, []).append(value)
    medians = {key: statistics.median(values) for key, values in rows.items()}
    print(f"{'work':8}{'program':>12}{'ms':>10}{'pathline/it':>13}")
    for key, value in medians.items():
        work, program = key.split("/")
        print(f"{work:8}{program:>12}{value:10.3f}{medians[work + '/pathline'] / value:13.2f}")
    if options.json:
        Path(options.json).write_text(json.dumps({"medians": medians, "runs": rows}, indent=1))


def environment(options):
    return os.environ | {name: str(options.threads) for name in
                         ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "THREADS")}


def ours(options):
    def bench(policy):
        command = [options.binary, "bench", "--policy", str(ROOT / "policies" / policy), "--json"]
        return json.loads(subprocess.check_output(command, env=environment(options)))

    chunk = next(row["p50"] for row in bench("pusht-flow")["chunk_ms"] if row["nfe"] == EVALUATIONS)
    step = next(row["ms"] for row in bench("pusht-diffusion")["stages"] if row["name"] == "evaluation")
    command = ["cargo", "bench", "--bench", "networks", "--", "training/unet1d_shipped"]
    subprocess.run(command, cwd=ROOT, env=environment(options), check=True, capture_output=True)
    estimate = ROOT / "target/criterion/training/unet1d_shipped/64x16_f32_cpu/new/estimates.json"
    train = json.loads(estimate.read_text())["median"]["point_estimate"] / 1e6
    return {"chunk/pathline": chunk, "step/pathline": step, "train/pathline": train}


def peers(options):
    command = [sys.executable, __file__, options.binary, "--inside"]
    out = subprocess.check_output(command, env=environment(options), text=True)
    return json.loads(out.strip().splitlines()[-1])


# In a fresh process -------------------------------------------------------------------------------

def median_ms(run, seconds=2.0):
    for _ in range(10):
        run()
    times, begin = [], time.perf_counter()
    while time.perf_counter() - begin < seconds or len(times) < 5:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def inside():
    import math
    import tempfile

    import torch
    from safetensors.torch import load_file
    from torch import nn

    torch.set_num_threads(int(os.environ["THREADS"]))
    weights = load_file(ROOT / "policies/pusht-flow/model.safetensors")
    width = weights["time.weight"].shape[0]

    class Mlp(nn.Module):
        """src/nn/mlp.rs, read as PyTorch."""

        def __init__(self):
            super().__init__()
            linear = lambda key: nn.Linear(*reversed(weights[key + ".weight"].shape), bias=key + ".bias" in weights)
            norm = lambda: nn.LayerNorm(width)
            self.encoder = nn.ModuleList([linear("encoder.0"), linear("encoder.1")])
            self.time, self.input, self.norm, self.output = linear("time"), linear("input"), norm(), linear("output")
            count = 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("blocks."))
            self.blocks = nn.ModuleList([nn.ModuleDict({
                "norm": norm(), **{part: linear(f"blocks.{i}.{part}") for part in ("up", "context", "down")},
            }) for i in range(count)])
            half = weights["time.weight"].shape[1] // 2
            periods = 0.05 * 80 ** (torch.arange(half) / (half - 1))
            self.register_buffer("omega", 2 * math.pi / periods, persistent=False)
            self.load_state_dict(weights)

        def forward(self, features, x):
            context = self.encoder[1](nn.functional.silu(self.encoder[0](features)))
            for step in range(EVALUATIONS):
                angle = (1 - step / EVALUATIONS) * self.omega
                time = torch.cat([angle.sin(), angle.cos()])[None]
                condition = nn.functional.silu(context + self.time(time))
                h = self.input(x)
                for block in self.blocks:
                    up = block["up"](block["norm"](h)) + block["context"](condition)
                    h = h + block["down"](nn.functional.silu(up))
                x = x - self.output(self.norm(h)) / EVALUATIONS
            return x

    result = {}
    net = Mlp().eval()
    inputs = torch.randn(1, weights["encoder.0.weight"].shape[1]), torch.randn(1, weights["input.weight"].shape[1])
    with torch.inference_mode():
        eager = net(*inputs)
        result["chunk/eager"] = median_ms(lambda: net(*inputs))
        try:
            compiled = torch.compile(net)
            assert torch.allclose(compiled(*inputs), eager, atol=1e-4)
            result["chunk/compiled"] = median_ms(lambda: compiled(*inputs))
        except Exception as error:
            print(f"torch.compile: {error}", file=sys.stderr)
    try:
        import onnxruntime

        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "net.onnx")
            torch.onnx.export(net, inputs, file, input_names=["features", "x"], dynamo=False)
            settings = onnxruntime.SessionOptions()
            settings.intra_op_num_threads = int(os.environ["THREADS"])
            session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
            feed = {"features": inputs[0].numpy(), "x": inputs[1].numpy()}
            assert abs(session.run(None, feed)[0] - eager.numpy()).max() < 1e-4
            result["chunk/onnx"] = median_ms(lambda: session.run(None, feed))
    except Exception as error:
        print(f"ONNX Runtime: {error}", file=sys.stderr)

    from types import SimpleNamespace

    from lerobot.policies.diffusion.modeling_diffusion import DiffusionConditionalUnet1d

    shipped = json.loads((ROOT / "policies/pusht-diffusion/config.json").read_text())
    keys = ("down_dims", "kernel_size", "n_groups", "diffusion_step_embed_dim", "use_film_scale_modulation")
    config = SimpleNamespace(**{key: shipped[key] for key in keys}, action_feature=SimpleNamespace(shape=(2,)))
    unet = DiffusionConditionalUnet1d(config, global_cond_dim=36)
    sample = lambda batch: (torch.randn(batch, 16, 2), torch.randint(0, 100, (batch,)), torch.randn(batch, 36))
    one, many = sample(1), sample(64)
    with torch.inference_mode():
        result["step/eager"] = median_ms(lambda: unet(*one))

    def train():
        unet.zero_grad()
        unet(*many).square().mean().backward()

    result["train/eager"] = median_ms(train)
    print("\n" + json.dumps(result))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", help="path of pathline")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3, help="turns; the median counts")
    parser.add_argument("--json", help="write the result here")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    inside() if options.inside else main(options)
