# The commands live in .ci/run, so that CI and people run the same ones.

# What must pass before a commit.
check:
    .ci/run fmt lint doc features

test:
    .ci/run test

# Simulator and policy over zenoh on this machine.
demo *args:
    cargo run --release -- demo {{args}}

# All of CI.
ci:
    .ci/run

# Licences, banned crates, sources; needs cargo-deny.
deny:
    .ci/run deny

# Golden files from the Python packages: PYTHON=... PYTHON_LEROBOT=... PYTHON_CORE=... just golden
golden:
    .ci/run golden

bench:
    .ci/run bench
