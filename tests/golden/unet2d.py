"""Golden file of diffusers' networks over pictures: outputs, and gradients of the input.

    python tests/golden/unet2d.py tests/golden/unet2d.safetensors

Weights and inputs follow a formula of their name (tests/support/formula.rs has the same), so that the
file holds outputs only:
    h = FNV-1a-64(name); z = splitmix64(h + (i + 1)·0x9E3779B97F4A7C15); u = float32(z >> 40) / 2^24
    value[i] = offset + scale·(2u − 1), every operation in float32
    parameters, named CASE/KEY: matrices and kernels offset 0, scale √(3/fan_in); vectors `weight` 1, 0.4;
    other vectors 0, 0.3; tables (num_embeddings rows) 0, 1
    inputs CASE/x, CASE/tokens, CASE/cotangent: 0, 1.7

    CASE/out       the output for all samples, each at its own time
    CASE/grad      d sum(out·cotangent) / dx
    metadata CASE, JSON: config (as save_pretrained writes it), x (shape), t, class, mask, keys
                   (FNV-1a-64 of NAME SHAPE\\n of all parameters, sorted)
Written with diffusers 0.42.1 and torch on the CPU, in float32.
"""

import importlib.metadata
import json
import sys

import numpy as np
import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel
from safetensors.torch import save_file
from torch import nn

from formula import fnv, formula

torch.set_num_threads(1)


def ways(*kinds):
    """The kinds of the levels on the way down, and the same on the way up."""
    return dict(down_block_types=[f"{kind}DownBlock2D" for kind in kinds],
                up_block_types=[f"{kind}UpBlock2D" for kind in reversed(kinds)])


# name: class, config, shape of x, times, and the condition
SMALL = dict(norm_num_groups=4, sample_size=16)
CASES = {
    "sd1": (UNet2DConditionModel,
            SMALL | ways("CrossAttn", "CrossAttn", "") | dict(
                block_out_channels=[8, 16, 24], layers_per_block=2, cross_attention_dim=10,
                attention_head_dim=2),
            [3, 4, 16, 16], [999, 500.5, 0], dict(tokens=7)),
    "sd2": (UNet2DConditionModel,
            SMALL | ways("CrossAttn", "CrossAttn", "CrossAttn", "") | dict(
                block_out_channels=[8, 16, 24, 24], layers_per_block=1, cross_attention_dim=12,
                attention_head_dim=[1, 2, 3, 3], use_linear_projection=True, upcast_attention=True,
                transformer_layers_per_block=[1, 2, 1, 1]),
            [2, 4, 16, 24], [981, 20], dict(tokens=5, mask=[[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])),
    "odd": (UNet2DConditionModel,
            SMALL | ways("CrossAttn", "", "CrossAttn") | dict(
                block_out_channels=[8, 12, 16], layers_per_block=1, cross_attention_dim=6,
                attention_head_dim=4, in_channels=6, out_channels=3),
            [2, 6, 13, 10], [3, 700], dict(tokens=3)),
    "class": (UNet2DConditionModel,
              SMALL | ways("CrossAttn", "Attn") | dict(
                  block_out_channels=[8, 16], layers_per_block=[1, 2], cross_attention_dim=6,
                  attention_head_dim=[4, 2], only_cross_attention=[True, False],
                  mid_block_type="UNetMidBlock2D", num_class_embeds=5, class_embeddings_concat=True,
                  time_embedding_dim=20, mid_block_scale_factor=1.5),
              [2, 4, 8, 8], [250, 750], {"tokens": 3, "class": [4, 0]}),
    "options": (UNet2DConditionModel,
                SMALL | ways("", "CrossAttn") | dict(
                    block_out_channels=[8, 12], layers_per_block=1, cross_attention_dim=6,
                    attention_head_dim=3, mid_block_type=None, class_embed_type="timestep",
                    timestep_post_act="silu", time_embedding_act_fn="gelu", conv_in_kernel=1,
                    conv_out_kernel=5, center_input_sample=True, downsample_padding=0,
                    resnet_time_scale_shift="scale_shift", flip_sin_to_cos=False, freq_shift=1,
                    norm_eps=1e-3),
                [2, 4, 8, 12], [40, 60], {"tokens": 2, "class": [300, 7]}),
    "nested": (UNet2DConditionModel,
               SMALL | ways("CrossAttn", "CrossAttn") | dict(
                   block_out_channels=[8, 12], layers_per_block=2, cross_attention_dim=6,
                   attention_head_dim=2, mid_block_scale_factor=0.7,
                   transformer_layers_per_block=[[1, 2], [2, 1]],
                   reverse_transformer_layers_per_block=[[1, 1, 2], [2, 1, 1]]),
               [1, 4, 8, 8], [333], dict(tokens=2)),
    "ddpm": (UNet2DModel,
             SMALL | ways("", "Attn", "") | dict(
                 block_out_channels=[8, 16, 16], layers_per_block=2, attention_head_dim=None,
                 flip_sin_to_cos=False, freq_shift=1, downsample_padding=0, norm_eps=1e-6),
             [2, 3, 16, 16], [999, 1], {}),
    "labels": (UNet2DModel,
               SMALL | ways("Attn", "") | dict(
                   block_out_channels=[8, 16], layers_per_block=1, attention_head_dim=4,
                   resnet_time_scale_shift="scale_shift", num_class_embeds=11, in_channels=1,
                   out_channels=1, mid_block_scale_factor=1.4142),
               [3, 1, 14, 14], [10, 500, 900], {"class": [10, 3, 3]}),
    "nomid": (UNet2DModel,
              SMALL | ways("", "Attn") | dict(
                  block_out_channels=[8, 16], layers_per_block=1, attention_head_dim=8,
                  add_attention=False, class_embed_type="timestep", center_input_sample=True),
              [2, 3, 8, 8], [10, 500], {"class": [3, 800]}),
    "dit": (DiTTransformer2DModel,
            dict(num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=2,
                 sample_size=8, patch_size=2, num_embeds_ada_norm=5),
            [3, 4, 8, 8], [999, 500, 3], {"class": [5, 0, 4]}),
    "dit_larger": (DiTTransformer2DModel,
                   dict(num_attention_heads=3, attention_head_dim=4, in_channels=2, out_channels=4,
                        num_layers=1, sample_size=8, patch_size=4, num_embeds_ada_norm=3,
                        attention_bias=False, activation_fn="geglu", norm_elementwise_affine=True,
                        norm_eps=1e-3),
                   [2, 2, 16, 16], [1, 77], {"class": [3, 1]}),
}


def rule(key, shape, tables):
    if key in tables:
        return 0.0, 1.0
    if len(shape) > 1:
        return 0.0, (3.0 / np.prod(shape[1:])) ** 0.5
    return (1.0, 0.4) if key.endswith("weight") else (0.0, 0.3)


def case(name, kind, config, shape, times, condition):
    net = kind(**config).eval()
    tables = {f"{path}.weight" for path, module in net.named_modules()
              if isinstance(module, nn.Embedding)}
    keys = ""
    for key, parameter in sorted(net.named_parameters()):
        parameter.data = formula(f"{name}/{key}", parameter.shape, *rule(key, parameter.shape, tables))
        keys += f"{key} {list(parameter.shape)}\n"
    assert set(net.state_dict()) == {key for key, _ in net.named_parameters()}
    x = formula(f"{name}/x", shape, 0, 1.7).requires_grad_()
    inputs = {}
    if "tokens" in condition:
        width = net.config.cross_attention_dim
        inputs["encoder_hidden_states"] = formula(
            f"{name}/tokens", [shape[0], condition["tokens"], width], 0, 1.7)
    if "mask" in condition:
        inputs["encoder_attention_mask"] = torch.tensor(condition["mask"])
    if "class" in condition:
        inputs["class_labels"] = torch.tensor(condition["class"])
    out = net(x, timestep=torch.tensor(times), **inputs).sample
    (out * formula(f"{name}/cotangent", out.shape, 0, 1.7)).sum().backward()
    print(f"{name}: {sum(p.numel() for p in net.parameters())} parameters, "
          f"output {out.abs().max():.2f}, {list(out.shape)}")
    config = json.loads(net.to_json_string())
    metadata = condition | dict(config=config, x=shape, t=times, keys=str(fnv(keys.encode())))
    return {f"{name}/out": out, f"{name}/grad": x.grad}, json.dumps(metadata)


def main(path):
    tensors, metadata = {}, {}
    for name, arguments in CASES.items():
        of_case, metadata[name] = case(name, *arguments)
        tensors |= {key: value.detach().contiguous() for key, value in of_case.items()}
    versions = {p: importlib.metadata.version(p) for p in ("diffusers", "torch")}
    save_file(tensors, path, metadata | {"versions": json.dumps(versions)})
    print(len(tensors), "tensors", versions)


main(sys.argv[1])
