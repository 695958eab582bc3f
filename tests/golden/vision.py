"""Golden file of the layers between a picture and a policy, by PyTorch, torchvision and LeRobot.

    python tests/golden/vision.py tests/golden/vision.safetensors

Weights and inputs of the large cases follow a formula of their name (tests/support/formula.rs has the
same), so that the file holds outputs only:
    h = FNV-1a-64(name); z = splitmix64(h + (i + 1)·0x9E3779B97F4A7C15); u = float32(z >> 40) / 2^24
    value[i] = offset + scale·(2u − 1), every operation in float32
    convolution: offset 0, scale √(6/fan_in); weight of a norm 0.6, 0.4; bias and running_mean 0, 0.3;
    running_var 1, 0.5; pictures 0.5, 0.5

    layer/CASE/{weight,input,out,cotangent,grad,grad_input}/…   as in layers.py
    pool/CASE/{input,out,cotangent,grad}                        max pooling 3×3, stride 2, padding 1
    resize/H×W/h×w                                              one channel, the input by formula
    crop                                                        rows of length, cropped length, offset
    resnet/CASE, exact/CASE                                     every eighth channel of the feature map, by
                                                                float32 and by float64
    metadata golden, JSON: keys/NET                             number of tensors, FNV-1a-64 of NAME SHAPE\\n
Written with torch 2.10.0, torchvision 0.25.0 and lerobot 0.4.4 on the CPU. Layers and pooling in
float64, stored as float32; resize and ResNets in float32. Seed 0.
"""

import json
import os
import sys

import lerobot
import torch
import torchvision
from lerobot.policies.diffusion.modeling_diffusion import SpatialSoftmax, _replace_submodules
from safetensors.torch import save_file
from torch import nn
from torchvision.ops.misc import FrozenBatchNorm2d
from torchvision.transforms import CenterCrop, Resize

from formula import fnv, formula

torch.manual_seed(0)
torch.set_num_threads(1)
TENSORS, METADATA = {}, {}


def rule(name, shape):
    if len(shape) == 4:
        return 0.0, (6.0 / (shape[1] * shape[2] * shape[3])) ** 0.5
    return {
        "weight": (0.6, 0.4),
        "bias": (0.0, 0.3),
        "running_mean": (0.0, 0.3),
        "running_var": (1.0, 0.5),
    }[name.rsplit(".", 1)[-1]]


def picture(name, *shape):
    return formula(name, shape, 0.5, 0.5)


def single(*shape):
    return torch.randn(*shape).float().double()


def layer(name, module, x):
    for p in module.parameters():
        p.data = (p.data + 0.3 * torch.randn_like(p)).float().double()
    for key, p in module.named_buffers():
        if key == "running_var" or (key == "weight" and p.dim() == 1):
            p.data = 1 + 0.5 * torch.rand_like(p)
        elif key in ("running_mean", "bias"):
            p.data = 0.3 * torch.randn_like(p)
        if p.is_floating_point():
            p.data = p.data.float().double()
    module = module.double().eval()
    x = x.requires_grad_()
    out = module(x)
    cotangent = single(*out.shape)
    (out * cotangent).sum().backward()
    case = f"layer/{name}"
    TENSORS[f"{case}/out"], TENSORS[f"{case}/cotangent"] = out, cotangent
    for key, p in module.named_parameters():
        TENSORS[f"{case}/weight/{key}"], TENSORS[f"{case}/grad/{key}"] = p, p.grad
    for key, p in module.named_buffers():
        TENSORS[f"{case}/weight/{key}"] = p
    TENSORS[f"{case}/input/x"], TENSORS[f"{case}/grad_input/x"] = x, x.grad


def pool(name, x):
    x = x.requires_grad_()
    out = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)(x)
    cotangent = single(*out.shape)
    (out * cotangent).sum().backward()
    for key, tensor in dict(input=x, out=out, cotangent=cotangent, grad=x.grad).items():
        TENSORS[f"pool/{name}/{key}"] = tensor


def backbone(depth, norm, dilate=False):
    """As the two policies of LeRobot make it."""
    build = getattr(torchvision.models, depth)
    if norm == "frozen":
        net = build(
            replace_stride_with_dilation=[False, False, dilate], weights=None, norm_layer=FrozenBatchNorm2d
        )
        return torchvision.models._utils.IntermediateLayerGetter(net, {"layer4": "feature_map"})
    net = nn.Sequential(*(list(build(weights=None).children())[:-2]))
    if norm == "group":
        net = _replace_submodules(
            root_module=net,
            predicate=lambda x: isinstance(x, nn.BatchNorm2d),
            func=lambda x: nn.GroupNorm(num_groups=x.num_features // 16, num_channels=x.num_features),
        )
    return net


def keys(name, net):
    lines = sorted(f"{k} {list(v.shape)}\n" for k, v in net.state_dict().items())
    METADATA[f"keys/{name}"] = f"{len(lines)} {fnv(''.join(lines).encode()):016x}"


def resnet(name, depth, norm, shape, dilate=False):
    net = backbone(depth, norm, dilate).eval()
    keys(f"{depth}-{norm}", net)
    state = net.state_dict()
    for key, tensor in state.items():
        if tensor.is_floating_point():
            tensor.copy_(formula(key, tuple(tensor.shape), *rule(key, tensor.shape)))
    net.load_state_dict(state)
    with torch.no_grad():
        out = net(picture(f"picture/{name}", *shape))
    out = out["feature_map"] if isinstance(out, dict) else out
    exact = net.double()
    with torch.no_grad():
        wide = exact(picture(f"picture/{name}", *shape).double())
    wide = wide["feature_map"] if isinstance(wide, dict) else wide
    print(f"{name}: {list(out.shape)}, largest {out.abs().max():.2f}, std {out.std():.2f}, "
          f"float32 against float64 {(out - wide).abs().max():.1e}")
    TENSORS[f"resnet/{name}"], TENSORS[f"exact/{name}"] = out[:, ::8], wide[:, ::8]


def main(path):
    conv = nn.Conv2d
    layer("conv-3x3", conv(5, 6, 3, padding=1), single(2, 5, 4, 5))
    layer("conv-3x3-stride-2", conv(4, 3, 3, stride=2, padding=1, bias=False), single(3, 4, 7, 6))
    layer("conv-7x7-stem", conv(3, 4, 7, stride=2, padding=3, bias=False), single(1, 3, 9, 12))
    layer("conv-1x1", conv(6, 5, 1), single(2, 6, 3, 4))
    layer("conv-1x1-stride-2", conv(6, 5, 1, stride=2, bias=False), single(2, 6, 5, 4))
    layer("conv-3x3-dilation-2", conv(4, 5, 3, padding=2, dilation=2), single(2, 4, 5, 6))
    layer("conv-3x3-all", conv(2, 3, 3, stride=2, padding=1, dilation=2), single(2, 2, 6, 9))
    layer("conv-2x2-stride-3", conv(3, 2, 2, stride=3), single(1, 3, 5, 8))
    layer("batch-norm", nn.BatchNorm2d(5), single(2, 5, 3, 4))
    layer("frozen", FrozenBatchNorm2d(5), single(2, 5, 3, 4))
    layer("spatial-softmax", SpatialSoftmax((6, 3, 5), 4), single(2, 6, 3, 5))

    pool("even", single(2, 3, 6, 8))
    pool("odd", single(1, 2, 7, 5))
    pool("thin", single(1, 2, 1, 4))
    pool("ties", torch.randint(0, 3, (2, 3, 7, 6)).double())

    for (h, w), (to_h, to_w) in [
        ((96, 96), (84, 84)), ((61, 83), (40, 57)), ((20, 30), (47, 31)), ((33, 40), (33, 57)),
        ((57, 50), (7, 3)), ((5, 5), (1, 1)), ((1, 1), (3, 2)), ((48, 64), (24, 32)), ((31, 17), (30, 18)),
    ]:
        x = picture(f"resize/{h}x{w}", 1, 1, h, w)
        TENSORS[f"resize/{h}x{w}/{to_h}x{to_w}"] = Resize((to_h, to_w))(x)
    x = picture("resize/gradient", 1, 2, 13, 9).requires_grad_()
    y = Resize((7, 12))(x)
    (y * picture("resize/cotangent", *y.shape)).sum().backward()
    TENSORS["resize/gradient"] = x.grad

    rows = []
    for length in range(1, 14):
        for cropped in range(1, length + 1):
            x = torch.arange(length).float().reshape(1, 1, length, 1)
            rows.append([length, cropped, CenterCrop((cropped, 1))(x)[0, 0, 0, 0].item()])
    TENSORS["crop"] = torch.tensor(rows)

    resnet("18-group", "resnet18", "group", (2, 3, 61, 83))
    resnet("18-frozen", "resnet18", "frozen", (1, 3, 48, 64))
    resnet("34-batch", "resnet34", "batch", (1, 3, 61, 83))
    resnet("50-group", "resnet50", "group", (1, 3, 33, 40))
    resnet("50-frozen-dilated", "resnet50", "frozen", (1, 3, 33, 70), dilate=True)
    resnet("50-batch", "resnet50", "batch", (1, 3, 20, 17))
    for depth in ["resnet101", "resnet152"]:
        for norm in ["group", "batch", "frozen"]:
            keys(f"{depth}-{norm}", backbone(depth, norm))

    tensors = {k: v.detach().float().contiguous().clone() for k, v in TENSORS.items()}
    METADATA.update(torch=torch.__version__, torchvision=torchvision.__version__, lerobot=lerobot.__version__)
    # One entry: the order of several is not the same in every run.
    save_file(tensors, path, metadata={"golden": json.dumps(METADATA, sort_keys=True)})
    os.chmod(path, 0o644)
    print(len(tensors), "tensors,", os.path.getsize(path), "bytes")


main(sys.argv[1])
