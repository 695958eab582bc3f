//! Key expressions: `pathline/<robot>/…`, plain chunks, so that `pathline/**` shows everything.

use crate::{Error, Result};

/// The prefix that all keys share.
const ROOT: &str = "pathline";

/// Who keeps a liveliness token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A policy server.
    Policy,
    /// A simulator.
    Sim,
    /// The robot's side.
    Executor,
    /// A recorder.
    Recorder,
}

impl Role {
    /// The role's chunk in the key.
    pub fn name(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Sim => "sim",
            Self::Executor => "executor",
            Self::Recorder => "recorder",
        }
    }
}

/// The keys of one robot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    robot: String,
    prefix: String,
}

impl Keys {
    /// Keys of robot `robot`.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless the name is 1 to 64 of `[A-Za-z0-9_-]`.
    pub fn new(robot: &str) -> Result<Self> {
        check_chunk("robot", robot)?;
        Ok(Self { robot: robot.to_owned(), prefix: format!("{ROOT}/{robot}") })
    }

    /// The robot's name.
    pub fn robot(&self) -> &str {
        &self.robot
    }

    fn key(&self, rest: &str) -> String {
        format!("{}/{rest}", self.prefix)
    }

    /// Everything of this robot but its liveliness tokens.
    pub fn all(&self) -> String {
        self.key("**")
    }

    /// Put: `policy_msgs/Observation`, every tick.
    pub fn observation(&self) -> String {
        self.key("obs")
    }

    /// Put: one camera's pictures, where they travel by themselves.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless `camera` is 1 to 64 of `[A-Za-z0-9_-]`.
    pub fn image(&self, camera: &str) -> Result<String> {
        check_chunk("camera", camera)?;
        Ok(self.key(&format!("obs/image/{camera}")))
    }

    /// Put: `policy_msgs/ActionChunk`.
    pub fn chunk(&self) -> String {
        self.key("cmd/chunk")
    }

    /// Put: `policy_msgs/Action`, what was commanded at each tick.
    pub fn action(&self) -> String {
        self.key("cmd/action")
    }

    /// Put: JSON `{"reason": …}`; latches the gate.
    pub fn estop(&self) -> String {
        self.key("estop")
    }

    /// Queryable: observation in, chunk out.
    pub fn infer(&self) -> String {
        self.key("policy/infer")
    }

    /// Queryable: JSON, what the policy is.
    pub fn info(&self) -> String {
        self.key("policy/info")
    }

    /// Queryable: JSON `{"episode": …}`; the policy forgets what it saw.
    pub fn policy_reset(&self) -> String {
        self.key("policy/reset")
    }

    /// Queryable: JSON `{"task": …}`.
    pub fn task(&self) -> String {
        self.key("policy/task")
    }

    /// Put once a second, and queryable: JSON.
    pub fn status(&self) -> String {
        self.key("policy/status")
    }

    /// Queryable: starts an episode of the simulator.
    pub fn sim_reset(&self) -> String {
        self.key("sim/reset")
    }

    /// Put: the simulator's own state.
    pub fn sim_state(&self) -> String {
        self.key("sim/state")
    }

    /// Put: the simulator's clock.
    pub fn sim_clock(&self) -> String {
        self.key("sim/clock")
    }

    /// Liveliness token of the session `zid` (hexadecimal) in `role`.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless `zid` is 1 to 64 of `[A-Za-z0-9_-]`.
    pub fn alive(&self, role: Role, zid: &str) -> Result<String> {
        check_chunk("zid", zid)?;
        Ok(self.key(&format!("@alive/{}/{zid}", role.name())))
    }

    /// Expression of all liveliness tokens in `role`.
    pub fn alive_any(&self, role: Role) -> String {
        self.key(&format!("@alive/{}/*", role.name()))
    }
}

fn check_chunk(what: &str, text: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if (1..=64).contains(&text.len()) && text.bytes().all(plain) {
        return Ok(());
    }
    let shown: String = text.chars().take(64).collect();
    Err(Error::Invalid(format!("{what}: expected 1 to 64 of A-Z a-z 0-9 _ -, got {shown:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_table() {
        let k = Keys::new("arm_1-left").unwrap();
        let p = "pathline/arm_1-left";
        assert_eq!(k.all(), format!("{p}/**"));
        assert_eq!(k.observation(), format!("{p}/obs"));
        assert_eq!(k.image("top").unwrap(), format!("{p}/obs/image/top"));
        assert_eq!(k.chunk(), format!("{p}/cmd/chunk"));
        assert_eq!(k.action(), format!("{p}/cmd/action"));
        assert_eq!(k.estop(), format!("{p}/estop"));
        assert_eq!(k.infer(), format!("{p}/policy/infer"));
        assert_eq!(k.info(), format!("{p}/policy/info"));
        assert_eq!(k.policy_reset(), format!("{p}/policy/reset"));
        assert_eq!(k.task(), format!("{p}/policy/task"));
        assert_eq!(k.status(), format!("{p}/policy/status"));
        assert_eq!(k.sim_reset(), format!("{p}/sim/reset"));
        assert_eq!(k.sim_state(), format!("{p}/sim/state"));
        assert_eq!(k.sim_clock(), format!("{p}/sim/clock"));
        assert_eq!(k.alive(Role::Policy, "a1b2").unwrap(), format!("{p}/@alive/policy/a1b2"));
        assert_eq!(k.alive_any(Role::Sim), format!("{p}/@alive/sim/*"));
    }

    #[test]
    fn a_name_cannot_widen_a_key() {
        for bad in ["", "a/b", "*", "**", "$*", "a b", "a#", "a?", "@alive", "é", &"x".repeat(65)]
        {
            assert!(Keys::new(bad).is_err(), "{bad}");
            assert!(Keys::new("ok").unwrap().image(bad).is_err(), "{bad}");
            assert!(Keys::new("ok").unwrap().alive(Role::Sim, bad).is_err(), "{bad}");
        }
    }
}
