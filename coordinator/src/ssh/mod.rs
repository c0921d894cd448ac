//! What is done on hosts before their agents can be asked: over the system's OpenSSH client, with its configuration, its keys and
//! what it knows of hosts.
//!
//! Everything that comes back is a stranger's: so much of it is read and no more, for so long and no longer, and what is shown of it is
//! escaped. Whether a host is the one it should be, OpenSSH alone decides.

mod client;
mod enrol;
mod known;
mod log;
mod target;

pub use self::{
    client::{Said, Ssh, SshError},
    enrol::{Done, EnrolError, Failed, OnHost, Outcome, SshEnrolment, fingerprint_line},
    log::{HostKey, SshLog, Verdict},
    target::{ParseTargetError, Target},
};
