//! The zenoh session that every node opens: zenoh's own flags over closed defaults.
//!
//! What: `-m -e -l -c --cfg --no-multicast-scouting` mean what they mean in zenoh's examples.
//! Defaults differ from zenoh's, which listen on every interface and accept messages of 1 GiB:
//! here loopback only, multicast off, 64 MiB at most, no traffic that the user did not ask for.
//! Topology: a star. The node that answers ([`Place::Hub`]: `serve`) is a router, the others
//! ([`Place::Spoke`]) are its clients, because peers do not relay for each other since zenoh 1.9:
//! a recorder that only knows the policy node would otherwise never see the observations.
//! Source: zenoh 1.10 DEFAULT_CONFIG.json5; examples/src/lib.rs of zenoh for the flags.

use std::net::{TcpListener, ToSocketAddrs};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use zenoh::{Config, Session, Wait};

use super::stop::Stop;
use crate::{Error, Result};

/// Where `serve` listens and the others connect when no endpoint is given.
pub const DEFAULT_ENDPOINT: &str = "tcp/127.0.0.1:7447";

/// Largest message accepted from the network, in bytes.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// A silent link is closed after this; only a hint, the robot's own watchdog does not rely on it.
const LEASE_MS: u32 = 2_000;

/// Tries to connect again after 0.1 s at first, after 1 s at most.
const CONNECT_RETRY: &str =
    r#"{"period_init_ms": 100, "period_max_ms": 1000, "period_increase_factor": 2}"#;

/// Pause between two tries to open a session.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Batches that wait for each priority of a link. zenoh's two are full after two express messages,
/// and on a busy machine the third is dropped.
const QUEUES: &str = r#"{"control": 2, "real_time": 16, "interactive_high": 8,
    "interactive_low": 2, "data_high": 16, "data": 4, "data_low": 4, "background": 2}"#;

/// What a node is in the star when the user names no mode and no endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Listens and relays: `serve`.
    Hub,
    /// Connects: `sim`, `record`, `replay`, a robot.
    Spoke,
}

/// zenoh's own flags, as data; the command line fills it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BusConfig {
    /// `-m`: `peer`, `client` or `router`; by default the place decides.
    pub mode: Option<String>,
    /// `-e`: endpoints to connect to, for example `tcp/127.0.0.1:7447`.
    pub connect: Vec<String>,
    /// `-l`: endpoints to listen on.
    pub listen: Vec<String>,
    /// `-c`: a zenoh JSON5 configuration file that replaces Pathline's closed defaults.
    pub config: Option<PathBuf>,
    /// `--cfg KEY:VALUE`: single settings with a JSON5 value, applied last.
    pub cfg: Vec<String>,
    /// `--no-multicast-scouting`: accepted for habit; without `-c` multicast is off anyway.
    pub no_multicast_scouting: bool,
}

impl BusConfig {
    /// A configuration that listens on one endpoint.
    pub fn listen_on(endpoint: impl Into<String>) -> Self {
        Self { listen: vec![endpoint.into()], ..Self::default() }
    }

    /// A configuration that connects to one endpoint.
    pub fn connect_to(endpoint: impl Into<String>) -> Self {
        Self { connect: vec![endpoint.into()], ..Self::default() }
    }

    /// The endpoints that a node of this place connects to and listens on, in that order.
    pub fn endpoints(&self, place: Place) -> (Vec<String>, Vec<String>) {
        let silent = self.connect.is_empty() && self.listen.is_empty() && self.config.is_none();
        let default = vec![DEFAULT_ENDPOINT.to_owned()];
        match place {
            Place::Hub if silent => (Vec::new(), default),
            Place::Spoke if silent => (default, Vec::new()),
            _ => (self.connect.clone(), self.listen.clone()),
        }
    }

    /// The zenoh configuration for a node of this place.
    ///
    /// # Errors
    /// A file that cannot be read, a `--cfg` without a colon, a key or value that zenoh refuses.
    pub fn to_zenoh(&self, place: Place) -> Result<Config> {
        let mut config = match &self.config {
            Some(path) => {
                Config::from_file(path).map_err(|e| Error::config(path, e.to_string()))?
            }
            None => local_defaults()?,
        };
        let (connect, listen) = self.endpoints(place);
        let mode = match (&self.mode, &self.config, place) {
            (Some(mode), _, _) => Some(mode.as_str()),
            (None, Some(_), _) => None,
            (None, None, Place::Hub) if listen.is_empty() => Some("client"),
            (None, None, Place::Hub) => Some("router"),
            (None, None, Place::Spoke) if !listen.is_empty() => Some("router"),
            (None, None, Place::Spoke) => Some("client"),
        };
        if let Some(mode) = mode {
            set(&mut config, "mode", &json_string(mode), "-m")?;
        }
        if self.config.is_none() && mode != Some("peer") {
            // Half a second of waiting for scouts; there are none, and one link at most to open.
            set(&mut config, "scouting/delay", "0", "built-in default")?;
        }
        if self.config.is_none() || !connect.is_empty() {
            set(&mut config, "connect/endpoints", &json_list(&connect), "-e")?;
        }
        if self.config.is_none() || !listen.is_empty() {
            set(&mut config, "listen/endpoints", &json_list(&listen), "-l")?;
        }
        if self.no_multicast_scouting {
            set(&mut config, "scouting/multicast/enabled", "false", "--no-multicast-scouting")?;
        }
        for pair in &self.cfg {
            let Some((key, value)) = pair.split_once(':') else {
                return Err(Error::config(
                    "--cfg",
                    format!(
                        "expected KEY:VALUE (for example transport/link/tx/lease:1000), got {pair:?}"
                    ),
                ));
            };
            set(&mut config, key.trim(), value.trim(), "--cfg")?;
        }
        Ok(config)
    }

    /// Opens the session; a hub that is not there yet is waited for, up to ten seconds.
    ///
    /// # Errors
    /// As [`BusConfig::open_within`].
    pub fn open(&self, place: Place) -> Result<Session> {
        self.open_within(place, Duration::from_secs(10), &Stop::new())
    }

    /// Opens the session, trying for `timeout` and until `stop` is set.
    ///
    /// # Errors
    /// As [`BusConfig::to_zenoh`]; a busy port, an address that is not ours, and a hub that does
    /// not answer are named together with what to do.
    pub fn open_within(&self, place: Place, timeout: Duration, stop: &Stop) -> Result<Session> {
        let deadline = Instant::now() + timeout;
        let config = self.to_zenoh(place)?;
        let (connect, listen) = self.endpoints(place);
        // zenoh tries a busy port for its own reasons and reports a chain of errors; ask first.
        for endpoint in &listen {
            check_free(endpoint)?;
        }
        loop {
            let error = match zenoh::open(config.clone()).wait() {
                Ok(session) => return Ok(session),
                Err(error) => error,
            };
            if connect.is_empty() {
                return Err(Error::Bus(format!("cannot open a session: {error}")));
            }
            if stop.wait_timeout(RETRY_PAUSE) {
                return Err(Error::Bus("interrupted while connecting".to_owned()));
            }
            if Instant::now() >= deadline {
                return Err(Error::Bus(format!(
                    "nobody answers on {} after {:.0} s: start `pathline serve` (or a zenoh router) \
                     there, or name another endpoint with -e ({error})",
                    connect.join(", "),
                    timeout.as_secs_f64()
                )));
            }
        }
    }
}

/// A free loopback endpoint, `tcp/127.0.0.1:PORT`, for two sessions inside one process.
///
/// zenoh's stable API does not tell which port it got for port 0, so the port is chosen here.
/// Another process can take it in between: open the session at once and try again on failure.
///
/// # Errors
/// The system has no free port.
pub fn free_endpoint() -> Result<String> {
    let socket = TcpListener::bind(("127.0.0.1", 0)).map_err(|e| Error::io("127.0.0.1:0", e))?;
    let address = socket.local_addr().map_err(|e| Error::io("127.0.0.1:0", e))?;
    Ok(format!("tcp/{address}"))
}

/// Opens a hub on a free loopback port and returns it with its endpoint.
///
/// # Errors
/// No session could be opened in five tries.
pub fn open_private_hub() -> Result<(Session, String)> {
    let mut last = Error::Bus("no free port on 127.0.0.1".to_owned());
    for _ in 0..5 {
        let endpoint = free_endpoint()?;
        match BusConfig::listen_on(&endpoint).open(Place::Hub) {
            Ok(session) => return Ok((session, endpoint)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn local_defaults() -> Result<Config> {
    let mut config = Config::default();
    for (key, value) in [
        ("scouting/multicast/enabled", "false".to_owned()),
        ("scouting/gossip/enabled", "false".to_owned()),
        ("transport/link/rx/max_message_size", MAX_MESSAGE_BYTES.to_string()),
        ("transport/link/tx/lease", LEASE_MS.to_string()),
        // A hub that starts a moment later is found within 0.1 s instead of 1 s.
        ("transport/link/tx/queue/size", QUEUES.to_owned()),
        ("connect/retry", CONNECT_RETRY.to_owned()),
        // One try; the loop in `open_within` repeats it and can be interrupted.
        ("connect/timeout_ms", r#"{"router": -1, "peer": -1, "client": 250}"#.to_owned()),
    ] {
        set(&mut config, key, &value, "built-in default")?;
    }
    Ok(config)
}

fn set(config: &mut Config, key: &str, value: &str, flag: &str) -> Result<()> {
    config.insert_json5(key, value).map_err(|error| {
        Error::config(
            flag,
            format!("zenoh refuses {key} = {value}: {error}; see zenoh's DEFAULT_CONFIG.json5"),
        )
    })
}

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn json_list(items: &[String]) -> String {
    serde_json::Value::from(items.to_vec()).to_string()
}

/// The host and port of a `tcp/…` endpoint, without zenoh's `?metadata` and `#config` parts.
fn tcp_address(endpoint: &str) -> Option<&str> {
    let rest = endpoint.strip_prefix("tcp/")?;
    rest.split(['?', '#']).next()
}

fn check_free(endpoint: &str) -> Result<()> {
    let Some(address) = tcp_address(endpoint) else { return Ok(()) };
    let resolved: Vec<_> = address
        .to_socket_addrs()
        .map_err(|error| {
            Error::config("-l", format!("{endpoint}: expected tcp/HOST:PORT: {error}"))
        })?
        .collect();
    match TcpListener::bind(&resolved[..]) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(Error::Bus(format!(
            "{endpoint} is in use, perhaps by a zenoh router or another `pathline serve`: listen on \
             another port with -l tcp/127.0.0.1:PORT (and -e the same on the other side), or join \
             what runs there with -e {endpoint}"
        ))),
        Err(error) => Err(Error::Bus(format!("cannot listen on {endpoint}: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_choose_endpoints_only_when_the_user_is_silent() {
        let silent = BusConfig::default();
        assert_eq!(silent.endpoints(Place::Hub), (vec![], vec![DEFAULT_ENDPOINT.to_owned()]));
        assert_eq!(silent.endpoints(Place::Spoke), (vec![DEFAULT_ENDPOINT.to_owned()], vec![]));
        let told = BusConfig::connect_to("tcp/10.0.0.1:7447");
        assert_eq!(told.endpoints(Place::Hub), (vec!["tcp/10.0.0.1:7447".to_owned()], vec![]));
    }

    #[test]
    fn the_defaults_are_closed() {
        let config = BusConfig::default().to_zenoh(Place::Hub).unwrap();
        assert_eq!(config.get_json("scouting/multicast/enabled").unwrap(), "false");
        assert_eq!(config.get_json("transport/link/rx/max_message_size").unwrap(), "67108864");
        assert!(config.get_json("listen/endpoints").unwrap().contains("127.0.0.1"));
    }

    #[test]
    fn cfg_comes_last_and_is_checked() {
        let mut bus = BusConfig::default();
        bus.cfg.push("transport/link/tx/lease:1234".to_owned());
        let config = bus.to_zenoh(Place::Spoke).unwrap();
        assert_eq!(config.get_json("transport/link/tx/lease").unwrap(), "1234");
        for bad in ["lease", "no/such/key:1", "mode:\"sideways\""] {
            let bus = BusConfig { cfg: vec![bad.to_owned()], ..BusConfig::default() };
            assert!(bus.to_zenoh(Place::Spoke).is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn a_busy_port_is_one_clear_error() {
        let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let endpoint = format!("tcp/{}", taken.local_addr().unwrap());
        let error = check_free(&endpoint).unwrap_err().to_string();
        assert!(error.contains(&endpoint) && error.contains("-l "), "{error}");
        drop(taken);
        check_free(&endpoint).unwrap();
    }
}
