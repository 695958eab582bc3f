"""LeRobot's side of tests/dataset.rs. Versions used: lerobot 0.4.4, datasets 4.8.5, pyarrow 26.0.1, torch 2.10.0.

    python lerobot_dataset.py golden OUT    LeRobot writes the small data set that the Rust reader is tested on
    python lerobot_dataset.py check DIR     LeRobot opens a data set that Pathline wrote and compares

`check` reads frames twice: through LeRobotDataset and, as the independent view, through pyarrow.
It also computes every episode's statistics again with LeRobot's own code. Exit status 0 means equal.
"""

import json
import os
import pathlib
import shutil
import sys
import tempfile
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("HF_HOME", tempfile.mkdtemp(prefix="hf-"))
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import torch  # noqa: E402
from lerobot.datasets.compute_stats import aggregate_stats, compute_episode_stats  # noqa: E402
from lerobot.datasets.lerobot_dataset import LeRobotDataset  # noqa: E402

TASKS = ["Push the T.", "Pull the T."]
LENGTHS = [5, 3, 7]


def value(episode, frame, element, offset):
    """A number that f32 holds exactly; tests/dataset.rs has the same formula."""
    return episode * 100 + frame * 1.5 + element * 0.25 + offset


def golden(out):
    shutil.rmtree(out, ignore_errors=True)
    vector = lambda dim, names=None: {"dtype": "float32", "shape": (dim,), "names": names}
    scalar = lambda dtype: {"dtype": dtype, "shape": (1,), "names": None}
    features = {
        "observation.state": vector(2, ["x", "y"]),
        "observation.environment_state": vector(16),
        "observation.image": {"dtype": "image", "shape": (4, 6, 3), "names": ["height", "width", "channel"]},
        "action": vector(2, ["x", "y"]),
        "next.reward": scalar("float32"),
        "next.done": scalar("bool"),
        "next.success": scalar("bool"),
    }
    ds = LeRobotDataset.create(
        "pathline/golden", fps=10, features=features, root=out, robot_type="pusht", use_videos=False
    )
    for episode, length in enumerate(LENGTHS):
        for frame in range(length):
            row = lambda dim, offset: np.array(
                [value(episode, frame, j, offset) for j in range(dim)], dtype=np.float32
            )
            last = frame == length - 1
            ds.add_frame(
                {
                    "observation.state": row(2, 0),
                    "observation.environment_state": row(16, 10),
                    "observation.image": np.full((4, 6, 3), episode * 10 + frame, dtype=np.uint8),
                    "action": row(2, -7),
                    "next.reward": np.array([frame / 8], dtype=np.float32),
                    "next.done": np.array([last]),
                    "next.success": np.array([last and episode != 1]),
                    "task": TASKS[episode % 2],
                }
            )
        ds.save_episode()
    ds.finalize()
    shutil.rmtree(pathlib.Path(out) / "images", ignore_errors=True)
    print("wrote", out, sum(p.stat().st_size for p in pathlib.Path(out).rglob("*") if p.is_file()), "bytes")


def check(root):
    root = pathlib.Path(root).resolve()
    assert (root / "meta/info.json").is_file(), f"no data set in {root}"  # LeRobot would ask the hub
    horizon = 16
    ds = LeRobotDataset(
        "pathline/check",
        root=root,
        delta_timestamps={"action": [i / 10 for i in range(horizon)], "observation.state": [-0.1, 0.0]},
    )
    print(f"LeRobotDataset: {ds.num_episodes} episodes, {ds.num_frames} frames, {ds.fps} fps")
    print("meta.tasks:", ds.meta.tasks.to_dict()["task_index"], "robot_type:", ds.meta.robot_type)
    ep = ds.meta.episodes
    print("meta.episodes[0]:", {k: v for k, v in ep[0].items()})
    assert len(ep) == ds.num_episodes == ds.meta.total_episodes
    assert ep[-1]["dataset_to_index"] == ds.num_frames == ds.meta.total_frames

    # The frames as pyarrow sees them, independently of LeRobot and of the `datasets` library.
    tables = [pq.read_table(p) for p in sorted((root / "data").glob("*/*.parquet"))]
    print("data files:", [t.num_rows for t in tables], "rows;", tables[0].schema.names)
    raw = {k: np.concatenate([np.array(t[k].to_pylist()) for t in tables]) for k in tables[0].schema.names}
    assert list(raw["index"]) == list(range(ds.num_frames))

    # Every frame of a small data set; of a large one (LeRobot takes milliseconds a frame) a few thousand, with
    # the last frames of every episode, where chunks are padded.
    picked = set(range(0, ds.num_frames, max(1, ds.num_frames // 2000)))
    picked |= {end - k for end in ep["dataset_to_index"] for k in (1, 2)[: 1 + (len(ep) < 1000)]}
    picked = sorted(i for i in picked if 0 <= i)
    seen = 0
    for batch in torch.utils.data.DataLoader(torch.utils.data.Subset(ds, picked), batch_size=64, shuffle=False):
        rows = batch["index"].numpy()
        seen += len(rows)
        assert batch["action"].shape[1:] == (horizon, raw["action"].shape[1]), batch["action"].shape
        for i, index in enumerate(rows):
            end = int(ep[int(batch["episode_index"][i])]["dataset_to_index"])
            start = int(ep[int(batch["episode_index"][i])]["dataset_from_index"])
            want = [min(index + k, end - 1) for k in range(horizon)]
            assert np.array_equal(batch["action"][i].numpy(), raw["action"][want].astype(np.float32))
            assert [bool(p) for p in batch["action_is_pad"][i]] == [index + k >= end for k in range(horizon)]
            want = [max(index - 1, start), index]
            got = batch["observation.state"][i].numpy()
            assert np.array_equal(got, raw["observation.state"][want].astype(np.float32))
            assert batch["task"][i] == ds.meta.tasks.iloc[int(raw["task_index"][index])].name
    assert seen == len(picked)
    print(f"DataLoader: {seen} of {ds.num_frames} frames, action {tuple(batch['action'].shape)} with padding, all equal to pyarrow's")

    # Statistics: LeRobot's own code on the same frames, episode by episode, then aggregated.
    tables = [pq.read_table(p) for p in sorted((root / "meta/episodes").glob("*/*.parquet"))]
    written = {k: [v for t in tables for v in t[k].to_pylist()] for k in tables[0].schema.names}
    per_episode, worst = [], {}

    def compare(stats, get, spread, frames):
        for key, ft in stats.items():
            exact = frames[key].astype(float)
            assert np.allclose(get(key, "mean"), exact.mean(0), rtol=1e-9, atol=1e-9), key
            assert np.allclose(get(key, "std"), exact.std(0), rtol=1e-7, atol=1e-7), key
            width = np.asarray(spread[key], dtype=float)
            for name, want in ft.items():
                want, got = np.asarray(want, dtype=float), np.asarray(get(key, name), dtype=float)
                assert want.shape == got.shape, (key, name, want.shape, got.shape)
                err = float(np.max(np.abs(want - got) / (1 + np.abs(want))))
                worst[name] = max(worst.get(name, 0.0), err)
                if name in ("min", "max", "count"):
                    assert err == 0, (key, name, want, got)
                elif name.startswith("q"):  # LeRobot bins in f32: one of its 5000 bins either way
                    assert np.all(np.abs(want - got) <= width / 5000 * 1.01 + 1e-4), (key, name, want, got)
                elif name == "std":  # LeRobot's E[x^2] - E[x]^2 is f32: off by up to 1e-5 of the square
                    square = np.maximum(*(np.asarray(ft[k], dtype=float) ** 2 for k in ("min", "max")))
                    assert np.all(np.abs(want**2 - got**2) <= 1e-6 + 1e-5 * square), (key, name, want, got)
                else:
                    assert np.all(np.abs(want - got) <= 1e-4 * (1 + np.abs(want))), (key, name, want, got)

    for e in range(ds.num_episodes):
        rows = slice(ep[e]["dataset_from_index"], ep[e]["dataset_to_index"])
        data = {}
        for key, ft in ds.features.items():
            data[key] = raw[key][rows].astype(ft["dtype"])
        stats = compute_episode_stats(data, ds.features)
        per_episode.append(stats)
        spread = {k: np.asarray(s["max"], dtype=float) - np.asarray(s["min"], dtype=float) for k, s in stats.items()}
        compare(stats, lambda key, name: written[f"stats/{key}/{name}"][e], spread, data)
    total = aggregate_stats(per_episode)
    spread = {k: np.asarray(s["max"], dtype=float) - np.asarray(s["min"], dtype=float) for k, s in total.items()}
    compare(total, lambda key, name: ds.meta.stats[key][name], spread, raw)
    assert set(total) == set(ds.meta.stats) == set(ds.features)
    print("statistics, largest |difference| / (1 + |LeRobot's|):", {k: f"{v:.1e}" for k, v in worst.items()})

    # What LeRobot's policies make of it.
    from lerobot.datasets.utils import dataset_to_policy_features

    print("policy features:", {k: (f.type.value, f.shape) for k, f in dataset_to_policy_features(ds.features).items()})
    assert json.loads((root / "meta/info.json").read_text())["codebase_version"] == "v3.0"
    # A selection of episodes goes another way (pyarrow filters).
    pick = sorted({0, ds.num_episodes - 1})
    some = LeRobotDataset("pathline/check", root=root, episodes=pick)
    assert len(some) == sum(ep[e]["length"] for e in pick)
    print(f"episodes={pick}: {len(some)} frames\nOK")


if __name__ == "__main__":
    {"golden": golden, "check": check}[sys.argv[1]](sys.argv[2])
