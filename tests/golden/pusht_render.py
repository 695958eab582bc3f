"""Frames of the real gym-pusht, for sim/tests/render.rs.

Writes pusht_render.json (poses, versions) and pusht_render.png (the 96x96 pictures under each other) beside
this file. Made with gym-pusht 0.1.8, pymunk 6.11.1, pygame 2.6.1, opencv-python 4.14.0:

    python tests/golden/pusht_render.py [--out DIR --episodes N]

--episodes makes a larger set of the same kind, for measuring rather than for committing.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib

os.environ["SDL_VIDEODRIVER"] = "dummy"
os.environ["PYGAME_HIDE_SUPPORT_PROMPT"] = "1"

import cv2
import gymnasium
import gym_pusht  # noqa: F401
import numpy as np

PACKAGES = ["gym-pusht", "pymunk", "pygame", "opencv-python", "numpy"]


def make_env(seed=None, state=None):
    env = gymnasium.make("gym_pusht/PushT-v0", obs_type="pixels_agent_pos").unwrapped
    env.reset(seed=seed, options=None if state is None else {"reset_to_state": state})
    return env


def frame(env, what):
    position = env.block.position
    block = [position.x, position.y, env.block.angle]
    return {"what": what, "agent": list(env.agent.position), "block": block}, env._render(visualize=False)


def through(env, target, steps, what):
    """The agent walks towards `target`, across whatever lies on the way."""
    for _ in range(steps):
        env.step(np.array(target, dtype=np.float64))
    return frame(env, what)


def chase(seed, steps, what):
    """The agent runs after the block's origin, with noise: contact in most frames."""
    env = make_env(seed)
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        env.step(np.clip(np.array(env.block.position) + rng.normal(0, 60, 2), 0, 512))
    return frame(env, what)


def committed():
    yield frame(make_env(0), "reset, seed 0")
    yield frame(make_env(1), "reset, seed 1")
    yield frame(make_env(state=[100, 100, 250, 300, 0.0]), "axes aligned")
    yield frame(make_env(state=[256, 80, 300, 250, np.pi / 4]), "falling diagonal")
    yield frame(make_env(state=[460, 300, 200, 250, -np.pi / 4 + 0.2]), "rising diagonal")
    yield chase(2, 12, "pushed, seed 2")
    yield chase(3, 25, "pushed, seed 3")
    yield chase(4, 40, "pushed, seed 4")
    yield through(make_env(state=[256, 200, 256, 330, 0.1]), [256, 440], 14, "pushed into the lower wall")
    yield through(make_env(state=[380, 256, 250, 256, 1.3]), [10, 256], 14, "pushed into the left wall")
    yield frame(make_env(state=[2, 508, 400, 120, 2.5]), "agent across a corner of the walls")
    yield frame(make_env(state=[300, 420, 289.5, 243.0, 0.80]), "near the goal")
    yield chase(3, 30, "squeezed into a corner, seed 3")
    yield chase(7, 17, "squeezed into a corner, seed 7")


def many(episodes):
    for seed in range(episodes):
        for steps in (0, 3, 9, 17, 30, 60):
            yield chase(seed, steps, f"seed {seed}, step {steps}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    parser.add_argument("--episodes", type=int, default=0)
    args = parser.parse_args()
    poses, pictures = zip(*(many(args.episodes) if args.episodes else committed()))
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    document = {"versions": versions, "frames": list(poses)}
    (args.out / "pusht_render.json").write_text(json.dumps(document, indent=1) + "\n")
    tall = cv2.cvtColor(np.concatenate(pictures), cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(args.out / "pusht_render.png"), tall, [cv2.IMWRITE_PNG_COMPRESSION, 9])


if __name__ == "__main__":
    main()
