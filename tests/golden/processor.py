#!/usr/bin/env python3
"""Golden values of LeRobot's processors for tests/processor.rs: processor.json, processor/*.

    pip install lerobot==0.4.4
    python tests/golden/processor.py

`cases`: one feature, its statistics of any shape that broadcasts, and what NormalizerProcessorStep
makes of it; back is what UnnormalizerProcessorStep makes of `input` taken as normalised.
`folders`: pipelines that LeRobot wrote (processor/NAME) and, loaded again by LeRobot, what they make of an
observation and of actions. `config` is what config.json says, which need not be what the steps say.
`legacy`: a model file of before 0.4 (processor/legacy/model.safetensors), named as
processor/migrate_policy_normalization.py expects; MEAN_STD through today's steps, MIN_MAX by the formula of
then, `2·(x − min)/(max − min + 1e-8) − 1` and back without epsilon.
All numbers are f32. Seed: 5.
"""

import json
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.utils import prepare_observation_for_inference
from lerobot.processor import (
    AddBatchDimensionProcessorStep,
    DeviceProcessorStep,
    IdentityProcessorStep,
    NormalizerProcessorStep,
    PolicyProcessorPipeline,
    RenameObservationsProcessorStep,
    UnnormalizerProcessorStep,
)
from lerobot.processor.converters import policy_action_to_transition, transition_to_policy_action
from lerobot.processor.core import TransitionKey
from lerobot.processor.migrate_policy_normalization import extract_normalization_stats
from safetensors.torch import save_file

HERE = Path(__file__).parent
STATE, ENV, ACTION, VISUAL = FeatureType.STATE, FeatureType.ENV, FeatureType.ACTION, FeatureType.VISUAL
IDENTITY, MEAN_STD, MIN_MAX = NormalizationMode.IDENTITY, NormalizationMode.MEAN_STD, NormalizationMode.MIN_MAX
QUANTILES, QUANTILE10 = NormalizationMode.QUANTILES, NormalizationMode.QUANTILE10

torch.set_num_threads(1)
G = torch.Generator().manual_seed(5)


def normal(*shape):
    return torch.randn(*shape, generator=G)


def pixels(*shape):
    return 512 * torch.rand(*shape, generator=G)


def unit(*shape):
    return torch.rand(*shape, generator=G)


def flat(t):
    assert t.dtype == torch.float32, t.dtype
    return t.flatten().tolist()


def transform(step, key, kind, x):
    """Through the step's __call__, as LeRobot's pipeline does it."""
    if kind is ACTION:
        return step({TransitionKey.ACTION: x})[TransitionKey.ACTION]
    return step({TransitionKey.OBSERVATION: {key: x}})[TransitionKey.OBSERVATION][key]


def case(name, key, kind, mode, stats, raw, normalized, eps=1e-8, rows=1):
    """`raw` is [n, *shape]; with rows > 1 it is [n, rows, dim]."""
    shape = raw.shape[1:] if rows == 1 else raw.shape[2:]
    common = {
        "features": {key: PolicyFeature(type=kind, shape=tuple(shape))},
        "norm_map": {kind: mode},
        "stats": {key: {k: v.numpy() for k, v in stats.items()}},
        "eps": eps,
    }
    forward = transform(NormalizerProcessorStep(**common), key, kind, raw)
    back = transform(UnnormalizerProcessorStep(**common), key, kind, normalized)
    assert forward.shape == raw.shape and back.shape == normalized.shape
    return {
        "name": name,
        "mode": mode.value,
        "eps": eps,
        "shape": list(raw.shape[1:]),
        "stats": {k: {"shape": list(v.shape), "values": flat(v)} for k, v in stats.items()},
        "raw": flat(raw),
        "normalized": flat(forward),
        "input": flat(normalized),
        "back": flat(back),
    }


def steps():
    chunk = normal(3, 16, 2) * 40
    state, env = "observation.state", "observation.environment_state"
    top = "observation.images.top"
    q = lambda n: {"q01": -1 - pixels(n), "q99": 1 + pixels(n), "q10": -unit(n), "q90": 1 + unit(n)}
    flat_q = {"q01": torch.tensor([7.0, 0.1, 3.0]), "q99": torch.tensor([7.0, 0.1, 3.0000002])}
    channel = lambda low: low + unit(3, 1, 1)
    t = torch.tensor
    return [
        case("mean_std", state, STATE, MEAN_STD, {"mean": pixels(2), "std": 1 + pixels(2) / 4}, pixels(5, 2), normal(5, 2)),
        case(
            "mean_std, one scale for each row of the chunk", "action", ACTION, MEAN_STD,
            {"mean": chunk.mean(0), "std": chunk.std(0) * torch.linspace(0.1, 4, 16)[:, None]},
            chunk, normal(3, 16, 2), rows=16,
        ),
        case(
            "mean_std without spread", state, STATE, MEAN_STD,
            {"mean": t([300.0, -2.0]), "std": t([0.0, 1e-9])},
            t([[300.0, -2.0], [300.0, -2.0], [300.5, -1.0]]), normal(3, 2),
        ),
        case("mean_std, another epsilon", state, STATE, MEAN_STD, {"mean": unit(2), "std": t([0.0, 0.01])}, unit(2, 2), normal(2, 2), eps=1e-3),
        case("min_max", env, ENV, MIN_MAX, {"min": pixels(16) / 8, "max": 300 + pixels(16)}, pixels(4, 16), normal(4, 16)),
        case(
            "min_max, constant and far from zero", env, ENV, MIN_MAX,
            {"min": t([300.0, 1e6]), "max": t([300.0, 1e6 + 0.5])},
            t([[300.0, 1e6], [300.0, 1e6 + 0.25]]), normal(2, 2),
        ),
        case("min_max, constant, another epsilon", state, STATE, MIN_MAX, {"min": t([0.3, 0.0]), "max": t([0.3, 1e-5])}, unit(3, 2), normal(3, 2), eps=1e-3),
        case("quantiles", state, STATE, QUANTILES, q(6), pixels(4, 6), normal(4, 6)),
        case("quantiles of a chunk", "action", ACTION, QUANTILES, q(3), pixels(2, 5, 3), normal(2, 5, 3), rows=5),
        case("quantiles, q01 == q99", state, STATE, QUANTILES, flat_q, t([[7.0, 0.1, 3.0], [7.5, 0.0, 3.0000002]]), normal(2, 3)),
        case("quantile10", state, STATE, QUANTILE10, q(6), normal(4, 6), normal(4, 6)),
        case("one number for all", state, STATE, MIN_MAX, {"min": t(-3.0), "max": t([5.0])}, normal(4, 3), normal(4, 3)),
        case("a picture, mean_std", top, VISUAL, MEAN_STD, {"mean": channel(0), "std": channel(0.1)}, unit(2, 3, 4, 5), normal(2, 3, 4, 5)),
        case("a picture, min_max", top, VISUAL, MIN_MAX, {"min": channel(-1), "max": channel(1)}, unit(2, 3, 4, 5), normal(2, 3, 4, 5)),
        case("a picture, a number for all", top, VISUAL, MEAN_STD, {"mean": t([0.5]), "std": t(0.2)}, unit(1, 3, 2, 3), normal(1, 3, 2, 3)),
        case("a picture, every pixel", top, VISUAL, QUANTILES, {"q01": -unit(3, 2, 3), "q99": channel(1)}, unit(2, 3, 2, 3), normal(2, 3, 2, 3)),
        case("identity", "action", ACTION, IDENTITY, {"mean": pixels(2), "std": pixels(2)}, pixels(3, 2), normal(3, 2)),
    ]


def statistics(features):
    """Every statistic that a dataset of LeRobot has; the first dimension of a state is constant."""
    stats = {}
    for key, feature in features.items():
        shape = (feature.shape[0], 1, 1) if feature.type is VISUAL else feature.shape
        scale = 1.0 if feature.type is VISUAL else 100.0
        low = scale * (torch.rand(*shape, generator=G) - 1.5)
        width = scale * (0.1 + torch.rand(*shape, generator=G))
        if feature.type is STATE:
            width[0] = 0
        of = lambda part: low + part * width
        names = {"min": 0, "q01": 0.01, "q10": 0.1, "mean": 0.45, "q50": 0.5, "q90": 0.9, "q99": 0.99, "max": 1}
        stats[key] = {name: of(part) for name, part in names.items()} | {"std": width / 3}
        stats[key]["count"] = torch.tensor([1000])
    return {key: {name: v.numpy() for name, v in sub.items()} for key, sub in stats.items()}


def folder(name, kind, config, pre, post, raw, edit=None):
    """Saves the pipelines, loads them with LeRobot, and runs them over `raw` and actions."""
    where = HERE / "processor" / name
    pre.save_pretrained(where)
    post.save_pretrained(where)
    if edit:
        for file in ["policy_preprocessor.json", "policy_postprocessor.json"]:
            pipeline = json.loads((where / file).read_text())
            edit(pipeline)
            (where / file).write_text(json.dumps(pipeline, indent=2))
    load = PolicyProcessorPipeline.from_pretrained
    pre = load(where, config_filename="policy_preprocessor.json")
    post = load(
        where,
        config_filename="policy_postprocessor.json",
        to_transition=policy_action_to_transition,
        to_output=transition_to_policy_action,
    )
    seen = pre(prepare_observation_for_inference({k: v.copy() for k, v in raw.items()}, torch.device("cpu")))
    dim = config["output_features"]["action"].shape[0]
    normalized = normal(4, dim)
    actions = post(normalized)
    features = lambda fs: {k: {"type": f.type.value, "shape": list(f.shape)} for k, f in fs.items()}
    pictures = {k: v for k, v in raw.items() if v.ndim == 3}
    return {
        "name": name,
        "config": {
            "kind": kind,
            "input_features": features(config["input_features"]),
            "output_features": features(config["output_features"]),
            "normalization_mapping": {k: v.value for k, v in config["normalization_mapping"].items()},
        },
        "vectors": {k: v.tolist() for k, v in raw.items() if v.ndim == 1},
        "pictures": {k: {"shape": list(v.shape), "data": v.flatten().tolist()} for k, v in pictures.items()},
        "inputs": {k: {"shape": list(seen[k].shape), "data": flat(seen[k])} for k in config["input_features"]},
        "normalized": flat(normalized),
        "actions": flat(actions),
    }


def of_policy(name, kind, cls, mapping, inputs, dim):
    outputs = {"action": PolicyFeature(type=ACTION, shape=(dim,))}
    kwargs = {"input_features": inputs, "output_features": outputs, "device": "cpu"}
    if mapping:
        kwargs["normalization_mapping"] = mapping
    config = cls(**kwargs)
    pre, post = make_pre_post_processors(config, dataset_stats=statistics({**inputs, **outputs}))
    raw = observation(inputs)
    names = ["input_features", "output_features", "normalization_mapping"]
    return folder(name, kind, {n: getattr(config, n) for n in names}, pre, post, raw)


def observation(features):
    rng = np.random.default_rng(int(torch.randint(1 << 30, (1,), generator=G)))
    raw = {}
    for key, feature in features.items():
        if feature.type is VISUAL:
            c, h, w = feature.shape
            raw[key] = rng.integers(0, 256, (h, w, c), dtype=np.uint8)
        else:
            raw[key] = (100 * (rng.random(feature.shape) - 1)).astype(np.float32)
    return raw


def disagreement():
    """Steps that say something else than config.json, with classes for names and other keys."""
    feature = lambda kind, *shape: PolicyFeature(type=kind, shape=shape)
    inputs = {
        "observation.images.top": feature(VISUAL, 3, 3, 4),
        "observation.images.side": feature(VISUAL, 3, 2, 2),
        "observation.image": feature(VISUAL, 3, 2, 3),
        "observation.state": feature(STATE, 3),
        "observation.environment_state": feature(ENV, 2),
    }
    outputs = {"action": feature(ACTION, 2)}
    stats = statistics({**inputs, **outputs})
    config = {
        "input_features": inputs,
        "output_features": outputs,
        "normalization_mapping": {"VISUAL": MEAN_STD, "STATE": MIN_MAX, "ENV": MIN_MAX, "ACTION": MIN_MAX},
    }
    config["normalization_mapping"] = {FeatureType(k): v for k, v in config["normalization_mapping"].items()}
    # The side camera is in no features, the image and the environment are not among the keys, and the state
    # is said to be of the environment.
    listed = {k: v for k, v in inputs.items() if k != "observation.images.side"}
    listed["observation.state"] = feature(ENV, 3)
    step = {"eps": 1e-2, "stats": stats}
    pre = PolicyProcessorPipeline(
        steps=[
            RenameObservationsProcessorStep(rename_map={"observation.images.front": "observation.images.top"}),
            AddBatchDimensionProcessorStep(),
            IdentityProcessorStep(),
            NormalizerProcessorStep(
                features={**listed, **outputs},
                norm_map={VISUAL: MIN_MAX, ENV: MEAN_STD, ACTION: IDENTITY},
                normalize_observation_keys={"observation.state", "observation.images.top", "observation.images.side"},
                **step,
            ),
            DeviceProcessorStep(device="cpu", float_dtype="float32"),
        ],
        name="policy_preprocessor",
    )
    post = PolicyProcessorPipeline(
        steps=[UnnormalizerProcessorStep(features={}, norm_map={ACTION: QUANTILE10}, **step)],
        name="policy_postprocessor",
        to_transition=policy_action_to_transition,
        to_output=transition_to_policy_action,
    )
    classes = {
        "normalizer_processor": "lerobot.processor.normalize_processor.NormalizerProcessorStep",
        "unnormalizer_processor": "lerobot.processor.UnnormalizerProcessorStep",
        "to_batch_processor": "lerobot.processor.batch_processor.AddBatchDimensionProcessorStep",
    }

    def edit(pipeline):
        for entry in pipeline["steps"]:
            if entry.get("registry_name") in classes:
                entry["class"] = classes[entry.pop("registry_name")]

    raw = observation(inputs)
    raw["observation.images.front"] = raw.pop("observation.images.top")
    return folder("disagreement", "diffusion", config, pre, post, raw, edit)


def legacy():
    feature = lambda kind, *shape: PolicyFeature(type=kind, shape=shape)
    features = {
        "observation.images.wrist_left": (feature(VISUAL, 3, 2, 3), MEAN_STD),
        "observation.state": (feature(STATE, 3), MIN_MAX),
        "observation.environment_state": (feature(ENV, 2), MEAN_STD),
        "action": (feature(ACTION, 2), MIN_MAX),
    }
    stats = statistics({k: f for k, (f, _) in features.items()})
    wanted = {MEAN_STD: ["mean", "std"], MIN_MAX: ["min", "max"]}
    tensors = {"diffusion.unet.final_conv.1.bias": torch.zeros(2)}
    cases = []
    for key, (f, mode) in features.items():
        modules = ["normalize_targets", "unnormalize_outputs"] if key == "action" else ["normalize_inputs"]
        own = {name: torch.tensor(stats[key][name]) for name in wanted[mode]}
        if key == "action":  # So narrow that epsilon matters.
            own["max"][1] = own["min"][1] = 0.001
            own["max"][1] += 1e-7
        for module in modules:
            for name, value in own.items():
                tensors[f"{module}.buffer_{key.replace('.', '_')}.{name}"] = value.clone()
        raw, normalized = own[wanted[mode][0]] + unit(4, *f.shape), normal(4, *f.shape)
        if mode is MEAN_STD:
            common = {"features": {key: f}, "norm_map": {f.type: mode}, "stats": {key: own}}
            forward = transform(NormalizerProcessorStep(**common), key, f.type, raw)
            back = transform(UnnormalizerProcessorStep(**common), key, f.type, normalized)
        else:
            low, width = own["min"], own["max"] - own["min"]
            forward = (raw - low) / (width + 1e-8) * 2 - 1
            back = (normalized + 1) / 2 * width + low
        cases.append({
            "key": key, "mode": mode.value, "type": f.type.value, "shape": list(f.shape),
            "raw": flat(raw), "normalized": flat(forward), "input": flat(normalized), "back": flat(back),
        })
    # LeRobot's own script finds them, but for keys that have an underscore.
    found = extract_normalization_stats(tensors)
    for key in ["observation.state", "action"]:
        assert all(torch.equal(found[key][n], tensors[f"{m}.buffer_{key.replace('.', '_')}.{n}"])
                   for m, n in [("normalize_inputs" if key != "action" else "unnormalize_outputs", n) for n in ["min", "max"]])
    assert "observation.environment_state" not in found and "observation.environment.state" in found
    (HERE / "processor/legacy").mkdir(parents=True, exist_ok=True)
    save_file(tensors, HERE / "processor/legacy/model.safetensors", metadata={"format": "pt"})
    return cases


def main():
    shutil.rmtree(HERE / "processor", ignore_errors=True)
    feature = lambda kind, *shape: PolicyFeature(type=kind, shape=shape)
    cases = steps()
    folders = [
        of_policy(
            "diffusion", "diffusion", DiffusionConfig, None,
            {
                "observation.image": feature(VISUAL, 3, 4, 5),
                "observation.state": feature(STATE, 4),
                "observation.environment_state": feature(ENV, 3),
            },
            2,
        ),
        of_policy(
            "act", "act", ACTConfig,
            {VISUAL: MIN_MAX, STATE: QUANTILES, ENV: QUANTILE10, ACTION: MEAN_STD},
            {
                "observation.state": feature(STATE, 5),
                "observation.images.top": feature(VISUAL, 3, 4, 3),
                "observation.images.side": feature(VISUAL, 3, 3, 2),
                "observation.environment_state": feature(ENV, 3),
            },
            5,
        ),
        disagreement(),
    ]
    golden = {
        "made_with": {"lerobot": version("lerobot"), "torch": version("torch"), "seed": 5},
        "cases": cases,
        "folders": folders,
        "legacy": legacy(),
    }
    text = json.dumps(golden, indent=None, separators=(",", ":"))
    text = text.replace('{"name"', '\n{"name"').replace('{"key"', '\n{"key"')
    (HERE / "processor.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
