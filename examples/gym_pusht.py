"""The original gym-pusht as a robot on Pathline's bus: `pathline serve` drives it.

    pip install gym-pusht eclipse-zenoh numpy
    pathline serve --policy policies/pusht-flow                 # one terminal
    python examples/gym_pusht.py --episodes 100 --seed 100000   # another

Lockstep: a chunk is waited for on the ticks where one is due, that is, when none is being played or
`n_action_steps` rows of it (from policy/info) have been. Row i of a chunk belongs to tick obs_tick + i.
The messages are CDR little-endian as in src/wire/msg; what is below packs one and unpacks the other.
"""

import argparse
import json
import queue
import random
import struct
import sys
import time

# This file has the name of the package: without this line it would import itself.
sys.path.pop(0)

import gym_pusht  # noqa: E402, F401  registers gym_pusht/PushT-v0
import gymnasium  # noqa: E402
import numpy as np  # noqa: E402
import zenoh  # noqa: E402


class Writer:
    """CDR: every number is aligned to its own size, counted from behind the four header bytes."""

    def __init__(self):
        self.body = bytearray()

    def put(self, code, *values):
        size = struct.calcsize("<" + code)
        for value in values:
            self.body += bytes(-len(self.body) % size) + struct.pack("<" + code, value)

    def string(self, text):
        data = text.encode() + b"\0"
        self.put("I", len(data))
        self.body += data

    def floats(self, values):
        self.put("I", len(values))
        self.body += np.asarray(values, dtype="<f4").tobytes()

    def bytes(self):
        return b"\x00\x01\x00\x00" + bytes(self.body)


class Reader:
    """The way back."""

    def __init__(self, data):
        if data[:2] != b"\x00\x01":
            raise ValueError("expected CDR little-endian")
        self.body, self.at = data[4:], 0

    def get(self, code):
        size = struct.calcsize("<" + code)
        self.at += -self.at % size
        (value,) = struct.unpack_from("<" + code, self.body, self.at)
        self.at += size
        return value

    def string(self):
        n = self.get("I")
        self.at += n
        return self.body[self.at - n : self.at - 1].decode()

    def floats(self):
        n = self.get("I")
        self.at += 4 * n
        if self.at > len(self.body):
            raise ValueError("cut short")
        return np.frombuffer(self.body, dtype="<f4", count=n, offset=self.at - 4 * n)


def pack_observation(o, state, environment_state):
    """policy_msgs/Observation up to executing_index: who ends there asks by the policy's own rule."""
    w = Writer()
    now = time.time_ns()
    w.put("i", now // 10**9)
    w.put("I", now % 10**9)
    w.string("gym_pusht")
    w.put("Q", o["session"], o["tick"], o["tick"] + 1)  # seq counts from 1
    w.put("I", o["episode"], o["step"])
    w.string("push the T onto the goal")
    w.floats(state)
    w.floats(environment_state)
    w.put("I", 0)  # images
    w.put("Q", o["executing_chunk"])
    w.put("i", o["executing_index"])
    return w.bytes()


def unpack_chunk(data):
    """policy_msgs/ActionChunk, as a dict of its fields."""
    r = Reader(data)
    c = {"stamp": (r.get("i"), r.get("I")), "frame_id": r.string()}
    for name in ("session", "epoch", "seq", "obs_seq", "obs_tick"):
        c[name] = r.get("Q")
    c["obs_stamp"], c["episode"] = (r.get("i"), r.get("I")), r.get("I")
    c["t0"], c["dt"] = (r.get("i"), r.get("I")), (r.get("i"), r.get("I"))
    for name in ("horizon", "dim", "prefix_len", "nfe"):
        c[name] = r.get("H")
    c["infer_ms"], c["seed"], c["flags"] = r.get("f"), r.get("Q"), r.get("I")
    c["actions"] = r.floats().reshape(c["horizon"], c["dim"])
    if not np.isfinite(c["actions"]).all():
        raise ValueError("not finite")
    return c


class Robot:
    """The keys of one robot, and the ticks of one run."""

    def __init__(self, args):
        config = zenoh.Config()
        config.insert_json5("mode", '"client"')
        config.insert_json5("connect/endpoints", json.dumps([args.connect]))
        config.insert_json5("scouting/multicast/enabled", "false")
        self.bus = zenoh.open(config)
        self.prefix, self.timeout = f"pathline/{args.robot}", args.timeout
        self.session, self.tick, self.chunk = random.getrandbits(63) | 1, 0, None
        self.gid, self.came = random.randbytes(16), queue.Queue(64)
        self.sub = self.bus.declare_subscriber(f"{self.prefix}/cmd/chunk", self.on_chunk)
        self.pub = self.bus.declare_publisher(
            f"{self.prefix}/obs",
            encoding="application/cdr;policy_msgs/msg/Observation",
            express=True,
            priority=zenoh.Priority.DATA_HIGH,
            congestion_control=zenoh.CongestionControl.BLOCK,  # lockstep: lose nothing
        )
        # Our subscriber is declared before the question: who answers it knows where chunks go.
        self.info = self.ask("policy/info")
        self.ask("policy/reset")

    def on_chunk(self, sample):
        try:
            self.came.put_nowait((unpack_chunk(sample.payload.to_bytes()), time.monotonic()))
        except (ValueError, struct.error, queue.Full) as error:
            print(f"chunk dropped: {error!r}", file=sys.stderr)

    def ask(self, what):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for reply in self.bus.get(f"{self.prefix}/{what}", timeout=2.0):
                if reply.ok is not None:
                    return json.loads(reply.ok.payload.to_string())
            time.sleep(0.1)
        raise SystemExit(f"no policy answers on {self.prefix}/{what}: start `pathline serve`")

    def action(self, episode, step, state, environment_state, latencies):
        """Puts the observation of this tick and returns the action of this tick."""
        index = -1 if self.chunk is None else self.tick - self.chunk["obs_tick"]
        if self.chunk is not None and index >= self.chunk["horizon"]:
            self.chunk, index = None, -1
        due = self.chunk is None or index >= self.info["n_action_steps"]
        o = {"session": self.session, "tick": self.tick, "episode": episode, "step": step,
             "executing_chunk": self.chunk["seq"] if self.chunk else 0,
             "executing_index": index}  # fmt: skip
        stamp = struct.pack("<qqB16s", self.tick + 1, time.time_ns(), 16, self.gid)
        sent = time.monotonic()
        self.pub.put(pack_observation(o, state, environment_state), attachment=stamp)
        while due:
            try:
                chunk, at = self.came.get(timeout=max(0.0, sent + self.timeout - time.monotonic()))
            except queue.Empty:
                raise SystemExit(f"tick {self.tick}: no chunk within {self.timeout} s") from None
            if chunk["session"] == self.session and chunk["obs_tick"] == self.tick:
                self.chunk, index, due = chunk, 0, False
                latencies.append((at - sent) * 1e3 - chunk["infer_ms"])
        self.tick += 1
        return self.chunk["actions"][index]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-e", "--connect", default="tcp/127.0.0.1:7447")
    parser.add_argument("--robot", default="pusht")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--seed", type=int, default=100_000, help="episode i resets with seed + i")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds to wait for a chunk")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()

    robot = Robot(args)
    env = gymnasium.make("gym_pusht/PushT-v0", obs_type="environment_state_agent_pos")
    started, episodes, latencies = time.monotonic(), [], []
    for number in range(args.episodes):
        robot.chunk = None  # nothing of the last episode is played in this one
        seen, _ = env.reset(seed=args.seed + number)
        rewards, success, done = [], False, False
        while not done:
            action = robot.action(
                number, len(rewards), seen["agent_pos"], seen["environment_state"], latencies
            )
            # gym-pusht takes any target; a robot has limits.
            action = np.clip(action.astype(np.float64), 0.0, 512.0)
            seen, reward, terminated, truncated, info = env.step(action)
            rewards.append(float(reward))
            success, done = bool(info["is_success"]), terminated or truncated
        episodes.append({"seed": args.seed + number, "success": success, "steps": len(rewards),
                         "max_reward": max(rewards), "sum_reward": sum(rewards)})  # fmt: skip
        if not args.json:
            word = "success" if success else "failure"
            print(f"episode {number + 1}/{args.episodes}  seed {args.seed + number}  {word}  "
                  f"{len(rewards):3d} steps  reward {max(rewards):.3f}", flush=True)  # fmt: skip
    robot.bus.close()

    def mean(key):
        return float(np.mean([episode[key] for episode in episodes]))

    overhead = np.percentile(latencies, (50, 99)).tolist()
    report = {
        "env": "gym_pusht/PushT-v0",
        "policy": robot.info["name"],
        "n_episodes": len(episodes),
        "pc_success": 100.0 * mean("success"),
        "avg_max_reward": mean("max_reward"),
        "avg_sum_reward": mean("sum_reward"),
        "avg_steps": mean("steps"),
        "eval_s": time.monotonic() - started,
        "overhead_ms": {"p50": overhead[0], "p99": overhead[1]},
        "episodes": episodes,
    }
    if args.json:
        print(json.dumps(report))
    else:
        solved = sum(episode["success"] for episode in episodes)
        print(f"success {solved}/{len(episodes)}  pc_success {report['pc_success']:.1f}  "
              f"avg_max_reward {report['avg_max_reward']:.3f}  avg_steps {report['avg_steps']:.1f}  "
              f"overhead p50 {overhead[0]:.2f} ms p99 {overhead[1]:.2f} ms")  # fmt: skip


if __name__ == "__main__":
    main()
