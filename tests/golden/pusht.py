"""Golden trajectories of the real gym-pusht for sim/tests/parity.rs.

Run:  /work/py/gym/bin/python tests/golden/pusht.py [--expert ACTIONS.safetensors]
      (pip install gym-pusht==0.1.8 pymunk==6.11.1 numpy==2.4.6 shapely safetensors)
Out:  tests/golden/pusht.safetensors, with the versions that made it in its metadata;
      with --expert only tests/golden/pusht_expert.safetensors, from the actions that
      `cargo run --release -p pathline-sim --example pusht_actions -- ACTIONS.safetensors` records.

Tensors of pusht.safetensors
  reset.seed u64 [R], reset.state f64 [R,5]       env.reset(seed=...) -> observation
  cover.pose f64 [C,3], cover.value f64 [C]       block pose (x, y, angle) -> shapely coverage
  <set>.seed u64 [E]                              episodes start with env.reset(seed=...)
  <set>.action i16 [E,300,2]                      only for `pusher`; `random` is the LCG below
  <set>.pose f64 [E,30,6]                         after steps 10, 20, ... 300: agent x, y, block
                                                  x, y, angle (not wrapped), coverage
  <set>.keypoints f64 [E,16]                      after step 300
  <set>.wall u32 [E]                              first step (1..300) in which the block touches a
                                                  wall, 0 for the reset's substep, 301 for never
  <set>.dense f64 [4,300,6]                       episodes 0..3 at every step
  <set>.reward f64 [E,30], <set>.success u8 [E,30]
Tensors of pusht_expert.safetensors: seed u64 [E], length u32 [E], action f32 [sum of lengths, 2],
pose f64 [E,2,6] after the last and after the middle step (number length // 2 + 1), wall u32 [E],
success u8 [E] at the last step.
`random`: every 8 steps a new target anywhere in the box, held. LCG: s <- (1664525 s + 1013904223)
mod 2^32, started at the seed; a coordinate is (s >> 8) * 512 / 2^24; x is drawn before y.
`pusher`: a scripted pusher works at the block (see `pusher`), targets rounded to whole pixels (they
           may leave the box).
"""

import argparse
import os
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
import gymnasium as gym
import gym_pusht  # noqa: F401
import numpy as np
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).parent
STEPS, EVERY, DENSE = 300, 10, 4


def lcg_actions(seed):
    s, out = seed & 0xFFFFFFFF, []
    for k in range(STEPS):
        if k % 8 == 0:
            target = []
            for _ in range(2):
                s = (1664525 * s + 1013904223) & 0xFFFFFFFF
                target.append((s >> 8) * 512 / 2**24)
        out.append(target)
    return np.array(out)


# Middles of the faces of the T (body frame) and the directions into it.
FACES = [((0, 0), (0, 1)), ((-40, 0), (0, 1)), ((40, 0), (0, 1)), ((60, 15), (-1, 0)), ((-60, 15), (1, 0)),
         ((15, 75), (-1, 0)), ((-15, 75), (1, 0)), ((0, 120), (0, -1)), ((40, 30), (0, -1)), ((-40, 30), (0, -1))]


def pusher(env, rng):
    """Goes to a face of the T that pushes roughly towards the goal, 25 px off, then pushes it."""
    while True:
        block = env.block
        to_goal = np.array([256.0, 256.0]) - np.array(block.local_to_world((0, 45)))
        scores = []
        for point, normal in FACES:
            n = np.array(block.local_to_world(normal)) - np.array(block.position)
            scores.append(n @ to_goal + rng.normal(0, 40))
        point, normal = FACES[int(np.argmax(scores))]
        for _ in range(25):
            middle = np.array(block.local_to_world((0, 50)))
            start = np.array(block.local_to_world((point[0] - 22 * normal[0], point[1] - 22 * normal[1])))
            agent = np.array(env.agent.position)
            if np.linalg.norm(start - agent) < 4:
                break
            # Around the T on a circle of 110 px, then straight in.
            ends = [np.arctan2(*(p - middle)[::-1]) for p in (agent, start)]
            turn = (ends[1] - ends[0] + np.pi) % (2 * np.pi) - np.pi
            if abs(turn) > 0.2:
                at = ends[0] + np.clip(turn, -0.5, 0.5)
                target = middle + 110 * np.array([np.cos(at), np.sin(at)])
            else:
                target = start
            yield agent + (target - agent) * min(1.0, 60 / np.linalg.norm(target - agent))
        speed = rng.uniform(2, 8)
        for _ in range(int(rng.integers(6, 20))):
            n = np.array(block.local_to_world(normal)) - np.array(block.position)
            if n @ (np.array([256.0, 256.0]) - np.array(block.local_to_world((0, 45)))) < -10:
                break
            yield np.array(env.agent.position) + n * 3 * speed


def run(env, seed, actions):
    """One episode. `actions` yields targets, closed loop for `pusher`."""
    env.block_touches_wall = False
    env.reset(seed=seed)
    touched = [env.block_touches_wall]
    rows, done = [], []
    for k, action in zip(range(STEPS), actions):
        action = np.asarray(action, dtype=np.float64)
        env.block_touches_wall = False
        _, reward, terminated, _, info = env.step(action)
        touched.append(env.block_touches_wall)
        assert terminated == info["is_success"]
        rows.append([*env.agent.position, *env.block.position, env.block.angle, info["coverage"], reward, terminated])
        done.append(action)
    keypoints = env.get_keypoints(env._block_shapes).flatten()
    first = touched.index(True) if True in touched else STEPS + 1
    return np.array(rows, dtype=np.float64), np.array(done), keypoints, first


def watched_env():
    """PushTEnv that also notes contacts of the block with a wall."""
    env = gym.make("gym_pusht/PushT-v0", obs_type="state").unwrapped
    env.block_touches_wall = False

    def note(arbiter, space, data):
        bodies = {s.body for s in arbiter.shapes}
        env.block_touches_wall |= env.block in bodies and env.space.static_body in bodies

    env._handle_collision = note
    return env


def episodes(env, name, seeds, make_actions, out, store_actions):
    rows, acts, keys, walls = zip(*(run(env, s, make_actions(s)) for s in seeds))
    rows = np.stack(rows)
    kept = rows[:, EVERY - 1 :: EVERY]
    out[f"{name}.seed"] = np.array(seeds, dtype=np.uint64)
    out[f"{name}.pose"] = kept[..., :6].copy()
    out[f"{name}.reward"] = kept[..., 6].copy()
    out[f"{name}.success"] = kept[..., 7].astype(np.uint8)
    out[f"{name}.dense"] = rows[:DENSE, :, :6].copy()
    out[f"{name}.keypoints"] = np.stack(keys)
    out[f"{name}.wall"] = np.array(walls, dtype=np.uint32)
    if store_actions:
        out[f"{name}.action"] = np.stack(acts).astype(np.int16)
    free = sum(w > STEPS for w in walls)
    moved = np.abs(np.diff(rows[..., 2:5], axis=1)).max(-1) > 1e-6
    print(f"{name}: {len(seeds)} episodes, {free} without wall contact, block moves in {moved.mean():.0%} of steps,"
          f" {int(rows[..., 7].any(1).sum())} solved")


def expert(env, path):
    """Replays recorded expert actions; each episode has its own length."""
    data = load_file(path)
    out = {k: data[k] for k in ("seed", "length", "action")}
    poses, walls, success, at = [], [], [], 0
    for seed, length in zip(data["seed"], data["length"]):
        rows, _, _, wall = run(env, int(seed), data["action"][at : at + int(length)])
        at += int(length)
        poses.append(rows[-1, :6])
        poses.append(rows[len(rows) // 2, :6])
        walls.append(wall)
        success.append(rows[-1, 7])
    out["pose"] = np.array(poses).reshape(-1, 2, 6)
    out["wall"] = np.array(walls, dtype=np.uint32)
    out["success"] = np.array(success, dtype=np.uint8)
    print(f"expert: {len(walls)} episodes, {int(sum(success))} solved at the last step in the real gym-pusht")
    return out


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--expert")
    args = parser.parse_args()
    meta = {p: version(p) for p in ("gym-pusht", "pymunk", "gymnasium", "numpy", "shapely")}
    env = watched_env()
    if args.expert:
        save_file(expert(env, args.expert), HERE / "pusht_expert.safetensors", metadata=meta)
        return

    out = {}
    seeds = list(range(256)) + [2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**63, 2**64 - 1]
    out["reset.seed"] = np.array(seeds, dtype=np.uint64)
    out["reset.state"] = np.stack([env.reset(seed=s)[0] for s in seeds])

    rng = np.random.default_rng(7)
    near = np.array([256, 256, np.pi / 4]) + rng.normal(size=(300, 3)) * [15, 15, 0.2]
    wide = np.stack([rng.uniform(100, 400, 100), rng.uniform(100, 400, 100), rng.uniform(-7, 7, 100)], 1)
    # Exact overlaps and quarter turns, where clipping degenerates.
    exact = np.array([[256, 256, np.pi / 4 + k * np.pi / 2] for k in range(4)])
    poses = np.concatenate([near, wide, exact])
    values = []
    for x, y, angle in poses:
        env.block.angle = angle
        env.block.position = (x, y)
        values.append(env._get_coverage())
    out["cover.pose"], out["cover.value"] = poses, np.array(values)

    episodes(env, "random", range(0, 110), lcg_actions, out, False)

    def scripted(seed):
        rng = np.random.default_rng(seed)
        for target in pusher(env, rng):
            yield np.round(target)

    episodes(env, "pusher", range(1000, 1110), scripted, out, True)
    save_file(out, HERE / "pusht.safetensors", metadata=meta | {"seeds": "random 0-109, pusher 1000-1109, cover 7"})


main()
