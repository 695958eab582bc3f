#!/usr/bin/env python3
"""Golden bytes of the wire messages, written by rosbags' CDR serialiser: wire.json.

    pip install rosbags==0.11.9 mcap-ros2-support numpy
    python tests/golden/wire.py

Each entry has the fields as JSON, the bytes in hexadecimal, and the schema text as an MCAP channel
embeds it. Before anything is written, mcap-ros2-support reads the bytes back by that text, so a
recording opens with the tools that use it. Seeds of the values: 2, and 3 of
the left-over.
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from mcap_ros2._dynamic import generate_dynamic
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

HERE = Path(__file__).parent
MSG = HERE.parent.parent / "src" / "wire" / "msg"
RULE = "=" * 80 + "\nMSG: "
DEPENDS = {
    "Observation": ["std_msgs/Header", "builtin_interfaces/Time", "policy_msgs/CameraImage"],
    "ActionChunk": ["std_msgs/Header", "builtin_interfaces/Time", "builtin_interfaces/Duration"],
    "Action": ["builtin_interfaces/Time"],
}


def text_of(name):
    return (MSG / f"{name}.msg").read_text()


def schema_text(name):
    parts = [f"{RULE}{dep}\n{text_of(dep.split('/')[1])}" for dep in DEPENDS[name]]
    return text_of(name) + "".join(parts)


def make_store():
    """Only builtin types of rosbags; ours come from the .msg files that the crate ships."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for name in ("CameraImage", *DEPENDS):
        store.register(get_types_from_msg(text_of(name), f"policy_msgs/msg/{name}"))
    # The dependencies that the crate ships must be those of ROS.
    ours = {}
    for full in ("builtin_interfaces/Time", "builtin_interfaces/Duration", "std_msgs/Header"):
        package, name = full.split("/")
        ours.update(get_types_from_msg(text_of(name), f"{package}/msg/{name}"))
    for full, definition in ours.items():
        assert definition[1] == store.fielddefs[full][1], full
    return store


def build(store, type_name, fields):
    """A message of `type_name` from plain JSON values."""
    values = {}
    for field, (kind, detail) in store.fielddefs[type_name][1]:
        value = fields[field]
        if kind.name == "NAME":
            value = build(store, detail, value)
        elif kind.name in ("SEQUENCE", "ARRAY"):
            inner_kind, inner = detail[0]
            if inner_kind.name == "NAME":
                value = [build(store, inner, item) for item in value]
            else:
                value = np.array(value, dtype=inner[0])
        values[field] = value
    return store.types[type_name](**values)


def plain(message):
    """JSON of what mcap-ros2-support decoded."""
    if hasattr(message, "__slots__"):
        return {slot.lstrip("_"): plain(getattr(message, slot)) for slot in message.__slots__}
    if isinstance(message, (bytes, bytearray)):
        return list(message)
    if isinstance(message, (list, tuple)):
        return [plain(item) for item in message]
    return message


def f32s(rng, n, scale=1.0):
    return [float(x) for x in (scale * rng.standard_normal(n)).astype(np.float32)]


def messages():
    rng, left = np.random.default_rng(2), np.random.default_rng(3)
    stamp = {"sec": 1795500000, "nanosec": 123456789}
    edge = {"sec": -(2**31), "nanosec": 2**32 - 1}
    header = {"stamp": stamp, "frame_id": "world"}
    empty = {"stamp": {"sec": 0, "nanosec": 0}, "frame_id": ""}
    image = lambda name, encoding, h, w, n: {
        "name": name, "encoding": encoding, "height": h, "width": w,
        "data": [int(x) for x in rng.integers(0, 256, n)],
    }
    extremes = [float(np.float32(x)) for x in (0.0, -0.0, 1e-45, -3.4028235e38, 3.4028235e38, 512.0)]
    observation = {
        "header": header, "session": 0x9E3779B97F4A7C15, "tick": 41, "seq": 42, "episode": 3,
        "step": 17, "task": "push the T", "state": f32s(rng, 2, 256),
        "environment_state": f32s(rng, 16, 256), "images": [], "executing_chunk": 7,
        "executing_index": 4, "request": 1, "expected_delay": 3, "left_over": f32s(left, 26, 256),
    }
    with_images = observation | {
        "header": {"stamp": edge, "frame_id": "a"}, "task": "pousse le Té — 推", "state": extremes,
        "environment_state": [],
        "images": [image("top", "rgb8", 2, 3, 18), image("wrist_left", "png", 4, 4, 5),
                   image("", "jpeg", 65535, 1, 0)],
        "seq": 2**64 - 1, "executing_chunk": 0, "executing_index": -1, "request": 2,
        "expected_delay": 65535, "left_over": extremes,
    }
    blank = {
        "header": empty, "session": 0, "tick": 0, "seq": 0, "episode": 0, "step": 0, "task": "",
        "state": [], "environment_state": [], "images": [], "executing_chunk": 0,
        "executing_index": -1, "request": 0, "expected_delay": 0, "left_over": [],
    }
    chunk = {
        "header": header, "session": 0x9E3779B97F4A7C15, "epoch": 1795499999000000001, "seq": 8,
        "obs_seq": 42, "obs_tick": 41, "obs_stamp": stamp, "episode": 3, "t0": stamp,
        "dt": {"sec": 0, "nanosec": 100_000_000}, "horizon": 16, "dim": 2, "prefix_len": 0,
        "nfe": 4, "infer_ms": float(np.float32(1.75)), "seed": 12345, "flags": 0,
        "actions": f32s(rng, 32, 256), "encode_ms": 0.5, "queue_ms": 0.25,
    }
    arm = chunk | {
        "header": {"stamp": edge, "frame_id": "abc"}, "epoch": 2**64 - 1, "horizon": 50, "dim": 7,
        "prefix_len": 50, "nfe": 65535, "dt": {"sec": 2**31 - 1, "nanosec": 999_999_999},
        "encode_ms": 0.0, "queue_ms": 65536.0, "flags": 2**32 - 1, "seed": 2**64 - 1, "actions": f32s(rng, 350),
    }
    one = chunk | {"header": empty, "horizon": 1, "dim": 1, "actions": [float(np.float32(0.1))]}
    action = {"stamp": stamp, "tick": 41, "chunk_seq": 8, "index": 3, "action": f32s(rng, 2, 256)}
    hold = {"stamp": edge, "tick": 2**64 - 1, "chunk_seq": 0, "index": -1, "action": []}
    return [
        ("Observation", observation), ("Observation", with_images), ("Observation", blank),
        ("ActionChunk", chunk), ("ActionChunk", arm), ("ActionChunk", one),
        ("Action", action), ("Action", hold),
    ]


def main():
    store = make_store()
    entries = []
    for name, fields in messages():
        full = f"policy_msgs/msg/{name}"
        data = bytes(store.serialize_cdr(build(store, full, fields), full))
        read = generate_dynamic(full, schema_text(name))[full](data)
        assert plain(read) == fields, (name, plain(read), fields)
        entries.append({"type": name, "fields": fields, "cdr": data.hex()})
    golden = {
        "made_by": f"tests/golden/wire.py, rosbags {version('rosbags')}, numpy {np.__version__}, "
                   f"read back by mcap-ros2-support {version('mcap-ros2-support')}",
        "schemas": {name: schema_text(name) for name in DEPENDS},
        "messages": entries,
    }
    path = HERE / "wire.json"
    path.write_text(json.dumps(golden, ensure_ascii=False, separators=(",", ":"))
                    .replace('{"type"', '\n{"type"') + "\n")
    print(f"{path}: {len(entries)} messages, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
