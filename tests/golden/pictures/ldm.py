#!/usr/bin/env python3
"""A tiny LDMPipeline with random weights: a UNet without condition over the latents of a VQModel.

    python tests/golden/pictures/ldm.py      (the packages of make.py)

Writes ldm/, in f16 files, and what diffusers makes of one noise with it, ldm.safetensors. Latent-diffusion's
own folders have the same parts; their pipeline is under `deprecated` in diffusers, and unchanged.
"""
import shutil
import sys

import torch
from diffusers import DDIMScheduler, LDMPipeline, UNet2DModel, VQModel
from safetensors.torch import save_file

from make import HERE, LATENT, SEED, SIZE, STEPS, numbers, randomise


def main():
    unet = randomise(UNet2DModel(sample_size=LATENT, in_channels=3, out_channels=3, block_out_channels=(4, 8),
                                 layers_per_block=1, norm_num_groups=2, attention_head_dim=4,
                                 down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                                 up_block_types=("AttnUpBlock2D", "UpBlock2D")), 11)
    vqvae = randomise(VQModel(sample_size=SIZE, block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=2,
                              latent_channels=3, num_vq_embeddings=16, scaling_factor=0.6,
                              down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2), 12)
    scheduler = DDIMScheduler(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False)
    pipe = LDMPipeline(vqvae=vqvae, unet=unet, scheduler=scheduler)
    shutil.rmtree(f"{HERE}/ldm", ignore_errors=True)
    pipe.to(dtype=torch.float16)
    pipe.save_pretrained(f"{HERE}/ldm", variant="fp16")
    parts = dict(unet=UNet2DModel, vqvae=VQModel)
    for part, cls in parts.items():
        again = cls.from_pretrained(f"{HERE}/ldm/{part}", variant="fp16").to(dtype=torch.float32).eval()
        setattr(pipe, part, again)
    pipe.set_progress_bar_config(disable=True)
    noise = numbers(torch.Generator().manual_seed(SEED + 2), 2, 3, LATENT, LATENT)
    sys.modules[LDMPipeline.__module__].randn_tensor = lambda *_, **__: noise.clone()
    image = pipe(batch_size=2, num_inference_steps=STEPS, output_type="np").images
    # Pictures of 0 to 1 there.
    image = torch.from_numpy(image).permute(0, 3, 1, 2) * 2 - 1
    save_file({"noise": noise, "image": image.contiguous()}, f"{HERE}/ldm.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
