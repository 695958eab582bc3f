"""Control steps per second of gym-pusht on one core: the peer of sim/benches/pusht.rs.

Run:  python benches/peers/pusht_gym.py   (pip install gym-pusht==0.1.8 pymunk==6.11.1)
The same start and targets as the Rust benchmark. Only `step` of the bare environment with
obs_type="state" is timed: no wrappers, no pictures, no reset.
"""

import os
import time

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
import gymnasium as gym
import gym_pusht  # noqa: F401
import numpy as np

STEPS, SECONDS = 20, 5.0
env = gym.make("gym_pusht/PushT-v0", obs_type="state").unwrapped
targets = [np.array([110.0 + 18 + 9 * k, 270.0]) for k in range(STEPS + 1)]
spent, steps, moved, rates = 0.0, 0, 0, []
while spent < SECONDS:
    env.reset(options={"reset_to_state": [110.0, 270.0, 190.0, 256.0, 0.0]})
    env.step(targets[0])
    pose = tuple(env.block.position)
    start = time.perf_counter()
    for k in range(1, STEPS + 1):
        env.step(targets[k])
    took = time.perf_counter() - start
    moved += tuple(env.block.position) != pose
    spent, steps = spent + took, steps + STEPS
    rates.append(STEPS / took)
print(f"gym-pusht: {steps / spent:.0f} control steps/s over {spent:.1f} s, median round {np.median(rates):.0f},"
      f" best {max(rates):.0f}; block moved in {moved}/{len(rates)} rounds; end {env.block.position}")
