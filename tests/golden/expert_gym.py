"""Drives the real gym_pusht/PushT-v0 (0.1.8) with Pathline's expert and counts successes.

usage: expert_gym.py BINARY [FIRST_SEED] [EPISODES]
BINARY is sim/examples/expert_stdio.rs, built with
`cargo build --release -p pathline-sim --example expert_stdio`.
Prints one line with the success rate and the steps of the solved episodes.
"""

import statistics
import subprocess
import sys
import time

import gym_pusht  # noqa: F401  registers the environment
import gymnasium as gym


def main():
    binary = sys.argv[1]
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 200_000
    episodes = int(sys.argv[3]) if len(sys.argv) > 3 else 100
    env = gym.make("gym_pusht/PushT-v0", obs_type="state")
    expert = subprocess.Popen([binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    lengths, failed = [], []
    start = time.time()
    for seed in range(first, first + episodes):
        env.reset(seed=seed)
        world = env.unwrapped
        expert.stdin.write("reset\n")
        steps = 0
        while True:
            agent, block = world.agent, world.block
            state = [*agent.position, *agent.velocity, *block.position, block.angle]
            expert.stdin.write(" ".join(repr(float(x)) for x in state) + "\n")
            expert.stdin.flush()
            action = [float(x) for x in expert.stdout.readline().split()]
            _, _, terminated, truncated, info = env.step(action)
            steps += 1
            if terminated or truncated:
                break
        if info["is_success"]:
            lengths.append(steps)
        else:
            failed.append(seed)
    expert.stdin.close()
    expert.wait()
    share = 100.0 * len(lengths) / episodes
    print(
        f"gym_pusht/PushT-v0 seeds {first}..{first + episodes}: solved {len(lengths)}/{episodes}"
        f" = {share:.1f} %, steps mean {statistics.mean(lengths):.1f}"
        f" median {statistics.median(lengths):.0f} longest {max(lengths)},"
        f" {(time.time() - start) / episodes:.2f} s an episode"
    )
    if failed:
        print("not solved:", failed)


if __name__ == "__main__":
    main()
