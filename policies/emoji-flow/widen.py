#!/usr/bin/env python3
"""Gives an autoencoder of 8 latent channels 16: a detour in the making of this model, see its card.

    pip install numpy safetensors
    python policies/emoji-flow/widen.py runs/emoji-ae-crops/checkpoints/last/pretrained_model runs/emoji-widened

What the layers beside the latents know is kept; the new channels begin as small random numbers.
"""
import json
import os
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

NAME = "diffusion_pytorch_model.safetensors"
OLD, NEW = 8, 16
# Means and log-variances stand behind each other.
KEPT = list(range(OLD)) + list(range(NEW, NEW + OLD))


def uniform(generator, shape):
    bound = 1 / np.sqrt(np.prod(shape[1:]))
    return generator.uniform(-bound, bound, shape).astype(np.float32)


def identity(size):
    return np.eye(size, dtype=np.float32)[:, :, None, None]


def main(source, target):
    weights, generator = load_file(f"{source}/{NAME}"), np.random.default_rng(0)

    old, bias = weights["encoder.conv_out.weight"], weights["encoder.conv_out.bias"]
    new = uniform(generator, (2 * NEW, *old.shape[1:]))
    new[KEPT] = old
    new[NEW + OLD:] *= 0.1
    weights["encoder.conv_out.weight"] = new
    new = np.zeros(2 * NEW, np.float32)
    new[KEPT] = bias
    new[NEW + OLD:] = bias[OLD:].mean()
    weights["encoder.conv_out.bias"] = new

    old, bias = weights["quant_conv.weight"], weights["quant_conv.bias"]
    new = identity(2 * NEW)
    new[KEPT] = 0
    new[np.ix_(KEPT, KEPT)] = old
    weights["quant_conv.weight"] = new
    new = np.zeros(2 * NEW, np.float32)
    new[KEPT] = bias
    new[NEW + OLD:] = bias[OLD:].mean()
    weights["quant_conv.bias"] = new

    old, bias = weights["post_quant_conv.weight"], weights["post_quant_conv.bias"]
    new = identity(NEW)
    new[:OLD, :OLD] = old
    weights["post_quant_conv.weight"] = new
    weights["post_quant_conv.bias"] = np.concatenate([bias, np.zeros(NEW - OLD, np.float32)])

    old = weights["decoder.conv_in.weight"]
    new = uniform(generator, (old.shape[0], NEW, *old.shape[2:]))
    new[:, :OLD] = old
    new[:, OLD:] *= 0.5
    weights["decoder.conv_in.weight"] = new

    with open(f"{source}/config.json") as file:
        config = json.load(file) | {"latent_channels": NEW}
    os.makedirs(target, exist_ok=True)
    with open(f"{target}/config.json", "w") as file:
        json.dump(config, file, indent=2)
    save_file(weights, f"{target}/{NAME}")


if __name__ == "__main__":
    main(*sys.argv[1:])
