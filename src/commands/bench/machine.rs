//! The machine that a measurement is from.

use anyhow::{Context, Result};

/// Processor, cores, memory and kernel in a line.
pub(super) fn describe() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let cpu = field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown processor".into());
    let memory = field(&read("/proc/meminfo"), "MemTotal").and_then(|text| kibibytes(&text));
    let memory = memory.map_or("unknown".into(), |bytes| format!("{:.1} GiB", gib(bytes)));
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("machine: {cpu}, {cores} cores, {memory} memory, Linux {}", kernel.trim())
}

/// The most memory that a process has held, in bytes.
///
/// # Errors
/// If there is no such process, or the kernel does not tell.
pub(super) fn peak_memory(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    field(&status, "VmHWM").and_then(|text| kibibytes(&text)).with_context(|| format!("{path} has no VmHWM"))
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

/// The first `name : value` line's value.
fn field(text: &str, name: &str) -> Option<String> {
    let values = text.lines().filter_map(|line| line.split_once(':'));
    values.into_iter().find(|(found, _)| found.trim() == name).map(|(_, value)| value.trim().to_owned())
}

fn kibibytes(text: &str) -> Option<u64> {
    let number: u64 = text.strip_suffix("kB")?.trim().parse().ok()?;
    Some(number * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_understood() {
        assert_eq!(field("model name\t: A CPU @ 2:1\nother: x", "model name").as_deref(), Some("A CPU @ 2:1"));
        assert_eq!(kibibytes("  2048 kB".trim()), Some(2_097_152));
        assert!(peak_memory(std::process::id()).expect("a value") > 1 << 20);
        assert!(describe().starts_with("machine: "));
    }
}
