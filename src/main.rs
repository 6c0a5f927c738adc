//! The `freshet` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    bound_allocator();
    freshet_topics::failpoint::listen();
    freshet::cli::main()
}

/// Bounds glibc's arenas. A row is a dozen small allocations, half of them inside librdkafka, made on one thread
/// and freed on another; with the default of eight arenas a core the process keeps a hundred MiB that it does not
/// use.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
fn bound_allocator() {
    const ARENAS_MAX: libc::c_int = 2;
    // SAFETY: mallopt only sets a number; no other thread runs yet.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS_MAX) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn bound_allocator() {}
