//! Checks of a host that runs an agent. They look at files, and ask the daemon where it runs.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use scap_proto::{identity::Identity, transport::LinkSettings};
use serde_json::Value;

use super::{
    Check,
    identity::{check_authorities, check_key, check_life},
};
use crate::{
    api::{self, Call},
    clock, error_chain,
    trust::HostTrust,
};

/// What renews a host's certificate.
const RENEW: &str =
    "on the deployment host: scap-coordinator renew; the next deployment does it too";

/// Where an agent has its things.
#[derive(Debug, Clone)]
pub struct HostPaths {
    /// The identity directory.
    pub identity: PathBuf,
    /// The data directory.
    pub data: PathBuf,
    /// Where repos go live.
    pub deploy_root: PathBuf,
}

/// All checks of a host.
pub async fn checkup(paths: &HostPaths) -> Vec<Check> {
    let now = clock::now();
    let mut checks = Vec::new();
    let identity = match Identity::load(&paths.identity) {
        Ok(identity) => Some(identity),
        Err(error) => {
            checks.push(Check::bad(
                "identity",
                error_chain(&error),
                "run this as the agent's user; `scap-coordinator enroll` makes an identity",
            ));
            None
        }
    };
    if let Some(identity) = &identity {
        checks.push(Check::ok("identity", identity.own().to_string()));
        checks.push(check_life("certificate", identity.validity(), now.0, RENEW));
        checks.push(check_authorities(&paths.identity, now.0));
        checks.push(check_key(identity));
        checks.push(check_writable(&paths.identity));
        match HostTrust::load(&paths.identity, now) {
            Ok(trust) => checks.push(check_membership(&trust, now.0)),
            Err(error) => checks.push(Check::bad(
                "trust",
                error_chain(&error),
                "what it names is to be mended, or the host enrolled again",
            )),
        }
    }
    checks.push(check_data(&paths.data));
    checks.push(check_deploy_root(&paths.deploy_root));
    checks.push(check_file_systems(&paths.data, &paths.deploy_root));
    checks.extend(check_buffers(Path::new("/proc/sys/net/core")));
    checks.push(check_daemon(&paths.data, identity.as_ref()).await);
    checks
}

/// Whether the next certificate can be kept.
fn check_writable(directory: &Path) -> Check {
    const NAME: &str = "identity-directory";
    let access = rustix::fs::access(directory, rustix::fs::Access::WRITE_OK);
    let at = directory.display();
    match access {
        Ok(()) => Check::ok(NAME, format!("{at} can be written, for renewals")),
        Err(error) => Check::warn(
            NAME,
            format!("{at} cannot be written: {error}"),
            "chown it to the agent's user, and name it in ReadWritePaths= of the unit: else renewals are not kept",
        ),
    }
}

fn check_membership(trust: &HostTrust, now_unix_ms: u64) -> Check {
    const NAME: &str = "membership";
    let Some(membership) = trust.membership.get() else {
        let text = "none: peers serve this host what a plan names it for, and nothing else";
        return Check::warn(
            NAME,
            text,
            "enroll it again, before it catches up with peers",
        );
    };
    let name = &trust.addressee.host;
    let verified = membership.verify(trust.identity.trust(), name, clock::now());
    match (verified, membership.0.certified()) {
        (Ok(_), Some((_, valid))) => check_life(NAME, valid, now_unix_ms, RENEW),
        (Err(error), _) => Check::bad(NAME, error_chain(&error), RENEW),
        (Ok(_), None) => Check::bad(NAME, "its certificate is none", RENEW),
    }
}

/// Whether a directory is there and nobody but its owner can change it, and read it where it is private.
fn check_directory(name: &'static str, path: &Path, forbidden: u32, mode: &str) -> Check {
    let at = path.display();
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = format!("{at} is not there yet");
            Check::warn(
                name,
                text,
                "start the agent, or make it for the agent's user",
            )
        }
        Err(error) => Check::bad(
            name,
            format!("look at {at}: {error}"),
            "run this as the agent's user",
        ),
        Ok(found) if !found.is_dir() => {
            Check::bad(name, format!("{at} is no directory"), "move it away")
        }
        Ok(found) => {
            let (bits, owner) = (found.mode() & 0o7777, found.uid());
            let text = format!("{at} is of user {owner}, mode {bits:03o}");
            match bits & forbidden {
                0 => Check::ok(name, text),
                _ => Check::bad(name, text, format!("chmod {mode} {at}")),
            }
        }
    }
}

fn check_data(data: &Path) -> Check {
    check_directory("data-directory", data, 0o022, "go-w")
}

fn check_deploy_root(root: &Path) -> Check {
    check_directory("deploy-root", root, 0o022, "go-w")
}

/// On which file systems chunks and releases are, and how much room is left there.
fn check_file_systems(data: &Path, root: &Path) -> Check {
    const NAME: &str = "file-systems";
    let look = |path: &Path| {
        let found = path.ancestors().find(|it| it.exists()).unwrap_or(path);
        let space = rustix::fs::statvfs(found)?;
        let device = fs::metadata(found)?.dev();
        io::Result::Ok((device, space))
    };
    let ((data_device, data_space), (root_device, root_space)) = match (look(data), look(root)) {
        (Ok(data), Ok(root)) => (data, root),
        (Err(error), _) | (_, Err(error)) => {
            let text = format!("ask for the room on the disk: {error}");
            return Check::bad(NAME, text, "run this as the agent's user");
        }
    };
    let free = |space: &rustix::fs::StatVfs| space.f_bavail * space.f_frsize / (1024 * 1024);
    let (data_free, root_free) = (free(&data_space), free(&root_space));
    let text = match data_device == root_device {
        true => format!("store and deploy root share one, {root_free} MiB free"),
        false => format!(
            "store and deploy root are on two: {data_free} MiB free for chunks, {root_free} MiB for releases; each needs room for \
             a release"
        ),
    };
    let is_read_only = [&data_space, &root_space]
        .iter()
        .any(|space| space.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    match is_read_only {
        true => Check::bad(
            NAME,
            format!("{text}; one is read-only"),
            "mount it to be written",
        ),
        false => Check::ok(NAME, text),
    }
}

/// Whether the system lets a socket have buffers as large as are asked for.
fn check_buffers(settings: &Path) -> Vec<Check> {
    let wanted = u64::from(LinkSettings::default().socket_buffer_bytes);
    let of = |name: &'static str, file: &str| {
        let text = fs::read_to_string(settings.join(file)).ok()?;
        let most: u64 = text.trim().parse().ok()?;
        let text = format!("net.core.{file} is {most} bytes");
        Some(match most >= wanted {
            true => Check::ok(name, text),
            false => Check::warn(
                name,
                format!(
                    "{text}, and {wanted} are asked for: bursts are lost at more than some Gbit/s"
                ),
                format!("sysctl -w net.core.{file}={wanted}"),
            ),
        })
    };
    let receive = of("udp-receive-buffer", "rmem_max");
    let send = of("udp-send-buffer", "wmem_max");
    receive.into_iter().chain(send).collect()
}

/// Whether the daemon runs, and as whom the files say.
async fn check_daemon(data: &Path, identity: Option<&Identity>) -> Check {
    const NAME: &str = "agent";
    let status: Value = match api::call(data, &Call::Status).await {
        Ok(status) => status,
        Err(error) => {
            let remedy =
                "start it: scap-agent run; as which user and with which --data does it run?";
            return Check::warn(NAME, error_chain(&error), remedy);
        }
    };
    let address = status["address"].as_str().unwrap_or_default();
    let until = status["identity"]["valid_until"].as_str();
    let on_disk = identity.map(|it| clock::timestamp(it.validity().not_after_unix_ms).to_string());
    match (until, on_disk) {
        (Some(used), Some(on_disk)) if used != on_disk => Check::warn(
            NAME,
            format!(
                "it listens on {address} with a certificate until {used}; on the disk is one until {on_disk}"
            ),
            "restart it, where the files were changed by hand",
        ),
        _ => Check::ok(NAME, format!("it listens on {address}")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::doctor::Level;

    #[test]
    fn d14_small_socket_buffers_are_warned_of_with_the_command_that_makes_them_larger() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("rmem_max"), "212992\n").unwrap();
        fs::write(folder.path().join("wmem_max"), "4194304\n").unwrap();
        let checks = check_buffers(folder.path());
        let levels: Vec<Level> = checks.iter().map(|check| check.level).collect();
        assert_eq!(levels, [Level::Warn, Level::Ok]);
        assert_eq!(
            checks[0].remedy.as_deref(),
            Some("sysctl -w net.core.rmem_max=4194304")
        );
        assert!(check_buffers(&folder.path().join("none")).is_empty());
    }

    #[test]
    fn c8_a_data_directory_that_others_can_change_is_bad_and_one_that_is_not_there_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        assert_eq!(check_data(&data).level, Level::Warn);
        fs::create_dir(&data).unwrap();
        let chmod = |mode| fs::set_permissions(&data, fs::Permissions::from_mode(mode)).unwrap();
        chmod(0o700);
        assert_eq!(check_data(&data).level, Level::Ok);
        chmod(0o777);
        let check = check_data(&data);
        assert_eq!(check.level, Level::Bad);
        assert!(check.remedy.unwrap().starts_with("chmod go-w"));
    }

    #[test]
    fn f9_whether_store_and_deploy_root_share_a_file_system_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let (data, root) = (folder.path().join("data"), folder.path().join("srv"));
        let check = check_file_systems(&data, &root);
        assert!(check.text.contains("share one"), "{check:?}");
        let check = check_file_systems(&data, Path::new("/proc/none"));
        assert!(check.text.contains("are on two"), "{check:?}");
    }
}
