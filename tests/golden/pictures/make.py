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


def numbers(generator, *shape):
    return torch.randn(shape, generator=generator)


G = torch.Generator().manual_seed(SEED)
NOISE = numbers(G, BATCH, 4, LATENT, LATENT)
STEP_NOISE = numbers(G, STEPS, BATCH, 4, LATENT, LATENT)
ENCODER_NOISE = numbers(G, 1, 4, LATENT, LATENT)
IMAGE = torch.nn.functional.interpolate(numbers(G, 1, 3, 4, 4), size=(SIZE, SIZE), mode="bilinear").clamp(-1, 1)
MASK = torch.zeros(1, 1, SIZE, SIZE)
MASK[:, :, 3:11, 5:14] = 1.0
MASK[:, :, 2, :] = 0.6  # counts as 1, and its latent as that of its first pixel
STATE = {"step": 0}


def recorded(shape, **_):
    """In a scheduler: the noise of this step."""
    shape = tuple(shape)
    return STEP_NOISE[STATE["step"], : shape[0]].reshape(shape).clone()


def initial(shape, **_):
    """In a pipeline: the initial noise."""
    return NOISE[: tuple(shape)[0]].clone()


def sampled(output, **_):
    d = output.latent_dist
    return d.mean + d.std * ENCODER_NOISE


def patch():
    import diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img as img2img
    import diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_inpaint as inpaint
    for module in (img2img, inpaint):
        module.randn_tensor, module.retrieve_latents = initial, sampled
    for name, module in list(sys.modules.items()):
        if name.startswith("diffusers.schedulers.scheduling_") and hasattr(module, "randn_tensor"):
            module.randn_tensor = recorded


SCHEDULERS = {
    "pndm": (PNDMScheduler, dict(skip_prk_steps=True)),
    "ddim": (DDIMScheduler, {}),
    "ddim_eta": (DDIMScheduler, {}),
    "ddim_trailing": (DDIMScheduler, dict(timestep_spacing="trailing", set_alpha_to_one=True)),
    "ddim_offset0": (DDIMScheduler, dict(steps_offset=0)),
    "ddpm": (DDPMScheduler, {}),
    "ddpm_clip": (DDPMScheduler, dict(clip_sample=True, variance_type="fixed_large")),
    "euler": (EulerDiscreteScheduler, {}),
    "euler_linspace": (EulerDiscreteScheduler, dict(timestep_spacing="linspace")),
    "euler_karras": (EulerDiscreteScheduler, dict(timestep_spacing="trailing", use_karras_sigmas=True)),
    "euler_ancestral": (EulerAncestralDiscreteScheduler, {}),
    "heun": (HeunDiscreteScheduler, {}),
    "dpmpp_2m": (DPMSolverMultistepScheduler, {}),
    "dpmpp_2m_karras": (DPMSolverMultistepScheduler, dict(use_karras_sigmas=True)),
    "dpmpp_2m_sde": (DPMSolverMultistepScheduler, dict(algorithm_type="sde-dpmsolver++")),
    "dpmpp_2m_zero": (DPMSolverMultistepScheduler, dict(rescale_betas_zero_snr=True, timestep_spacing="trailing")),
    "euler_zero": (EulerDiscreteScheduler, dict(rescale_betas_zero_snr=True, timestep_spacing="trailing")),
    "lcm": (LCMScheduler, {}),
}


def pipeline_of(pipe, cls, scheduler, **extra):
    names = ("vae", "text_encoder", "tokenizer", "unet")
    parts = {name: getattr(pipe, name) for name in names} | dict(scheduler=scheduler, safety_checker=None,
                                                                 feature_extractor=None, requires_safety_checker=False)
    out = cls(**(parts | extra))
    out.set_progress_bar_config(disable=True)
    return out


def case(cases, tensors, name, pipe, cls, scheduler, batch=1, steps=STEPS, extra=None, **call):
    """Runs a pipeline with latents and then pictures for output, and records both, and the states."""
    out = pipeline_of(pipe, cls, scheduler, **(extra or {}))
    states = []

    def on_step(pipe, i, t, kwargs):
        x, sigmas = kwargs["latents"], getattr(pipe.scheduler, "sigmas", None)
        if "Euler" in type(pipe.scheduler).__name__:
            x = x / (sigmas[i + 1 + skipped].double() ** 2 + 1).sqrt().float()
        states.append(x.clone())
        STATE["step"] = i + 1
        return kwargs

    made = min(int(steps * call.get("strength", 1.0)), steps)
    skipped = steps - made
    STATE["step"] = 0
    args = dict(prompt=[PROMPT] * batch, negative_prompt=[NEGATIVE] * batch, num_inference_steps=steps,
                guidance_scale=7.5, output_type="latent", callback_on_step_end=on_step) | call
    if cls is StableDiffusionPipeline:
        args["latents"] = NOISE[:batch].clone()
    latents = out(**args).images
    with torch.no_grad():
        image = out.vae.decode(latents / out.vae.config.scaling_factor).sample.clamp(-1, 1)
    tensors[f"{name}.latents"], tensors[f"{name}.image"] = latents, image
    if batch == 1 and len(states) == made:
        tensors[f"{name}.states"] = torch.cat(states)
    keys = {k: v for k, v in scheduler.config.items() if not k.startswith("_") or k == "_class_name"}
    keys["_class_name"] = type(scheduler).__name__
    keys = {k: (str(v).replace("inf", "Infinity") if isinstance(v, float) and np.isinf(v) else v) for k, v in keys.items()}
    said = {k: v for k, v in args.items() if k in ("guidance_scale", "guidance_rescale", "eta", "strength", "clip_skip")}
    cases.append(dict(name=name, scheduler=keys, batch=batch, steps=steps, prompt=PROMPT, negative_prompt=NEGATIVE,
                      kind=cls.__name__) | said)


def flow_case(cases, tensors, name, pipe, scheduler, batch=1):
    """What a Stable Diffusion pipeline does with a flow's scheduler, which its class has no room for."""
    text, negative = pipe.encode_prompt(PROMPT, "cpu", batch, True, NEGATIVE)
    both = torch.cat([negative, text])
    scheduler.set_timesteps(STEPS)
    x = NOISE[:batch].clone()
    states = []
    with torch.no_grad():
        for i, t in enumerate(scheduler.timesteps):
            STATE["step"] = i
            v = pipe.unet(torch.cat([x, x]), t, encoder_hidden_states=both).sample
            u, c = v.chunk(2)
            x = scheduler.step(u + 7.5 * (c - u), t, x).prev_sample
            states.append(x)
        image = pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample.clamp(-1, 1)
    tensors[f"{name}.latents"], tensors[f"{name}.image"] = x, image
    if batch == 1 and len(states) == STEPS:
        tensors[f"{name}.states"] = torch.cat(states)
    keys = {k: v for k, v in scheduler.config.items() if not k.startswith("_")}
    cases.append(dict(name=name, scheduler=keys | {"_class_name": type(scheduler).__name__}, batch=batch, steps=STEPS,
                      prompt=PROMPT, negative_prompt=NEGATIVE, kind="flow", guidance_scale=7.5))


def others(cases, tensors):
    """A DiT by classes, which takes its autoencoder from sd1, and a DDPM of pixels; both in f16 files."""
    from diffusers import DDPMPipeline, DiTPipeline, DiTTransformer2DModel, UNet2DModel
    from diffusers.pipelines.ddpm import pipeline_ddpm
    from diffusers.pipelines.dit import pipeline_dit

    def stored(pipe, part, folder):
        shutil.rmtree(f"{HERE}/{folder}", ignore_errors=True)
        getattr(pipe, part).to(dtype=torch.float16)
        pipe.save_pretrained(f"{HERE}/{folder}", variant="fp16")
        # Read again, since buffers that are in no file were rounded too.
        again = type(getattr(pipe, part)).from_pretrained(f"{HERE}/{folder}/{part}", variant="fp16")
        setattr(pipe, part, again.to(dtype=torch.float32).eval())
        pipe.set_progress_bar_config(disable=True)

    # Class 1000 is the empty one, whatever the size: so it stands in the pipeline.
    net = randomise(DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8,
                                          num_layers=1, sample_size=LATENT, patch_size=2, norm_type="ada_norm_zero",
                                          num_embeds_ada_norm=1000, attention_bias=True,
                                          activation_fn="gelu-approximate"), 8)
    labels = {str(i): f"class {i}" for i in range(1000)} | {"207": "golden retriever, dog"}
    pipe = DiTPipeline(net, vae(3), DDIMScheduler(clip_sample=False), {int(k): v for k, v in labels.items()})
    stored(pipe, "transformer", "dit")
    shutil.rmtree(f"{HERE}/dit/vae")
    change(f"{HERE}/dit/model_index.json", id2label={"207": labels["207"], "3": labels["3"]})
    pipeline_dit.randn_tensor = initial
    pipe.scheduler.set_timesteps(STEPS)
    image = pipe(class_labels=[207, 3], guidance_scale=4.0, num_inference_steps=STEPS, output_type="pt")[0]
    image = torch.from_numpy(image) if isinstance(image, np.ndarray) else image
    tensors["dit.image"] = image * 2 - 1

    net = randomise(UNet2DModel(sample_size=SIZE, block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=2,
                                down_block_types=("DownBlock2D", "AttnDownBlock2D"), attention_head_dim=4,
                                up_block_types=("AttnUpBlock2D", "UpBlock2D")), 9)
    pipe = DDPMPipeline(net, DDPMScheduler(variance_type="fixed_large"))
    stored(pipe, "unet", "ddpm")
    generator = torch.Generator().manual_seed(SEED + 1)
    noise, steps = numbers(generator, 2, 3, SIZE, SIZE), numbers(generator, STEPS, 2, 3, SIZE, SIZE)
    drawn = iter(steps)
    pipeline_ddpm.randn_tensor = lambda *_, **__: noise.clone()
    sys.modules["diffusers.schedulers.scheduling_ddpm"].randn_tensor = lambda *_, **__: next(drawn).clone()
    image = pipe(batch_size=2, num_inference_steps=STEPS, output_type="np").images
    tensors |= {"ddpm.noise": noise, "ddpm.step_noise": steps,
                "ddpm.image": torch.from_numpy(image).permute(0, 3, 1, 2) * 2 - 1}


def pipelines(pipes, inpaint_unet):
    patch()
    # diffusers asks for it by the name of transformers 4.
    CLIPTextModel.text_model = property(lambda self: self)
    cases, tensors = [], dict(noise=NOISE, step_noise=STEP_NOISE, encoder_noise=ENCODER_NOISE, init_image=IMAGE,
                              mask=MASK)
    plain, img2img, inpaint = StableDiffusionPipeline, StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline
    for folder, pipe in pipes.items():
        make = {name: lambda c=cls, k=keys: c.from_config(pipe.scheduler.config, **k)
                for name, (cls, keys) in SCHEDULERS.items()}
        run = lambda name, *args, **kw: case(cases, tensors, f"{folder}.{name}", pipe, *args, **kw)
        for name in SCHEDULERS if folder == "sd1" else ("pndm", "ddim", "euler", "dpmpp_2m", "dpmpp_2m_zero", "euler_zero"):
            run(name, plain, make[name](), **(dict(eta=0.7) if name == "ddim_eta" else {}))
        run("batch3", plain, make["euler_ancestral"](), batch=3)
        run("rescale", plain, make["ddim"](), batch=3, guidance_rescale=0.7)
        if folder == "sd2":
            run("clip_skip", plain, make["ddim"](), clip_skip=1)
            continue
        for name in ("pndm", "ddim", "euler", "euler_ancestral", "heun", "dpmpp_2m", "ddpm"):
            run(f"img2img.{name}", img2img, make[name](), image=IMAGE, strength=0.7)
            run(f"inpaint.{name}", inpaint, make[name](), image=IMAGE, mask_image=MASK, strength=1.0, height=SIZE, width=SIZE)
        run("img2img.batch3", img2img, make["euler"](), image=IMAGE, strength=0.5, batch=3)
        run("img2img.full", img2img, make["euler_linspace"](), image=IMAGE, strength=1.0)
        run("inpaint.part", inpaint, make["dpmpp_2m"](), image=IMAGE, mask_image=MASK, strength=0.7, height=SIZE, width=SIZE)
        run("inpaint.linspace", inpaint, make["euler_linspace"](), image=IMAGE, mask_image=MASK, strength=1.0, height=SIZE,
            width=SIZE, batch=3)
        for strength in (1.0, 0.6):
            run(f"inpaint9.{strength}", inpaint, make["ddim"](), image=IMAGE, mask_image=MASK, strength=strength,
                height=SIZE, width=SIZE, extra=dict(unet=inpaint_unet))
        for shift in (1.0, 3.0):
            flow_case(cases, tensors, f"{folder}.flow{shift}", pipe, FlowMatchEulerDiscreteScheduler(shift=shift))
            flow_case(cases, tensors, f"{folder}.flow_heun{shift}", pipe, FlowMatchHeunDiscreteScheduler(shift=shift))
        flow_case(cases, tensors, f"{folder}.flow_stochastic", pipe,
                  FlowMatchEulerDiscreteScheduler(shift=3.0, stochastic_sampling=True), batch=3)
    others(cases, tensors)
    meta = {"versions": json.dumps(VERSIONS), "cases": json.dumps(cases)}
    save_file({k: v.detach().float().contiguous() for k, v in tensors.items()}, f"{HERE}/pipelines.safetensors", meta)
    print(len(cases), "cases")


VERSIONS = {"diffusers": diffusers.__version__, "transformers": transformers.__version__,
            "torch": torch.__version__.split("+")[0]}

if __name__ == "__main__":
    torch.manual_seed(SEED)
    # One order of additions, and no threads that wait for each other.
    torch.set_num_threads(1)
    for name in ("sd1", "sd2", "inpaint"):
        shutil.rmtree(f"{HERE}/{name}", ignore_errors=True)
    pipes, inpaint = folders()
    texts(pipes)
    pipelines(pipes, inpaint)
