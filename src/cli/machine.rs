//! What a report says about the machine it was made on.

use std::fs::read_to_string;

/// Name of the processor, or its architecture where the system does not tell.
pub(crate) fn cpu() -> String {
    let info = read_to_string("/proc/cpuinfo").unwrap_or_default();
    field(&info, "model name").unwrap_or(std::env::consts::ARCH).to_owned()
}

/// Threads that this process may use.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Vector instructions that matrix products use, as far as they are known.
pub(crate) fn simd() -> String {
    #[cfg(target_arch = "x86_64")]
    {
        let found = [
            ("avx2", std::is_x86_feature_detected!("avx2")),
            ("fma", std::is_x86_feature_detected!("fma")),
            ("avx512f", std::is_x86_feature_detected!("avx512f")),
        ];
        let names: Vec<_> = found.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(" ") }
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::env::consts::ARCH.to_owned()
}

/// Most memory that this process has held so far, MB (10⁶ bytes), where the system tells.
pub(crate) fn peak_memory_mb() -> Option<f64> {
    let status = read_to_string("/proc/self/status").ok()?;
    let kib: f64 = field(&status, "VmHWM")?.strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}

/// The value of the first line `key : value`.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let (_, value) =
        text.lines().filter_map(|line| line.split_once(':')).find(|(k, _)| k.trim() == key)?;
    Some(value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "VmHWMX:\t1 kB\nVmHWM:\t  2048 kB\n";
        assert_eq!(field(text, "VmHWM"), Some("2048 kB"));
        assert_eq!(field(text, "Vm"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn linux_tells_the_peak() {
        let peak = peak_memory_mb().unwrap();
        assert!((1.0..1e6).contains(&peak), "{peak}");
    }
}
