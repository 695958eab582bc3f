#!/usr/bin/env python3
"""Tiny Stable Diffusion folders with random weights, and what diffusers makes of them.

    python tests/golden/pictures/make.py      (diffusers 0.42.1, transformers 5.24.0, torch 2.15.0)

sd1: as Stable Diffusion 1 (quick_gelu, convolutions around attention, PNDM, epsilon), in f32; its
tokenizer is the one that tests/clip.rs trained and wrote to tokenizer/. sd2: as Stable Diffusion 2
(gelu, linear layers around attention, heads by level, DDIM, v_prediction, padding "!"), in f16 files of
variant fp16, and a tokenizer.json. inpaint: a UNet of 9 channels, which goes with the rest of sd1.

All noise is recorded: a test gives it to the sampler. `randn_tensor` is replaced, in the pipelines and
in the schedulers, by a function that hands out recorded numbers; `retrieve_latents` samples the
autoencoder's posterior with `encoder_noise`.
"""
import json
import os
import shutil
import sys

import diffusers
import numpy as np
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

SEED = 20261124
HERE = os.path.dirname(os.path.abspath(__file__))
STEPS, BATCH, LATENT, SIZE = 5, 3, 8, 16
PROMPTS = [
    "",
    "red apple",
    "A RED  apple!",
    "grinning face with big eyes",
    "woman firefighter: medium-dark skin tone, man firefighter: light skin tone, it's 10 o'clock",
    "naïve café — ココ “here” 🍎",
    "<|startoftext|>red<|endoftext|> heart",
    "don't we'll they're 1234 a-b_c",
    "\ttabs\nand   spaces ",
    "e\u0301 ﬁ Ω İ",
]
PROMPT, NEGATIVE = "red apple with smiling eyes", "blue circle"


def randomise(model, seed):
    """Numbers of the size that trained networks have, so that every layer says something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            z = torch.randn(p.shape, generator=generator)
            if p.ndim >= 2:
                fan = p[0].numel() if "embedding" not in name or "linear" in name else 1.0
                p.copy_(z / fan**0.5)
            else:
                p.copy_(0.1 * z + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
    return model.eval()


def text_encoder(seed, **config):
    base = dict(vocab_size=len(CLIPTokenizer.from_pretrained(f"{HERE}/tokenizer")), max_position_embeddings=16)
    base |= dict(bos_token_id=base["vocab_size"] - 2, pad_token_id=0)
    return randomise(CLIPTextModel(CLIPTextConfig(**base, **config)), seed)


def unet(seed, **config):
    base = dict(
        sample_size=LATENT, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    return randomise(UNet2DConditionModel(**(base | config)), seed)


def vae(seed):
    config = dict(
        block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, latent_channels=4, sample_size=SIZE,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )
    return randomise(AutoencoderKL(**config), seed)


def folders():
    tokenizer = CLIPTokenizer.from_pretrained(f"{HERE}/tokenizer")
    last = len(tokenizer) - 1
    common = dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    table = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
                 set_alpha_to_one=False)
    sd1 = StableDiffusionPipeline(
        # 2 is what the folders of Stable Diffusion say.
        text_encoder=text_encoder(1, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                                  num_attention_heads=2, hidden_act="quick_gelu", eos_token_id=2),
        unet=unet(2, cross_attention_dim=16, attention_head_dim=2),
        vae=vae(3), tokenizer=tokenizer, scheduler=PNDMScheduler(**table, skip_prk_steps=True), **common,
    )
    sd1.save_pretrained(f"{HERE}/sd1")
    # As transformers 4 and all published folders have it.
    shutil.rmtree(f"{HERE}/sd1/tokenizer")
    shutil.copytree(f"{HERE}/tokenizer", f"{HERE}/sd1/tokenizer")
    # What published configurations of this scheduler hold.
    change(f"{HERE}/sd1/scheduler/scheduler_config.json", clip_sample=False)
    tokenizer2 = CLIPTokenizer.from_pretrained(f"{HERE}/tokenizer", pad_token="!")
    sd2 = StableDiffusionPipeline(
        text_encoder=text_encoder(4, hidden_size=24, intermediate_size=48, num_hidden_layers=3,
                                  num_attention_heads=3, hidden_act="gelu", eos_token_id=last),
        unet=unet(5, cross_attention_dim=24, attention_head_dim=[2, 4], use_linear_projection=True),
        vae=vae(6), tokenizer=tokenizer2,
        scheduler=DDIMScheduler(**table, clip_sample=False, prediction_type="v_prediction"), **common,
    )
    sd2.to(dtype=torch.float16)
    sd2.save_pretrained(f"{HERE}/sd2", variant="fp16")
    # The numbers of the files, computed with in f32.
    sd2.to(dtype=torch.float32)
    inpaint = unet(7, cross_attention_dim=16, attention_head_dim=2, in_channels=9)
    inpaint.to(dtype=torch.float16).save_pretrained(f"{HERE}/inpaint/unet", variant="fp16")
    inpaint.to(dtype=torch.float32)
    # Loaded again: a configuration from a file knows what was said and what is a default.
    sd1 = StableDiffusionPipeline.from_pretrained(f"{HERE}/sd1")
    scheduler = DDIMScheduler.from_pretrained(f"{HERE}/sd2/scheduler")
    sd2 = StableDiffusionPipeline(**(sd2.components | dict(scheduler=scheduler)), requires_safety_checker=False)
    return {"sd1": sd1, "sd2": sd2}, inpaint


def change(path, **keys):
    with open(path) as file:
        config = json.load(file)
    with open(path, "w") as file:
        json.dump(config | keys, file, indent=2, sort_keys=True)
        file.write("\n")


def texts(pipes):
    ids, states = {}, {}
    for name, pipe in pipes.items():
        tokenizer, encoder = pipe.tokenizer, pipe.text_encoder
        rows = tokenizer(PROMPTS, padding="max_length", max_length=tokenizer.model_max_length, truncation=True,
                         return_tensors="pt").input_ids
        ids[f"{name}/tokenizer"] = dict(zip(PROMPTS, rows.tolist()))
        with torch.no_grad():
            out = encoder(rows, output_hidden_states=True)
            states |= {
                f"{name}.ids": rows, f"{name}.last_hidden_state": out[0], f"{name}.pooled": out.pooler_output,
                f"{name}.penultimate": out.hidden_states[-2],
                f"{name}.clip_skip": encoder.final_layer_norm(out.hidden_states[-2]),
            }
    trained = CLIPTokenizer.from_pretrained(f"{HERE}/tokenizer")
    captions = ["woman firefighter: medium skin tone", "red circle", "flag: Côte d’Ivoire", "face with tears of joy"]
    ids["tokenizer"] = {
        text: trained(text, padding="max_length", max_length=16, truncation=True).input_ids
        for text in PROMPTS + captions + ["apple " * n for n in (13, 14, 15, 30)]
    }
    with open(f"{HERE}/text.json", "w") as file:
        # One text a line.
        parts = [f"{json.dumps(folder)}: {{\n" + ",\n".join(
            f"  {json.dumps(text, ensure_ascii=False)}: {json.dumps(row)}" for text, row in rows.items()
        ) + "\n}" for folder, rows in ids.items()]
        file.write(f'{{"versions": {json.dumps(VERSIONS)}, "ids": {{\n' + ",\n".join(parts) + "\n}}\n")
    save_file({name: x.contiguous() for name, x in states.items()}, f"{HERE}/text.safetensors")


VERSIONS = {"diffusers": diffusers.__version__, "transformers": transformers.__version__,
            "torch": torch.__version__.split("+")[0]}

if __name__ == "__main__":
    torch.manual_seed(SEED)
    for name in ("sd1", "sd2", "inpaint"):
        shutil.rmtree(f"{HERE}/{name}", ignore_errors=True)
    pipes, inpaint = folders()
    texts(pipes)
