//! What this machine is called in full, which names sections of `scap.cfg`.

use std::{fs, process::Command};

/// The full name of this machine: as the kernel has it, if that has a domain, else as `hostname --fqdn` finds it; empty
/// where nobody knows one.
pub fn host_name() -> String {
    let own = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let own = own.trim();
    if own.contains('.') {
        return own.to_owned();
    }
    let found = Command::new("hostname").arg("--fqdn").output().ok();
    let found = found.filter(|output| output.status.success());
    let found = found.and_then(|output| String::from_utf8(output.stdout).ok());
    found.map_or_else(|| own.to_owned(), |name| name.trim().to_owned())
}
