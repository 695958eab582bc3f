//! Tells the tensor library once how many threads there are.
//!
//! candle 0.11 looks for the number at every matrix product: in `RAYON_NUM_THREADS`, else in the files
//! of the system, which takes longer than a product of one observation (a chunk of the shipped policy:
//! 1.4 ms an evaluation instead of 0.35 ms). A process cannot safely change its own environment, so
//! the program starts itself again in place (`exec`: the same process id, files and terminal).

/// What candle and rayon read.
const VARIABLE: &str = "RAYON_NUM_THREADS";

/// Sets the number of threads to all that there are, unless it is set already.
pub(crate) fn settle() {
    if std::env::var_os(VARIABLE).is_none() {
        begin_again(super::machine::threads());
    }
}

/// Replaces this process by one in which the number of threads is set; returns if that is not possible
/// here, which costs speed only.
fn begin_again(threads: usize) {
    #[cfg(unix)]
    if let Ok(program) = std::env::current_exe() {
        use std::os::unix::process::CommandExt;
        let mut args = std::env::args_os();
        let mut again = std::process::Command::new(program);
        if let Some(name) = args.next() {
            again.arg0(name);
        }
        let error = again.args(args).env(VARIABLE, threads.to_string()).exec();
        tracing::debug!("{VARIABLE} could not be set: {error}");
    }
}

/// Computes with `count` threads: the process begins again if it has another number.
pub(crate) fn set(count: usize) -> anyhow::Result<()> {
    const MOST: usize = 1024;
    anyhow::ensure!((1..=MOST).contains(&count), "--threads: expected 1 to {MOST}, got {count}");
    if std::env::var(VARIABLE).is_ok_and(|set| set == count.to_string()) {
        return Ok(());
    }
    begin_again(count);
    Ok(())
}

/// The number of threads that this process computes with.
pub(crate) fn used() -> usize {
    let set = std::env::var(VARIABLE).ok().and_then(|count| count.parse().ok());
    set.unwrap_or_else(super::machine::threads)
}
