"""Golden rows of LeRobot's queues: the async client's aggregation and ACT's temporal ensemble.

    python tests/golden/async_queue.py tests/golden/async_queue.json

chunks           at tick `arrives`, before that tick's action is taken, the answer to the observation of tick
                 `observed` comes: `values` [n, 2], row-major; the lengths differ
played           per aggregate function the action of every tick from the first chunk on, while there is one:
                 `RobotClient._aggregate_action_queues` on a client without robot and server, its queue emptied
                 as `control_loop_action` does
append           `ActionQueue.merge` without RTC: chunk after chunk, each from its row 0
ensemble         one chunk a tick, [12, 5, 2], and per coefficient the actions of ACTTemporalEnsembler
Written with lerobot 0.4.4 (Apache-2.0) and torch on the CPU, float32, one thread, seed 20261124.
"""

import importlib.metadata
import json
import sys
import threading
from queue import Queue
from unittest.mock import MagicMock

import torch

# The client's transport is not used; grpc need not be there.
for name in ("grpc", "lerobot.transport", "lerobot.transport.utils"):
    sys.modules[name] = MagicMock()

from lerobot.async_inference.configs import AGGREGATE_FUNCTIONS
from lerobot.async_inference.helpers import TimedAction
from lerobot.async_inference.robot_client import RobotClient
from lerobot.policies.act.modeling_act import ACTTemporalEnsembler
from lerobot.policies.rtc.action_queue import ActionQueue
from lerobot.policies.rtc.configuration_rtc import RTCConfig

# Observed, arrives, rows. The third ends before the second, the fifth comes a tick after the fourth.
SCHEDULE = [(0, 0, 8), (3, 5, 8), (6, 6, 3), (7, 8, 8), (8, 9, 8), (11, 15, 8), (14, 17, 7)]


def client():
    """A RobotClient with what its queue needs and nothing else."""
    it = object.__new__(RobotClient)
    it.latest_action_lock = threading.Lock()
    it.latest_action = -1
    it.action_queue = Queue()
    it.action_queue_lock = threading.Lock()
    return it


def play(chunks, aggregate):
    it, played, tick = client(), [], 0
    while True:
        for (observed, arrives, _), values in zip(SCHEDULE, chunks):
            if arrives == tick:
                actions = [TimedAction(0.0, observed + i, a) for i, a in enumerate(values)]
                it._aggregate_action_queues(actions, aggregate)
        if it.action_queue.empty():
            return played
        action = it.action_queue.get_nowait()
        it.latest_action = action.get_timestep()
        assert it.latest_action == tick, "it never starves before the end"
        played.append(action.get_action().tolist())
        tick += 1


def append(chunks):
    queue, played, tick = ActionQueue(RTCConfig(enabled=False)), [], 0
    while True:
        for (_, arrives, _), values in zip(SCHEDULE, chunks):
            if arrives == tick:
                queue.merge(values, values, 0, None)
        action = queue.get()
        if action is None:
            return played
        played.append(action.tolist())
        tick += 1


def main():
    torch.set_num_threads(1)
    torch.manual_seed(20261124)
    chunks = [torch.randn(rows, 2) * 100 for _, _, rows in SCHEDULE]
    every_tick = torch.randn(12, 5, 2) * 100
    ensemble = {}
    for coefficient in (0.01, 0.0, -0.5, 0.3):
        ensembler = ACTTemporalEnsembler(coefficient, 5)
        ensemble[str(coefficient)] = [ensembler.update(c[None])[0].tolist() for c in every_tick]
    out = {
        "lerobot": importlib.metadata.version("lerobot"),
        "torch": torch.__version__,
        "chunks": [
            {"observed": o, "arrives": a, "values": c.flatten().tolist()}
            for (o, a, _), c in zip(SCHEDULE, chunks)
        ],
        "played": {name: play(chunks, f) for name, f in AGGREGATE_FUNCTIONS.items()},
        "append": append(chunks),
        "every_tick": [c.flatten().tolist() for c in every_tick],
        "ensemble": ensemble,
    }
    with open(sys.argv[1], "w") as file:
        json.dump(out, file)
        file.write("\n")


if __name__ == "__main__":
    main()
