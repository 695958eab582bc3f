"""Opens a recording as a ROS 2 user would and says what is in it; run by hand.

    pip install mcap mcap-ros2-support
    python tests/golden/check_mcap.py runs/demo/rollout.mcap

Every message is decoded with the schema that lies in the file itself; the figures of the ticks and the
chunks are compared. Exit code 1 when something does not fit.
"""

import json
import sys

from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory


def main(path):
    topics, obs, chunks, actions = {}, {}, {}, []
    with open(path, "rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        header = reader.get_header()
        assert header.profile == "ros2", header
        for schema, channel, message, decoded in reader.iter_decoded_messages():
            assert schema.encoding == "ros2msg" and channel.message_encoding == "cdr"
            assert "offered_qos_profiles" in channel.metadata
            assert message.publish_time <= message.log_time
            n, _ = topics.get(channel.topic, (0, None))
            topics[channel.topic] = (n + 1, schema.name)
            kind = channel.topic.rsplit("/", 1)[-1]
            if kind == "obs":
                obs[decoded.tick] = decoded
            elif kind == "chunk":
                chunks[decoded.seq] = decoded
            else:
                actions.append(decoded)
        attachments = {a.name: json.loads(a.data) for a in reader.iter_attachments()}
        episodes = [m.metadata for m in reader.iter_metadata() if m.name == "episode"]
    print(f"{path}: profile {header.profile}, library {header.library}")
    for topic, (n, name) in sorted(topics.items()):
        print(f"  {topic:28} {n:6d}  {name}")
    print(f"  attachments {sorted(attachments)}, {len(episodes)} episodes")
    held = 0
    for action in actions:
        if action.chunk_seq == 0:
            held += 1
            continue
        chunk = chunks[action.chunk_seq]
        seen = obs[chunk.obs_tick]
        assert chunk.session == seen.session and chunk.obs_seq == seen.seq
        assert action.index == action.tick - chunk.obs_tick
        row = chunk.actions[action.index * chunk.dim : (action.index + 1) * chunk.dim]
        assert len(action.action) == chunk.dim
        # The gate may have moved a value onto a limit, never more.
        assert all(abs(a - r) < 1e-6 or a in (0.0, 512.0) for a, r in zip(action.action, row))
    print(f"  {len(actions)} actions, each the row of its tick; {held} held")
    assert len(obs) == len(actions), (len(obs), len(actions))


if __name__ == "__main__":
    main(sys.argv[1])
