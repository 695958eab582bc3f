//! The policy's process is killed and stopped at random moments; the robot holds in time and goes on by
//! itself. Two real processes over zenoh: `pathline serve`, and a robot at 50 Hz in this one.
//!
//! `PATHLINE_KILLS=200 cargo test --release --test kill -- --nocapture` prints the distributions.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
#![allow(clippy::print_stdout, reason = "the distributions are what a long run is for")]

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Bus, DEADLINE};
use pathline::action::{Executed, PolicyObs, RobotFile, Source};
use pathline::node::{RobotConfig, RobotLink, Stop};
use pathline::wire::Role;

const PERIOD: Duration = Duration::from_millis(20);
const ROBOT: &str = r#"
name = "test"
control_hz = 50
command_hz = 50
max_obs_age_s = 0.4
heartbeat_s = 0.2
overshoot = 0.1
latch_after = 0
[[joint]]
name = "x"
position = [0, 512]
velocity = inf
acceleration = inf
jerk = inf
[[joint]]
name = "y"
position = [0, 512]
velocity = inf
acceleration = inf
jerk = inf
"#;

/// `pathline serve` as a process; killed when dropped.
struct Server(Child);

impl Server {
    fn start(bus: &Bus, policy: &str) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_pathline"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["serve", "--policy", policy, "-e", &bus.endpoint])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap();
        assert!(sent.success(), "kill -{name} {pid}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One tick as the test saw it.
#[derive(Clone, Copy)]
struct Seen {
    tick: u64,
    at: Instant,
    held: bool,
}

/// The robot: 50 Hz on an absolute grid, and every command judged.
struct Robot {
    link: RobotLink,
    pause: Stop,
    next: Instant,
    last: Option<Executed>,
    /// Tick and time of the last chunk that was taken, and how many there were.
    accepted: (u64, Instant, u64),
    latest: Duration,
}

impl Robot {
    fn connect(bus: &Bus) -> Self {
        let file = RobotFile::parse(ROBOT, Path::new("test.toml")).unwrap();
        let config = RobotConfig { role: Role::Executor, file: Some(file), ..RobotConfig::pusht() };
        let link =
            RobotLink::connect(&bus.spoke(), &config, &[100.0, 200.0], DEADLINE, &Stop::new());
        let link = link.unwrap();
        assert!(link.warm_up(looks(&[100.0, 200.0])).unwrap(), "no answer to the warm-up");
        let now = Instant::now();
        let accepted = (0, now, 0);
        Self { link, pause: Stop::new(), next: now, last: None, accepted, latest: Duration::ZERO }
    }

    fn tick(&mut self) -> Seen {
        self.pause.wait_timeout(self.next.saturating_duration_since(Instant::now()));
        let position = self.link.gate().setpoint().to_vec();
        self.link.observe(looks(&position)).unwrap();
        self.link.take_in();
        let count = self.link.gate().counters().accepted;
        if count > self.accepted.2 {
            self.accepted = (self.link.tick(), Instant::now(), count);
        }
        let commanded = self.link.act().unwrap();
        let at = Instant::now();
        self.latest = self.latest.max(at.saturating_duration_since(self.next));
        self.next += PERIOD;
        if let Source::Chunk(row) = commanded.source {
            self.judge(commanded.tick, row);
        }
        Seen { tick: commanded.tick, at, held: commanded.is_hold() }
    }

    /// Nothing stale is played: no old observation, no step back to an older one or an older policy.
    fn judge(&mut self, tick: u64, row: Executed) {
        let age = tick - row.obs_tick;
        assert!(
            age <= self.link.gate().config().max_obs_age,
            "tick {tick}: {age} ticks old, {row:?}"
        );
        if let Some(last) = self.last {
            let order = |e: &Executed| (e.epoch, e.chunk_seq);
            assert!(row.obs_seq >= last.obs_seq, "tick {tick}: {row:?} after {last:?}");
            assert!(order(&row) >= order(&last), "tick {tick}: {row:?} after {last:?}");
        }
        self.last = Some(row);
    }

    /// Ticks until `done`, with a deadline.
    fn until(&mut self, what: &str, mut done: impl FnMut(&Self, Seen) -> bool) -> Seen {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let seen = self.tick();
            if done(self, seen) {
                return seen;
            }
            assert!(
                Instant::now() < deadline,
                "{what}: not within {DEADLINE:?}; chunks {:?}",
                self.link.endings()
            );
        }
    }

    fn ticks_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.tick();
        }
    }
}

fn looks(position: &[f32]) -> PolicyObs {
    PolicyObs { state: position.to_vec(), environment_state: vec![250.0; 16], images: Vec::new() }
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn millis(&mut self, n: u64) -> Duration {
        Duration::from_micros(self.below(1000 * n))
    }
}

/// Milliseconds, sorted when they are printed.
#[derive(Default)]
struct Times(Vec<f64>);

impl Times {
    fn add(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64() * 1e3);
    }

    fn line(&mut self, name: &str) {
        self.0.sort_by(f64::total_cmp);
        let at = |share: f64| self.0[((self.0.len() - 1) as f64 * share) as usize];
        if !self.0.is_empty() {
            println!(
                "{name:<42} n {:>3}  p50 {:>7.1}  p90 {:>7.1}  max {:>7.1} ms",
                self.0.len(),
                at(0.5),
                at(0.9),
                at(1.0)
            );
        }
    }
}

#[derive(Default)]
struct Outages {
    hold_after_chunk: Times,
    hold_after_signal: Times,
    restart: Times,
    cont: Times,
}

/// `n` outages of a process that serves `policy`.
fn outages(policy: &str, n: u64, dice: &mut Dice, seen: &mut Outages) {
    let bus = Bus::open();
    let mut server = Server::start(&bus, policy);
    let mut robot = Robot::connect(&bus);
    let heartbeat = robot.link.gate().config().heartbeat;
    for i in 0..n {
        let before = robot.accepted.2;
        robot.until("the policy drives", |robot, now| robot.accepted.2 >= before + 3 && !now.held);
        robot.ticks_for(dice.millis(250));
        let kill = i % 2 == 0;
        let signalled = Instant::now();
        server.signal(if kill { "KILL" } else { "STOP" });
        robot.latest = Duration::ZERO;
        let held = robot.until("it holds", |_, now| now.held);
        let (tick, at, _) = robot.accepted;
        let (silent, ticks) = (held.at - at, held.tick - tick);
        let late = robot.latest;
        assert!(ticks <= heartbeat + 1, "{ticks} ticks without a chunk, heartbeat {heartbeat}");
        let bound = PERIOD * (heartbeat as u32 + 1) + late;
        assert!(
            silent <= bound,
            "hold began {silent:?} after the last chunk, bound {bound:?} with {late:?} late"
        );
        seen.hold_after_chunk.add(silent);
        seen.hold_after_signal.add(held.at.saturating_duration_since(signalled));
        // Once in a while longer than the bus keeps a silent link.
        let out = if i % 20 == 19 { Duration::from_millis(2500) } else { dice.millis(300) };
        robot.ticks_for(out);
        let back = Instant::now();
        if kill {
            drop(server);
            server = Server::start(&bus, policy);
        } else {
            server.signal("CONT");
        }
        let moves = robot.until("motion resumes", |_, now| !now.held);
        let times = if kill { &mut seen.restart } else { &mut seen.cont };
        times.add(moves.at - back);
    }
    println!("{policy}: {n} outages, chunks {:?}", robot.link.endings());
}

#[test]
fn a_policy_that_dies_or_stops_lets_the_robot_hold_and_go_on() {
    let kills: u64 = std::env::var("PATHLINE_KILLS").map_or(10, |n| n.parse().unwrap());
    let (mut dice, mut seen) = (Dice(kills), Outages::default());
    let with_network = kills * 2 / 5;
    outages("servo", kills - with_network, &mut dice, &mut seen);
    outages("policies/pusht-flow", with_network, &mut dice, &mut seen);
    seen.hold_after_chunk.line("hold begins, after the last chunk");
    seen.hold_after_signal.line("hold begins, after the signal");
    seen.restart.line("motion resumes, after a new process");
    seen.cont.line("motion resumes, after SIGCONT");
}
