//! Keeping what is in this process's memory, keys and tokens among it, from others of its user, and off the disk.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Keeps this process from being traced, and its memory, environment and descriptors from being read, by other processes of its
/// user, and from leaving a core, whatever the system does with cores. What it starts is not kept from it: that is for each program to say.
pub fn keep_memory_private() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        // No log is there yet, and nothing of the secrets either.
        eprintln!("warning: keep this process's memory from others: {error}");
    }
}

/// Has this process, and what it starts from now on, write no core to the disk: for processes that start nothing of which a core
/// is of use to anybody.
pub fn keep_core_off_disk() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        eprintln!("warning: limit the size of cores to nothing: {error}");
    }
}
