#!/usr/bin/env python3
"""The Euler case of make.py whose table ends without signal, once more in f64: who loses digits there?

    python tests/golden/pictures/zero_snr.py      (the packages of make.py; reads the folder sd2)

diffusers keeps the state x = x0 + sigma·noise in f32, with sigma = 4096 at first, and its scheduler casts to
f32 whatever it is given. Here the same scheduler's times and sigmas are walked by Euler's formula in f64, with
the same networks in f64. Writes zero_snr.safetensors: latents and picture, rounded to f32 at the end.
"""
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from make import HERE, NEGATIVE, NOISE, PROMPT, SCHEDULERS, STEPS


def main():
    CLIPTextModel.text_model = property(lambda self: self)
    pipe = StableDiffusionPipeline.from_pretrained(f"{HERE}/sd2", variant="fp16", torch_dtype=torch.float32)
    # Buffers that are in no file are made anew in f64 where they matter: the networks hold parameters only.
    pipe.to(dtype=torch.float64)
    base = DDIMScheduler.from_pretrained(f"{HERE}/sd2/scheduler")
    scheduler = EulerDiscreteScheduler.from_config(base.config, **SCHEDULERS["euler_zero"][1])
    scheduler.set_timesteps(STEPS)
    text, negative = pipe.encode_prompt(PROMPT, "cpu", 1, True, NEGATIVE)
    both, sigmas = torch.cat([negative, text]), scheduler.sigmas.double()
    x = NOISE[:1].double() * float(scheduler.init_noise_sigma)
    with torch.no_grad():
        for i, t in enumerate(scheduler.timesteps):
            sigma = sigmas[i]
            seen = x / (sigma**2 + 1).sqrt()
            u, c = pipe.unet(torch.cat([seen, seen]), t.double(), encoder_hidden_states=both).sample.chunk(2)
            v = u + 7.5 * (c - u)
            x0 = v * (-sigma / (sigma**2 + 1).sqrt()) + x / (sigma**2 + 1)
            x = x + (x - x0) / sigma * (sigmas[i + 1] - sigma)
        image = pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample.clamp(-1, 1)
    theirs = load_file(f"{HERE}/pipelines.safetensors")
    for name, exact in dict(latents=x, image=image).items():
        gap = (theirs[f"sd2.euler_zero.{name}"].double() - exact).abs().max() / exact.abs().max()
        print(f"diffusers in f32 beside f64, {name}: {gap:.1e}")
    save_file({"latents": x.float(), "image": image.float()}, f"{HERE}/zero_snr.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
