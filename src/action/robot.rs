//! The robot file: rates, deadlines and the limits of every joint, in TOML.
//!
//! Nothing is assumed about a robot: every limit is written down, and one that does not exist is written as
//! `inf`. Limits are per second, as data sheets have them; the gate's are per command period. Rounding to
//! f32, and of times to ticks, goes to the stricter side.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, de::Error as _};

use super::config::{GateConfig, Limit};
use super::joining::Join;
use crate::{Error, Result};

/// Most commands of one tick.
const MAX_COMMANDS: f64 = 1000.0;

/// What is known about one robot.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RobotFile {
    /// Its name.
    pub name: String,
    /// Ticks a second: observations, and rows of a chunk.
    pub control_hz: f64,
    /// Commands a second: a multiple of `control_hz`.
    pub command_hz: f64,
    /// Oldest observation that an action may answer, seconds.
    pub max_obs_age_s: f64,
    /// Seconds without a valid chunk after which the robot holds.
    pub heartbeat_s: f64,
    /// How far outside its limits a value may lie and still be clamped, as a share of the range.
    pub overshoot: f32,
    /// Chunks that are not finite, one after the other, after which the gate latches; 0 never does.
    pub latch_after: u32,
    /// The joints, in the order of the action.
    #[serde(rename = "joint")]
    pub joints: Vec<Joint>,
    /// Where it was read.
    #[serde(skip)]
    path: PathBuf,
}

/// One value of the action.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Joint {
    /// Its name.
    pub name: String,
    /// Smallest and largest position, robot units.
    #[serde(deserialize_with = "two")]
    pub position: [f64; 2],
    /// Largest velocity, robot units per second; `inf` if there is none.
    pub velocity: f64,
    /// Largest acceleration, robot units per second²; `inf` if there is none.
    pub acceleration: f64,
    /// Largest jerk, robot units per second³; `inf` if there is none.
    pub jerk: f64,
    /// Largest distance from the last command to the row of now at which a chunk is still taken, robot
    /// units; any if absent.
    pub max_jump: Option<f64>,
}

impl RobotFile {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Config`] as [`RobotFile::parse`].
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        Self::parse(&text, path)
    }

    /// Reads `text`, which is that of `path`.
    ///
    /// # Errors
    /// [`Error::Config`] that names the first key that is missing, unknown or makes no sense.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let wrong = |message: String| Error::Config { path: path.into(), message };
        let read: Result<Self, _> = toml::from_str(text);
        let mut robot = read.map_err(|e| {
            let line = e
                .span()
                .and_then(|s| text.get(..s.start))
                .map(|before| before.lines().count().max(1));
            let line = line.map_or(String::new(), |line| format!("line {line}: "));
            let hint = "a limit that does not exist is written as `inf`";
            wrong(format!("{line}{}; {hint}", e.message()))
        })?;
        robot.path = path.into();
        robot.validate().map_err(wrong)?;
        Ok(robot)
    }

    /// The configuration of a gate for chunks of up to `horizon` rows; `session` is this run's nonce.
    ///
    /// # Errors
    /// [`Error::Config`] if a number is of no use to a gate.
    pub fn gate(&self, session: u64, horizon: usize, join: Join) -> Result<GateConfig> {
        let config = GateConfig {
            session,
            limits: self.joints.iter().map(|joint| joint.limit(self.command_hz)).collect(),
            max_horizon: horizon,
            max_obs_age: self.ticks(self.max_obs_age_s),
            heartbeat: self.ticks(self.heartbeat_s),
            overshoot: self.overshoot,
            latch_after: self.latch_after,
            join,
            commands_per_tick: (self.command_hz / self.control_hz).round() as u32,
        };
        config
            .check()
            .map_err(|e| Error::Config { path: self.path.clone(), message: e.to_string() })?;
        Ok(config)
    }

    /// Whole ticks in `secs`.
    fn ticks(&self, secs: f64) -> u64 {
        // 0.3 s at 10 Hz are 3 ticks, although 0.3 * 10 is a little less in binary.
        (secs * self.control_hz * (1.0 + 1e-12)) as u64
    }

    fn validate(&self) -> Result<(), String> {
        for (key, value) in [
            ("control_hz", self.control_hz),
            ("command_hz", self.command_hz),
            ("max_obs_age_s", self.max_obs_age_s),
            ("heartbeat_s", self.heartbeat_s),
        ] {
            if !(value.is_finite() && value > 0.0) {
                return Err(format!("{key}: expected a finite number > 0, got {value}"));
            }
        }
        let (control, command) = (self.control_hz, self.command_hz);
        let times = command / control;
        if !(1.0..=MAX_COMMANDS).contains(&times) || (times - times.round()).abs() > 1e-9 * times {
            return Err(format!(
                "command_hz: expected 1 to {MAX_COMMANDS} times control_hz ({control}), a whole number of \
                 times, got {command}"
            ));
        }
        for (key, secs) in
            [("max_obs_age_s", self.max_obs_age_s), ("heartbeat_s", self.heartbeat_s)]
        {
            if self.ticks(secs) == 0 {
                return Err(format!(
                    "{key}: expected at least one tick (1/control_hz = {} s), got {secs}",
                    1.0 / control
                ));
            }
        }
        if !(self.overshoot.is_finite() && self.overshoot >= 0.0) {
            return Err(format!("overshoot: expected a finite share >= 0, got {}", self.overshoot));
        }
        if self.joints.is_empty() {
            return Err("expected a [[joint]] for every value of the action, got none".into());
        }
        let mut names = BTreeSet::new();
        for (i, joint) in self.joints.iter().enumerate() {
            if !names.insert(&joint.name) {
                return Err(format!("joint {i}: the name {:?} was there before", joint.name));
            }
            joint.validate().map_err(|e| format!("joint {:?}: {e}", joint.name))?;
        }
        Ok(())
    }
}

impl Joint {
    fn validate(&self) -> Result<(), String> {
        let [lo, hi] = self.position;
        if !(lo.is_finite() && hi.is_finite() && up(lo) < down(hi)) {
            return Err(format!(
                "position: expected [lo, hi], finite, lo < hi in f32, got [{lo}, {hi}]"
            ));
        }
        for (key, value) in [
            ("velocity", self.velocity),
            ("acceleration", self.acceleration),
            ("jerk", self.jerk),
            ("max_jump", self.max_jump.unwrap_or(f64::INFINITY)),
        ] {
            if value.is_nan() || value <= 0.0 {
                return Err(format!("{key}: expected a number > 0, or inf for none, got {value}"));
            }
        }
        Ok(())
    }

    /// Its limits per command period.
    fn limit(&self, command_hz: f64) -> Limit {
        let limit = |value: f64| (value < f64::INFINITY).then(|| down(value));
        Limit {
            lo: up(self.position[0]),
            hi: down(self.position[1]),
            velocity: limit(self.velocity / command_hz),
            acceleration: limit(self.acceleration / command_hz.powi(2)),
            jerk: limit(self.jerk / command_hz.powi(3)),
            jump: self.max_jump.and_then(limit),
        }
    }
}

/// Two numbers: an array would be read from three as well.
fn two<'de, D: Deserializer<'de>>(from: D) -> Result<[f64; 2], D::Error> {
    let values = Vec::<f64>::deserialize(from)?;
    let refuse =
        |got: Vec<f64>| D::Error::custom(format!("expected [lo, hi], got {} values", got.len()));
    values.try_into().map_err(refuse)
}

/// The largest f32 that is not above `x`.
fn down(x: f64) -> f32 {
    let near = x as f32;
    if f64::from(near) > x { near.next_down() } else { near }
}

/// The smallest f32 that is not below `x`.
fn up(x: f64) -> f32 {
    -down(-x)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARM: &str = include_str!("../../sim/robots/arm.toml");
    const PUSHT: &str = include_str!("../../sim/robots/pusht.toml");

    fn parse(text: &str) -> Result<RobotFile, String> {
        RobotFile::parse(text, Path::new("robot.toml")).map_err(|e| e.to_string())
    }

    #[test]
    fn the_shipped_robots_become_gates() {
        let pusht = parse(PUSHT).unwrap().gate(7, 16, Join::Replace).unwrap();
        assert_eq!(pusht.limits, [Limit::new(0.0, 512.0); 2]);
        assert_eq!((pusht.heartbeat, pusht.max_obs_age, pusht.commands_per_tick), (10, 20, 1));
        let arm = parse(ARM).unwrap();
        let gate = arm.gate(7, 50, Join::Keep).unwrap();
        assert_eq!((gate.limits.len(), gate.commands_per_tick, gate.max_horizon), (6, 4, 50));
        for (joint, limit) in arm.joints.iter().zip(&gate.limits) {
            let near = |got: f32, want: f64| {
                let got = f64::from(got);
                got <= want && got > want * (1.0 - 1e-6)
            };
            assert!(near(limit.velocity.unwrap(), joint.velocity / 200.0));
            assert!(near(limit.acceleration.unwrap(), joint.acceleration / 200.0_f64.powi(2)));
            assert!(near(limit.jerk.unwrap(), joint.jerk / 200.0_f64.powi(3)));
            assert!(
                f64::from(limit.lo) >= joint.position[0]
                    && f64::from(limit.hi) <= joint.position[1]
            );
        }
    }

    #[test]
    fn every_key_is_needed_and_no_other_is_known() {
        parse(ARM).unwrap();
        let mut keys = 0;
        for (i, line) in ARM.lines().enumerate() {
            let Some((key, _)) = line.split_once(" = ") else { continue };
            let without: Vec<_> =
                ARM.lines().enumerate().filter(|(n, _)| *n != i).map(|(_, l)| l).collect();
            let read = parse(&without.join("\n"));
            if key == "max_jump" {
                assert!(read.is_ok());
                continue;
            }
            let error = read.expect_err(key);
            assert!(error.contains("robot.toml") && error.contains(&format!("`{key}`")), "{error}");
            keys += 1;
        }
        assert_eq!(keys, 7 + 6 * 5);
        let error = parse(&ARM.replace("jerk = ", "jerc = ")).unwrap_err();
        assert!(error.contains("jerc"), "{error}");
        let error = parse(&format!("speed = 3\n{ARM}")).unwrap_err();
        assert!(error.contains("speed") && error.contains("line 1"), "{error}");
        assert!(parse("").unwrap_err().contains("missing field"));
        assert!(parse("name = ").unwrap_err().contains("robot.toml"));
    }

    #[test]
    fn a_number_that_makes_no_sense_is_named() {
        let text = "name = \"r\"\ncontrol_hz = 10\ncommand_hz = 30\nmax_obs_age_s = 0.3\nheartbeat_s = 0.35\n\
            overshoot = 0.1\nlatch_after = 3\n[[joint]]\nname = \"j\"\nposition = [-1, 1]\nvelocity = 3\n\
            acceleration = 4\njerk = inf\n";
        let gate = parse(text).unwrap().gate(1, 8, Join::Replace).unwrap();
        assert_eq!((gate.max_obs_age, gate.heartbeat, gate.commands_per_tick), (3, 3, 3));
        assert_eq!(
            (gate.limits[0].velocity, gate.limits[0].jerk),
            (Some(0.1_f32.next_down()), None)
        );
        let second = "[[joint]]\nname = \"j\"\nposition = [0, 1]\nvelocity = 1\nacceleration = 1\njerk = 1\n";
        assert!(parse(&format!("{text}{second}")).unwrap_err().contains("was there before"));
        for (from, to, want) in [
            (
                "control_hz = 10",
                "control_hz = nan",
                "control_hz: expected a finite number > 0, got NaN",
            ),
            ("control_hz = 10", "control_hz = 0", "control_hz: expected a finite"),
            ("command_hz = 30", "command_hz = inf", "command_hz: expected a finite"),
            ("command_hz = 30", "command_hz = 25", "times control_hz (10)"),
            ("command_hz = 30", "command_hz = 5", "times control_hz (10)"),
            ("command_hz = 30", "command_hz = 20000", "times control_hz (10)"),
            ("max_obs_age_s = 0.3", "max_obs_age_s = -1", "max_obs_age_s: expected a finite"),
            ("heartbeat_s = 0.35", "heartbeat_s = 0.05", "heartbeat_s: expected at least one tick"),
            ("overshoot = 0.1", "overshoot = nan", "overshoot: expected"),
            ("overshoot = 0.1", "overshoot = -0.1", "overshoot: expected"),
            ("latch_after = 3", "latch_after = -3", "robot.toml"),
            ("[-1, 1]", "[1, 1]", "joint \"j\": position: expected [lo, hi]"),
            ("[-1, 1]", "[1, -1]", "joint \"j\": position"),
            ("[-1, 1]", "[nan, 1]", "joint \"j\": position"),
            ("[-1, 1]", "[-1, inf]", "joint \"j\": position"),
            ("[-1, 1]", "[-1, 0, 1]", "expected [lo, hi], got 3 values"),
            ("[-1, 1]", "[1, 1.00000001]", "joint \"j\": position"),
            ("velocity = 3", "velocity = nan", "joint \"j\": velocity: expected a number > 0"),
            ("acceleration = 4", "acceleration = 0", "joint \"j\": acceleration"),
            ("jerk = inf", "jerk = -inf", "joint \"j\": jerk"),
            ("jerk = inf", "jerk = inf\nmax_jump = 0", "joint \"j\": max_jump"),
            ("jerk = inf", "jerk = \"none\"", "written as `inf`"),
        ] {
            assert!(text.contains(from), "{from}");
            let error = parse(&text.replace(from, to)).expect_err(to);
            assert!(error.contains(want) && error.contains("robot.toml"), "{to}: {error}");
        }
        let joints = text.split("[[joint]]").next().unwrap();
        assert!(parse(&format!("{joints}joint = []\n")).unwrap_err().contains("[[joint]]"));
        assert!(
            parse(&text.replace("velocity = 3", "velocity = 1e-300"))
                .unwrap()
                .gate(1, 8, Join::Keep)
                .is_err()
        );
        assert!(parse(text).unwrap().gate(1, 0, Join::Keep).is_err(), "no rows");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = RobotFile::load(Path::new("/nowhere/robot.toml")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/robot.toml"), "{error}");
    }
}
