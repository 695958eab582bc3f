"""Golden file of single layers: weights, inputs, outputs and gradients by PyTorch and diffusers.

    python tests/golden/layers.py tests/golden/layers.safetensors

Per case C the file holds
    C/weight/KEY   parameters under PyTorch's or diffusers' names
    C/input/NAME   what goes in; C/out what comes out; C/cotangent
    C/grad/KEY     d sum(out·cotangent) / d weight;  C/grad_input/NAME likewise
Written with torch 2.15.0 and diffusers 0.42.1 on the CPU, in float64, stored as float32 (weights and
inputs are float32 values, so nothing is lost there). Seed 0.
"""

import os
import sys

import diffusers
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import apply_rotary_emb, get_timestep_embedding
from diffusers.models.upsampling import Upsample2D
from safetensors.torch import save_file
from torch import nn

torch.manual_seed(0)
TENSORS = {}


def single(*shape):
    return torch.randn(*shape).float().double()


class Plain(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, **inputs):
        return self.function(**inputs)


def case(name, module, constants=(), **inputs):
    for p in module.parameters():
        # Norm weights and biases are 1 and 0 after construction, which would hide mistakes.
        p.data = (p.data + 0.3 * torch.randn_like(p)).float().double()
    module = module.double()
    inputs = {key: x.float().double() for key, x in inputs.items()}
    for key, x in inputs.items():
        if key not in constants:
            x.requires_grad_()
    out = module(**inputs)
    cotangent = single(*out.shape)
    (out * cotangent).sum().backward()
    TENSORS[f"{name}/out"], TENSORS[f"{name}/cotangent"] = out, cotangent
    for key, p in module.named_parameters():
        TENSORS[f"{name}/weight/{key}"], TENSORS[f"{name}/grad/{key}"] = p, p.grad
    for key, x in inputs.items():
        TENSORS[f"{name}/input/{key}"] = x
        if key not in constants:
            TENSORS[f"{name}/grad_input/{key}"] = x.grad


class Norm(nn.Module):
    """Gives the norm's argument a name."""

    def __init__(self, norm):
        super().__init__()
        self.weight = norm.weight
        if getattr(norm, "bias", None) is not None:
            self.bias = norm.bias
        self.apply_norm = [norm]

    def forward(self, x):
        norm = self.apply_norm[0]
        return norm.double()(x)


def attention(**kwargs):
    net = Attention(**kwargs)

    class Wrap(nn.Module):
        def __init__(self):
            super().__init__()
            self.to_q, self.to_k, self.to_v, self.to_out = net.to_q, net.to_k, net.to_v, net.to_out

        def forward(self, x, context=None, mask=None):
            return net(x, encoder_hidden_states=context, attention_mask=mask)

    return Wrap()


def main(path):
    wide = torch.tensor([-30.0, -8.0, -3.0, -1.0, -0.1, 0.0, 0.2, 1.0, 2.5, 6.0, 30.0]).double()
    case("softmax", Plain(lambda x: F.softmax(x, dim=-1)), x=3 * single(2, 3, 7))
    case("gelu", Plain(lambda x: F.gelu(x)), x=wide.clone())
    case("gelu_tanh", Plain(lambda x: F.gelu(x, approximate="tanh")), x=wide.clone())
    case("silu", Plain(lambda x: F.silu(x)), x=wide.clone())
    case("layer_norm", Norm(nn.LayerNorm(6, eps=1e-5)), x=2 * single(2, 3, 6) + 1)
    case("rms_norm", Norm(nn.RMSNorm(6, eps=1e-6)), x=2 * single(2, 3, 6) + 1)
    case("group_norm_1d", Norm(nn.GroupNorm(3, 6, eps=1e-5)), x=2 * single(2, 6, 5) + 1)
    case("group_norm_2d", Norm(nn.GroupNorm(2, 8, eps=1e-6)), x=2 * single(2, 8, 3, 4) + 1)
    case("linear", nn.Linear(5, 3), input=single(2, 4, 5))

    # diffusers: cos and sin [t, d], the halves stacked (`unbind_dim=-2`) or interleaved (`-1`).
    positions, dim, theta = torch.tensor([0.0, 1.0, 2.0, 5.0, 100.0]).double(), 8, 10000.0
    freqs = positions[:, None] / theta ** (torch.arange(0, dim, 2).double() / dim)[None]
    halves = (torch.cat([freqs.cos()] * 2, -1), torch.cat([freqs.sin()] * 2, -1))
    pairs = (freqs.cos().repeat_interleave(2, 1), freqs.sin().repeat_interleave(2, 1))
    case("rope_halves", Plain(lambda x: apply_rotary_emb(x, halves, use_real_unbind_dim=-2)),
         x=single(2, 3, 5, dim))
    case("rope_interleaved", Plain(lambda x: apply_rotary_emb(x, pairs, use_real_unbind_dim=-1)),
         x=single(2, 3, 5, dim))

    case("upsample", Plain(lambda x: Upsample2D(3, use_conv=False)(x)), x=single(2, 3, 3, 2))

    case("attention_self", attention(query_dim=8, heads=2, dim_head=3), x=single(2, 5, 8))
    case("attention_bias", attention(query_dim=6, heads=3, dim_head=4, bias=True), x=single(1, 4, 6))
    case("attention_cross", attention(query_dim=8, cross_attention_dim=5, heads=2, dim_head=4),
         x=single(2, 3, 8), context=single(2, 6, 5))
    causal = torch.full((1, 5, 5), float("-inf")).double().triu(1)
    case("attention_causal", attention(query_dim=8, heads=2, dim_head=4), ["mask"],
         x=single(1, 5, 8), mask=causal)

    # Times as a network of diffusers sees them: [cos, sin] and no shift, [sin, cos] and shift 1.
    t = torch.tensor([0.0, 0.5, 7.0, 50.0]).double()
    TENSORS["timestep/t"] = t
    for name, kwargs in {
        "sd": dict(embedding_dim=8, flip_sin_to_cos=True, downscale_freq_shift=0),
        "ddpm": dict(embedding_dim=8, flip_sin_to_cos=False, downscale_freq_shift=1),
        "odd": dict(embedding_dim=7, flip_sin_to_cos=True, downscale_freq_shift=0, scale=2.0,
                    max_period=1000),
    }.items():
        # diffusers computes the frequencies in float32, which is off by 6e-5 at t = 999.
        TENSORS[f"timestep/{name}"] = get_timestep_embedding(t, **kwargs)

    tensors = {k: v.detach().float().contiguous().clone() for k, v in TENSORS.items()}
    save_file(tensors, path, metadata={"torch": torch.__version__, "diffusers": diffusers.__version__})
    os.chmod(path, 0o644)
    print(len(tensors), "tensors")


main(sys.argv[1])
