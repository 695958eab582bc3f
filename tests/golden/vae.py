"""Golden file of the autoencoders, by diffusers.

    python tests/golden/vae.py tests/golden/vae.safetensors

Weights and inputs follow a formula of their name (tests/support/formula.rs has the same), so that the
file holds outputs only. The weight KEY of the network CASE has the name CASE/KEY and
    convolution, linear layer, codebook: offset 0, scale √(6/fan_in) (codebook √(3/dim))
    weight of a norm 0.6, 0.4; bias 0, 0.3; pictures 0, 1; latents 0, 2

    CASE/mean, CASE/logvar, CASE/kl, CASE/decode    of the picture CASE/x and the latent CASE/z
    CASE/tiled/mean, CASE/tiled/logvar, CASE/tiled/decode      of CASE/tiled/x and CASE/tiled/z
    CASE/h, CASE/z_q, CASE/indices, CASE/decode     VQModel, of CASE/x and CASE/z
    CASE/FORM/loss, CASE/FORM/by_z, CASE/FORM/by_codebook      its loss and gradients, FORM legacy or paper
    CASE/latents, CASE/decode                       AutoencoderTiny
    patch-NORM/logits, hinge, generator              PatchGAN (below, after taming-transformers, layers
                                                    2, ndf 6) of patch-NORM/x in training mode, and
                                                    hinge losses, the first picture real, the second not
    metadata golden, JSON: per CASE config (as diffusers writes it), keys {NAME: shape}, x, z, tiled (shapes)
Written with diffusers 0.42.1 and torch on the CPU, in float64, stored as float32. A batch of pictures
is one tensor.
"""

import importlib.metadata
import json
import sys

import diffusers
import numpy as np
import torch
from safetensors.torch import save_file

from formula import formula

DOWN, UP = "DownEncoderBlock2D", "UpDecoderBlock2D"
ATTN_DOWN, ATTN_UP = "AttnDownEncoderBlock2D", "AttnUpDecoderBlock2D"
CASES = {
    # name: class, config, shape of the pictures, of the latents, of those in tiles
    "kl": ("AutoencoderKL", dict(
        down_block_types=[DOWN] * 2, up_block_types=[UP] * 2, block_out_channels=[8, 16],
        norm_num_groups=4, sample_size=16), (2, 3, 16, 24), (2, 4, 8, 5), ((1, 3, 40, 26), (1, 4, 21, 14))),
    "kl-deep": ("AutoencoderKL", dict(
        in_channels=1, out_channels=2, latent_channels=3, down_block_types=[DOWN] * 4,
        up_block_types=[UP] * 4, block_out_channels=[5, 10, 10, 15], norm_num_groups=5,
        layers_per_block=2, sample_size=32, shift_factor=0.25, scaling_factor=1.5),
        (1, 1, 35, 41), (1, 3, 3, 4), ((1, 1, 70, 33), (1, 3, 9, 5))),
    "kl-attention": ("AutoencoderKL", dict(
        down_block_types=[DOWN, ATTN_DOWN], up_block_types=[ATTN_UP, UP], block_out_channels=[6, 9],
        norm_num_groups=3, use_quant_conv=False), (1, 3, 13, 10), (3, 4, 4, 6), None),
    "kl-flat": ("AutoencoderKL", dict(
        block_out_channels=[7], norm_num_groups=7, latent_channels=2, mid_block_add_attention=False,
        use_quant_conv=False, use_post_quant_conv=False), (2, 3, 5, 4), (1, 2, 3, 3), None),
    "vq": ("VQModel", dict(
        down_block_types=[DOWN] * 2, up_block_types=[UP] * 2, block_out_channels=[8, 12],
        norm_num_groups=4, num_vq_embeddings=40), (2, 3, 12, 20), (2, 3, 5, 6), None),
    "vq-attention": ("VQModel", dict(
        in_channels=1, out_channels=1, latent_channels=4, vq_embed_dim=5, num_vq_embeddings=17,
        down_block_types=[DOWN, ATTN_DOWN, DOWN], up_block_types=[UP, ATTN_UP, UP],
        block_out_channels=[6, 6, 12], norm_num_groups=3, layers_per_block=2, act_fn="swish",
        scaling_factor=0.5), (1, 1, 21, 18), (2, 5, 4, 3), None),
    "tiny": ("AutoencoderTiny", dict(
        encoder_block_out_channels=[8] * 3, decoder_block_out_channels=[8] * 3,
        num_encoder_blocks=[1, 2, 1], num_decoder_blocks=[2, 1, 1]), (2, 3, 16, 24), (2, 4, 5, 3), None),
    "tiny-silu": ("AutoencoderTiny", dict(
        in_channels=1, out_channels=2, latent_channels=3, encoder_block_out_channels=[5] * 2,
        decoder_block_out_channels=[6] * 4, num_encoder_blocks=[0, 1], num_decoder_blocks=[1, 0, 1, 1],
        act_fn="silu"), (1, 1, 9, 11), (1, 3, 2, 3), None),
}


def rule(name, shape):
    if name == "quantize.embedding.weight":
        return 0.0, (3.0 / shape[1]) ** 0.5
    if len(shape) > 1:
        return 0.0, (6.0 / np.prod(shape[1:])) ** 0.5
    return (0.6, 0.4) if name.endswith("weight") else (0.0, 0.3)


def network(case, kind, config):
    net = getattr(diffusers, kind)(**config).double().eval()
    state = net.state_dict()
    for key, tensor in state.items():
        tensor.copy_(formula(f"{case}/{key}", tuple(tensor.shape), *rule(key, tensor.shape)))
    return net, {key: list(tensor.shape) for key, tensor in state.items()}


def picture(name, shape):
    return formula(name, shape, 0.0, 1.0).double()


def latent(name, shape):
    return formula(name, shape, 0.0, 2.0).double()


def outputs(case, net, kind, x, z):
    if kind == "AutoencoderKL":
        posterior = net.encode(picture(f"{case}/x", x)).latent_dist
        return {"mean": posterior.mean, "logvar": posterior.logvar, "kl": posterior.kl(),
                "decode": net.decode(latent(f"{case}/z", z)).sample}
    if kind == "AutoencoderTiny":
        return {"latents": net.encode(picture(f"{case}/x", x)).latents,
                "decode": net.decode(latent(f"{case}/z", z)).sample}
    found = {}
    z = latent(f"{case}/z", z)
    for form in ("legacy", "paper"):
        net.quantize.legacy = form == "legacy"
        with torch.enable_grad():
            leaf, codebook = z.clone().requires_grad_(), net.quantize.embedding.weight
            z_q, loss, (_, _, indices) = net.quantize(leaf)
            by_z, by_codebook = torch.autograd.grad(loss, [leaf, codebook])
        found |= {f"{form}/loss": loss.detach(), f"{form}/by_z": by_z, f"{form}/by_codebook": by_codebook}
    return found | {"h": net.encode(picture(f"{case}/x", x)).latents, "z_q": z_q.detach(),
                    "indices": indices, "decode": net.decode(z).sample}


def discriminator(norm):
    """Layers and names of taming-transformers' NLayerDiscriminator."""
    norms = {"batch": [torch.nn.BatchNorm2d(12), torch.nn.BatchNorm2d(24)],
             "group": [torch.nn.GroupNorm(12, 12), torch.nn.GroupNorm(24, 24)], "none": [None] * 2}[norm]
    conv = lambda a, b, stride, bias: torch.nn.Conv2d(a, b, 4, stride, 1, bias=bias)
    leak = lambda: torch.nn.LeakyReLU(0.2)
    layers = [conv(3, 6, 2, True), leak(), conv(6, 12, 2, norm == "none"), norms[0], leak(),
              conv(12, 24, 1, norm == "none"), norms[1], leak(), conv(24, 1, 1, True)]
    return torch.nn.Sequential(*[layer for layer in layers if layer is not None])


def patches(norm):
    case, net = f"patch-{norm}", discriminator(norm).double().train()
    keys = {}
    for key, tensor in net.named_parameters():
        keys[f"main.{key}"] = list(tensor.shape)
        key = f"main.{key}"
        tensor.copy_(formula(f"{case}/{key}", tuple(tensor.shape), *rule(key, tensor.shape)))
    shape = [2, 3, 20, 16]
    logits = net(picture(f"{case}/x", shape))
    real, fake = logits[0], logits[1]
    hinge = 0.5 * (torch.relu(1 - real).mean() + torch.relu(1 + fake).mean())
    return dict(keys=keys, x=shape), {"logits": logits[:, 0], "hinge": hinge, "generator": -fake.mean()}


@torch.no_grad()
def main(path):
    tensors, metadata = {}, {}
    for norm in ("batch", "group", "none"):
        metadata[f"patch-{norm}"], found = patches(norm)
        tensors |= {f"patch-{norm}/{name}": t.float().contiguous() for name, t in found.items()}
    for case, (kind, config, x, z, tiled) in CASES.items():
        net, keys = network(case, kind, config)
        found = outputs(case, net, kind, x, z)
        if tiled:
            net.enable_tiling()
            more = outputs(f"{case}/tiled", net, kind, *tiled)
            found |= {f"tiled/{name}": tensor for name, tensor in more.items()}
        for name, tensor in found.items():
            kept = tensor.int() if name == "indices" else tensor.float()
            tensors[f"{case}/{name}"] = kept.contiguous()
        whole = json.loads(net.to_json_string())
        metadata[case] = dict(config=whole, keys=keys, x=x, z=z, tiled=tiled)
    versions = {p: importlib.metadata.version(p) for p in ("diffusers", "torch")}
    save_file(tensors, path, {"golden": json.dumps(metadata | {"versions": versions})})
    print(len(tensors), "tensors", versions)


main(sys.argv[1])
