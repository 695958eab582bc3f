//! SIGINT and SIGTERM: the first asks to stop, the second ends the process at once.

use anyhow::Context;
use pathline::node::Stop;

/// A stop flag that Ctrl-C sets.
pub(crate) fn stop_on_signal() -> anyhow::Result<Stop> {
    let stop = Stop::new();
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.is_set() {
            std::process::exit(130);
        }
        flag.set();
    })
    .context("cannot install the signal handler")?;
    Ok(stop)
}
