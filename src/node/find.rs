//! Waiting for a policy node, and asking it what it is.

use std::time::{Duration, Instant};

use zenoh::Session;

use super::bus::{ask, wait_alive, watch_alive};
use super::seam::PolicyInfo;
use super::stop::Stop;
use crate::wire::{Keys, Role};
use crate::{Error, Result};

/// How often the wait for a policy looks at the stop flag.
const STOP_PERIOD: Duration = Duration::from_millis(100);
/// Deadline of one question to the policy.
pub(crate) const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Waits for a policy's liveliness token and asks it what it is.
pub(crate) fn find_policy(
    session: &Session,
    keys: &Keys,
    timeout: Duration,
    stop: &Stop,
) -> Result<PolicyInfo> {
    let watch = watch_alive(session, &keys.alive_any(Role::Policy))?;
    let deadline = Instant::now() + timeout;
    while Instant::now() < deadline {
        if stop.is_set() {
            return Err(Error::Bus("interrupted while waiting for a policy".to_owned()));
        }
        if !wait_alive(&watch, deadline.min(Instant::now() + STOP_PERIOD))? {
            continue;
        }
        // The token may have outlived its owner by a moment: no answer means wait for the next.
        if let Some(bytes) = ask(session, &keys.info(), None, ASK_TIMEOUT)? {
            let info: PolicyInfo = serde_json::from_slice(&bytes)
                .map_err(|error| Error::Bus(format!("{}: {error}", keys.info())))?;
            info.validate()?;
            return Ok(info);
        }
    }
    Err(Error::Bus(format!(
        "no policy answers on {} after {:.1} s: start `pathline serve --policy DIR`, and check that \
         both sides use the same endpoint (-e here, -l there) and robot",
        keys.info(),
        timeout.as_secs_f64()
    )))
}
