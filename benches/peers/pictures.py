#!/usr/bin/env python3
"""Pathline beside diffusers on one Stable Diffusion folder: step, start to first picture, memory, the same picture.

    pip install diffusers==0.42.1 transformers==5.24.0 torch==2.15.0      (CPU builds)
    python benches/peers/pictures.py BINARY [--model DIR] [--threads 2] [--repeat 5] [--steps 20]
                                            [--small] [--keep DIR] [--json FILE]

Without --model a folder is made on the spot: Stable Diffusion 1's architecture with a UNet of 64 to 256
channels and 32×32 latents (256×256 pixels), random weights, saved by diffusers. With --model any
StableDiffusionPipeline folder that diffusers can read, or policies/emoji-flow: diffusers has no pipeline for flows
over latents with a text encoder alone, so its components are put together here. One picture; DDIM, or Euler on a
flow; guidance 7.5 with a negative prompt (the network sees two samples a step). Every row is a fresh process
with the files in the page cache and as many threads for each program; the programs take turns, --repeat
times, and medians count:
    first    process start to the finished PNG: import, loading, all steps, decoding, writing
    load     process start until the first step may begin
    step     one step of the sampler with its network evaluation: median of a run
    peak     largest resident memory, from wait4
The last line compares the pictures of one noise, of −1 to 1. This process imports nothing heavy: a child's
peak memory would start with its parent's.
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
PROMPT, NEGATIVE, SCALE = "red apple with smiling eyes", "blue circle", 7.5


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
    out, seconds, peak = run([sys.executable, __file__, "--inside", role, *args], threads)
    return json.loads(out.strip().splitlines()[-1]) | {"first_secs": seconds, "peak_mib": peak}


def is_flow(folder):
    return json.loads((Path(folder) / "model_index.json").read_text())["_class_name"] == "PathlinePipeline"


def pathline(folder, work, options, *more):
    method = "euler" if is_flow(folder) else "ddim"
    command = [options.binary, "sample", "--model", folder, "--prompt", PROMPT, "--negative-prompt", NEGATIVE,
               "--cfg-scale", SCALE, "--sampling-method", method, "--steps", options.steps, "--seed", SEED,
               "--threads", options.threads, "--json", "--output", work / "pathline.png", *more]
    out, seconds, peak = run(command, options.threads)
    report = json.loads(out)
    return {"first_secs": seconds, "load_secs": report["load_s"], "step_secs": report["step_s"], "peak_mib": peak}


ROWS = [("first_secs", "first s", 1), ("load_secs", "load s", 1), ("step_secs", "step ms", 1e3), ("peak_mib", "peak MiB", 1)]
HEADER = f"{'program':10}" + "".join(f"{title:>10}" for _, title, _ in ROWS)


def line(name, row):
    return f"{name:10}" + "".join(f"{scale * row[key]:10.{0 if scale == 1 and row[key] > 99 else 2}f}"
                                  for key, _, scale in ROWS)


def main(options):
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(options.keep or temporary)
        work.mkdir(parents=True, exist_ok=True)
        folder = Path(options.model or work / "model")
        about = inside("prepare", work, folder, "given" if options.model else options.small and "small" or "full",
                       threads=options.threads)
        print(f"{about['parameters']:,} parameters, {about['latents']} latents; {about['versions']}; {options.steps}"
              f" steps, {options.threads} threads, load {os.getloadavg()[0]:.1f}")
        runs = {"diffusers": [], "pathline": []}
        for _ in range(options.repeat):
            runs["diffusers"].append(inside("measure", folder, work, options.steps, threads=options.threads))
            runs["pathline"].append(pathline(folder, work, options))
        medians = {name: {key: statistics.median(r[key] for r in rows) for key, _, _ in ROWS}
                   for name, rows in runs.items()}
        print(HEADER)
        for name, row in medians.items():
            print(line(name, row))
        ratios = {key: medians["diffusers"][key] / medians["pathline"][key] for key, _, _ in ROWS}
        print(f"{'ratio':10}" + "".join(f"{ratios[key]:9.2f}x" for key, _, _ in ROWS))
        pathline(folder, work, options, "--latents", work / "noise.safetensors",
                 "--save-latents", work / "pathline.safetensors")
        apart = inside("compare", folder, work, options.steps, threads=options.threads)
        print(f"pictures of one noise: largest difference {apart['image']:.1e}, latents {apart['latents']:.1e}")
        result = {"about": about, "threads": options.threads, "steps": options.steps, "runs": runs,
                  "medians": medians, "ratios": ratios, "apart": apart}
        if options.json:
            Path(options.json).write_text(json.dumps(result, indent=1))


# In fresh processes -------------------------------------------------------------------------------

def prepare(work, folder, size):
    """The folder, unless it was given, and a noise."""
    import diffusers
    import torch
    import transformers
    from safetensors.torch import save_file

    if size != "given":
        make(folder, small=size == "small")
    peer = Peer(folder)
    config = peer.unet.config
    noise = torch.randn((1, config.in_channels, *[config.sample_size] * 2),
                        generator=torch.Generator().manual_seed(SEED))
    save_file({"latents": noise}, Path(work) / "noise.safetensors")
    parts = peer.unet, peer.vae, peer.text_encoder
    versions = ", ".join(f"{m.__name__} {m.__version__}" for m in (diffusers, transformers, torch))
    return {"parameters": sum(p.numel() for part in parts for p in part.parameters()),
            "latents": list(noise.shape), "versions": versions}


def make(folder, small):
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(SEED)
    tokenizer = CLIPTokenizer.from_pretrained(HERE.parents[1] / "tests/golden/pictures/sd1/tokenizer")
    width = 8 if small else 64
    text = CLIPTextConfig(vocab_size=len(tokenizer), hidden_size=4 * width, intermediate_size=16 * width,
                          num_hidden_layers=2 if small else 6, num_attention_heads=4,
                          max_position_embeddings=tokenizer.model_max_length,
                          bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    unet = UNet2DConditionModel(
        sample_size=8 if small else 32, block_out_channels=(width, 2 * width, 4 * width), layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=4 * width, attention_head_dim=8, norm_num_groups=8)
    levels = (width // 2, width, 2 * width, 2 * width)
    vae = AutoencoderKL(block_out_channels=levels, down_block_types=("DownEncoderBlock2D",) * 4,
                        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, norm_num_groups=4,
                        sample_size=64 if small else 256)
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                              set_alpha_to_one=False, steps_offset=1)
    StableDiffusionPipeline(unet=unet, vae=vae, text_encoder=CLIPTextModel(text), tokenizer=tokenizer,
                            scheduler=scheduler, safety_checker=None, feature_extractor=None,
                            requires_safety_checker=False).save_pretrained(folder)


class Peer:
    """A folder in diffusers, ready to draw."""

    def __init__(self, folder):
        if is_flow(folder):
            from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, UNet2DConditionModel
            from transformers import CLIPTextModel, CLIPTokenizer

            self.pipe = None
            self.tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
            # As Pathline does: halves in the file, f32 in the computation.
            half = os.path.exists(os.path.join(folder, "unet", "diffusion_pytorch_model.fp16.safetensors"))
            load = lambda cls, part: cls.from_pretrained(folder, subfolder=part, variant="fp16" if half else None).float()
            self.text_encoder = load(CLIPTextModel, "text_encoder")
            self.unet = load(UNet2DConditionModel, "unet")
            self.vae = load(AutoencoderKL, "vae")
            self.scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(folder, subfolder="scheduler")
        else:
            from diffusers import DDIMScheduler, StableDiffusionPipeline

            self.pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
            self.pipe.scheduler = DDIMScheduler.from_config(self.pipe.scheduler.config)
            self.pipe.set_progress_bar_config(disable=True)
            self.unet, self.vae, self.text_encoder = self.pipe.unet, self.pipe.vae, self.pipe.text_encoder

    def latents(self, steps, noise, after_step=lambda: None):
        import torch

        if self.pipe:
            def ended(_pipe, _step, _t, values):
                after_step()
                return values

            return self.pipe(PROMPT, negative_prompt=NEGATIVE, guidance_scale=SCALE, num_inference_steps=steps,
                             latents=noise, output_type="latent", callback_on_step_end=ended).images
        with torch.no_grad():
            words = self.tokenizer([NEGATIVE, PROMPT], padding="max_length", truncation=True, return_tensors="pt")
            tokens = self.text_encoder(words.input_ids).last_hidden_state
            # The folder's `uniform` schedule; diffusers' own ends a thousandth above 0.
            self.scheduler.set_timesteps(sigmas=[1 - i / steps for i in range(steps)])
            for t in self.scheduler.timesteps:
                negative, asked = self.unet(torch.cat([noise] * 2), t, encoder_hidden_states=tokens).sample.chunk(2)
                velocity = negative + SCALE * (asked - negative)
                noise = self.scheduler.step(velocity, t, noise).prev_sample
                after_step()
            return noise

    def decode(self, latents):
        import torch

        config = self.vae.config
        with torch.no_grad():
            return self.vae.decode(latents / config.scaling_factor + (config.shift_factor or 0)).sample


def begin(folder, work):
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(int(os.environ["THREADS"]))
    return Peer(folder), load_file(Path(work) / "noise.safetensors")["latents"]


def measure(folder, work, steps):
    """What a user of diffusers does."""
    started = float(os.environ["STARTED"])
    peer, noise = begin(folder, work)
    from diffusers.image_processor import VaeImageProcessor

    loaded, times = time.monotonic(), []
    image = peer.decode(peer.latents(int(steps), noise, lambda: times.append(time.monotonic())))
    VaeImageProcessor().postprocess(image)[0].save(Path(work) / "diffusers.png")
    each = [b - a for a, b in zip(times, times[1:])]
    return {"load_secs": loaded - started, "step_secs": statistics.median(each)}


def compare(folder, work, steps):
    import torch
    from safetensors.torch import load_file

    peer, noise = begin(folder, work)
    latents = peer.latents(int(steps), noise)
    theirs = {"latents": latents, "image": peer.decode(latents).clamp(-1, 1)}
    ours = load_file(Path(work) / "pathline.safetensors")
    apart = {}
    for key, value in theirs.items():
        assert ours[key].shape == value.shape and torch.isfinite(value).all(), (key, ours[key].shape, value.shape)
        apart[key] = float((ours[key] - value).abs().max() / value.abs().max())
    return apart


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        role, *args = sys.argv[2:]
        print("\n" + json.dumps({"prepare": prepare, "measure": measure, "compare": compare}[role](*args)))
        sys.exit()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", help="path of pathline")
    parser.add_argument("--model", help="a folder that is there; else one is made")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5, help="fresh processes of each; the median counts")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--small", action="store_true", help="a small model, to try the script")
    parser.add_argument("--keep", help="a folder for model and files; else a temporary one")
    parser.add_argument("--json", help="write the result here")
    main(parser.parse_args())
