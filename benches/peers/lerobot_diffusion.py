#!/usr/bin/env python3
"""Pathline beside LeRobot on the full-size Diffusion Policy: start, chunk, step, memory, and the same actions.

    pip install lerobot==0.4.4
    python benches/peers/lerobot_diffusion.py BINARY [--threads 2] [--chunks 3] [--repeat 1]
                                              [--small] [--keep DIR] [--json FILE]

The default of LeRobot 0.4.4 (262,709,026 parameters: one camera 3×96×96, state 2, action 2), random weights
made on the spot and saved by LeRobot with its processors, once as DDPM with 100 steps and once as DDIM with 10.
Every row is a fresh process with the files in the page cache and as many threads for each program:
    first    process start to first action: LeRobot import + from_pretrained + select_action;
             `pathline infer --example`, its whole run
    load     LeRobot: import and from_pretrained. Pathline: a run with one step, less that step
    chunk    LeRobot: select_action with an empty queue, median. Pathline: steps × step
    step     LeRobot: the UNet's call, median. Pathline: (run with all steps − run with one)/(steps − 1)
    peak     largest resident memory, from wait4
Pathline's step is the difference of two runs: the machine must be quiet (--repeat takes medians).
The last lines compare the actions on one observation and one noise. This process imports nothing heavy: a
child's peak memory would start with its parent's.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SEED = 11
SAMPLERS = {"DDPM": 100, "DDIM": 10}


# In this process ----------------------------------------------------------------------------------

def run(command, threads):
    """stdout, seconds and peak MiB of a process."""
    pinned = {name: str(threads) for name in
              ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")}
    environment = os.environ | pinned | {"HF_HUB_OFFLINE": "1", "THREADS": str(threads)}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.monotonic()
        child = subprocess.Popen([str(c) for c in command], stdout=out, stderr=err,
                                 env=environment | {"STARTED": repr(start)})
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.monotonic() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), err.seek(0)
        if child.returncode:
            sys.exit(f"{' '.join(map(str, command))}\nended with {child.returncode}:\n{err.read()[-3000:]}")
        return out.read(), seconds, usage.ru_maxrss / 1024


def inside(role, *args, threads):
    """Another process of this script; its last line is JSON."""
    out, _, peak = run([sys.executable, __file__, "--inside", role, *args], threads)
    return json.loads(out.strip().splitlines()[-1]) | {"peak_mib": peak}


def lerobot(folder, options):
    runs = [inside("measure", folder, options.chunks, threads=options.threads) for _ in range(options.repeat)]
    return {key: statistics.median(r[key] for r in runs) for key in runs[0]}


def pathline(folder, steps, work, options):
    infer = [options.binary, "infer", "--policy", folder, "--example", "--out", work / "example.safetensors"]
    full = [run(infer, options.threads)[1:] for _ in range(options.repeat)]
    one = [run([*infer, "--steps", 1], options.threads)[1] for _ in range(options.repeat)]
    first, single = statistics.median(s for s, _ in full), statistics.median(one)
    step = (first - single) / (steps - 1)
    return {"first_secs": first, "load_secs": single - step, "chunk_secs": steps * step, "step_secs": step,
            "peak_mib": statistics.median(peak for _, peak in full)}


HEADER = f"{'program':10} {'sampler':9} {'first s':>9} {'load s':>9} {'chunk s':>9} {'step ms':>9} {'peak MiB':>9}"


def line(row):
    return (f"{row['program']:10} {row['sampler']:9} {row['first_secs']:9.3f} {row['load_secs']:9.3f}"
            f" {row['chunk_secs']:9.3f} {1e3 * row['step_secs']:9.2f} {row['peak_mib']:9.0f}")


def main(options):
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(options.keep or temporary)
        work.mkdir(parents=True, exist_ok=True)
        about = inside("make", work, "small" if options.small else "full", threads=options.threads)
        print(f"{about['parameters']:,} parameters, {about['bytes'] / 1e6:.0f} MB; {about['versions']};"
              f" {options.threads} threads, load {os.getloadavg()[0]:.1f}")
        print(HEADER, flush=True)
        rows, differences = [], {}
        for name, steps in SAMPLERS.items():
            folder, sampler = work / name, f"{name} {steps}"
            rows.append({"program": "lerobot", "sampler": sampler} | lerobot(folder, options))
            print(line(rows[-1]), flush=True)
            rows.append({"program": "pathline", "sampler": sampler} | pathline(folder, steps, work, options))
            print(line(rows[-1]), flush=True)
            noise = work / f"{name}-noise.safetensors"
            run([options.binary, "infer", "--policy", folder, "--observation", work / "obs.safetensors",
                 "--noise", noise, "--out", work / f"{name}-pathline.safetensors"], options.threads)
            differences[sampler] = inside("compare", work, name, threads=options.threads)
        for sampler, d in differences.items():
            print(f"{sampler}: largest difference {d['action']:.1e} in robot units, {d['relative']:.1e} of the"
                  f" action range, {d['normalized']:.1e} normalised")
        result = {"about": about, "threads": options.threads, "rows": rows, "differences": differences}
        if options.json:
            Path(options.json).write_text(json.dumps(result, indent=1))
        else:
            print(json.dumps(result))


# In fresh processes -------------------------------------------------------------------------------

def prepare():
    import torch

    torch.set_num_threads(int(os.environ["THREADS"]))
    sys.path.insert(0, str(HERE.parents[1] / "tests/golden/lerobot"))
    return torch


def make(work, size):
    """Both folders (one model file), an observation and its noises."""
    torch = prepare()
    import numpy as np
    import reference
    from safetensors.torch import save_file

    work = Path(work)
    case = {"inputs": {"observation.image": [3, 96, 96], "observation.state": [2]}, "action": 2}
    if size == "small":
        case |= {"down_dims": [32, 64, 64]}
    policy = reference.Reference(case, SEED, salt=None)
    policy.save(work / "DDPM", formula_weights=False)
    model = work / "DDPM/model.safetensors"
    (work / "DDIM").mkdir(exist_ok=True)
    for file in (work / "DDPM").iterdir():
        copy = work / "DDIM" / file.name
        copy.unlink(missing_ok=True)
        os.link(file, copy) if file == model else copy.write_bytes(file.read_bytes())
    config = json.loads((work / "DDIM/config.json").read_text())
    config |= {"noise_scheduler_type": "DDIM", "num_inference_steps": SAMPLERS["DDIM"]}
    (work / "DDIM/config.json").write_text(json.dumps(config, indent=4))
    save_file(policy.raw, work / "obs.safetensors")
    rng = np.random.default_rng(SEED)
    for name in SAMPLERS:
        noise, step_noise = policy.noise, None
        if name == "DDPM":
            step_noise = torch.from_numpy(
                rng.standard_normal((SAMPLERS[name], *noise.shape)).astype("float32"))
        tensors = {"noise": noise} | ({} if step_noise is None else {"step_noise": step_noise})
        save_file(tensors, work / f"{name}-noise.safetensors")
    parameters = sum(p.numel() for p in policy.policy.parameters())
    return {"parameters": parameters, "bytes": model.stat().st_size, "versions": reference.versions()}


def measure(folder, chunks):
    """What a user of LeRobot does: no other import than LeRobot's own."""
    started = float(os.environ["STARTED"])
    import torch

    torch.set_num_threads(int(os.environ["THREADS"]))
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
    from lerobot.policies.factory import make_pre_post_processors

    imported = time.monotonic()
    policy = DiffusionPolicy.from_pretrained(folder)
    pre, post = make_pre_post_processors(policy.config, pretrained_path=folder)
    loaded = time.monotonic()
    observation = lambda: {"observation.image": torch.full((3, 96, 96), 128 / 255),
                           "observation.state": torch.zeros(2)}
    action = lambda: post(policy.select_action(pre(observation())))
    action()
    first = time.monotonic()
    begun, steps, times = [], [], []
    policy.diffusion.unet.register_forward_pre_hook(lambda *_: begun.append(time.monotonic()))
    policy.diffusion.unet.register_forward_hook(lambda *_: steps.append(time.monotonic() - begun[-1]))
    for _ in range(int(chunks)):
        policy.reset()
        start = time.monotonic()
        action()
        times.append(time.monotonic() - start)
    return {"first_secs": first - started, "load_secs": loaded - started, "import_secs": imported - started,
            "chunk_secs": statistics.median(times), "step_secs": statistics.median(steps)}


def compare(work, name):
    prepare()
    import reference
    import torch
    from safetensors.torch import load_file

    work = Path(work)
    policy = reference.Reference.load(work / name)
    noise = load_file(work / f"{name}-noise.safetensors")
    raw = load_file(work / "obs.safetensors")
    ours = load_file(work / f"{name}-pathline.safetensors")
    theirs = policy.chunk(raw, noise["noise"], noise.get("step_noise"))
    assert ours["action"].shape == theirs["action"].shape, (ours["action"].shape, theirs["action"].shape)
    apart = (ours["action"] - theirs["action"]).abs()
    assert torch.isfinite(apart).all()
    return {"action": float(apart.max()), "relative": float((apart / policy.action_range()).max()),
            "normalized": float((ours["action_normalized"] - theirs["action_normalized"]).abs().max())}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        role, *args = sys.argv[2:]
        print("\n" + json.dumps({"make": make, "measure": measure, "compare": compare}[role](*args)))
        sys.exit()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", help="path of pathline")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--chunks", type=int, default=3, help="warm chunks of LeRobot")
    parser.add_argument("--repeat", type=int, default=1, help="fresh processes; the median counts")
    parser.add_argument("--small", action="store_true", help="a small UNet, to try the script")
    parser.add_argument("--keep", help="a folder for the policies and files; else a temporary one")
    parser.add_argument("--json", help="write the result here instead of stdout")
    main(parser.parse_args())
