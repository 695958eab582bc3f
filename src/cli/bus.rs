//! zenoh's own flags, as in its examples, for every subcommand that opens a session.

use std::path::PathBuf;

use pathline::node::BusConfig;

/// zenoh's own flags; without them the two halves meet on tcp/127.0.0.1:7447.
#[derive(clap::Args)]
#[command(next_help_heading = "zenoh")]
pub(crate) struct BusArgs {
    /// peer, client or router; by default the listening side is a router, the others its clients.
    #[arg(short, long, value_name = "MODE", value_parser = ["peer", "client", "router"])]
    mode: Option<String>,
    /// Endpoint to connect to; may be given more than once.
    #[arg(short = 'e', long, value_name = "ENDPOINT")]
    connect: Vec<String>,
    /// Endpoint to listen on; may be given more than once.
    #[arg(short, long, value_name = "ENDPOINT")]
    listen: Vec<String>,
    /// zenoh configuration file (JSON5) instead of the closed defaults.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, KEY:VALUE with a JSON5 value; may be given more than once.
    #[arg(long, value_name = "KEY:VALUE")]
    cfg: Vec<String>,
    /// Multicast is off anyway unless -c says otherwise.
    #[arg(long)]
    no_multicast_scouting: bool,
}

impl BusArgs {
    /// As the node's configuration.
    pub(crate) fn to_config(&self) -> BusConfig {
        BusConfig {
            mode: self.mode.clone(),
            connect: self.connect.clone(),
            listen: self.listen.clone(),
            config: self.config.clone(),
            cfg: self.cfg.clone(),
            no_multicast_scouting: self.no_multicast_scouting,
        }
    }
}
