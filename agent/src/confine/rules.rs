//! What the daemon may do, and having the kernel hold it to that.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, NetPort, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus, Scope, path_beneath_rules,
};

use super::{ConfineError, Confinement, Level, Mode};
use crate::{config::Config, trust};

/// The newest restrictions that are asked for (Linux 6.12): each was run with. What a later kernel could hold back it does not.
const KNOWN: ABI = ABI::V6;

/// What it reads of the system while it runs: how to find hosts by name and what time zone there is (`/etc`, `/run` where a
/// resolver keeps its file, and the libraries that do it), how many processors it may use, and when the system started.
const SYSTEM: [&str; 8] = [
    "/etc",
    "/run",
    "/usr",
    "/lib",
    "/lib64",
    "/proc",
    "/sys/fs/cgroup",
    "/sys/devices/system/cpu",
];

/// Where a resolver asks again whose answer was too long for UDP. All other TCP is held back.
const DNS_PORT: u16 = 53;

/// What a process may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Directories below which it makes, changes and removes files. What is not there is left out, and is not made.
    pub writes: Vec<PathBuf>,
    /// Directories and files that it reads, beside those of the system. What is not there is left out.
    pub reads: Vec<PathBuf>,
}

impl Rules {
    /// What `scap-agent run` needs: its data directory; its identity directory, where a renewed certificate goes; the
    /// directory of its configuration file, which is read again; and the activator's record of signers files, of all that is below the deploy root.
    pub fn of_daemon(config: &Config, file: Option<&Path>) -> Self {
        let folder = file.map(|file| match file.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        });
        let mut reads = vec![trust::activators_record(&config.deploy_root)];
        reads.extend(folder);
        Self {
            writes: vec![config.data.clone(), config.identity.clone()],
            reads,
        }
    }
}

/// Confines this thread and all that it starts from now on, for good: they run no program, write only where the rules say, read
/// only there and what the system has for all, open no TCP but to a resolver, use no devices, and reach no process
/// outside by signals or abstract sockets. UDP is not restricted: no kernel before Linux 7.2 can.
///
/// A process that is to be confined as a whole calls it before it has a second thread.
///
/// # Errors
/// [`ConfineError`]. Whether anything is enforced then is not known: the process is to end.
pub fn restrict(mode: Mode, rules: &Rules) -> Result<Confinement, ConfineError> {
    let level = match mode {
        Mode::Off => Level::None,
        Mode::Required | Mode::BestEffort => enforce(rules)?,
    };
    let confinement = Confinement { mode, level };
    match (mode, level) {
        (Mode::Required, Level::Partial | Level::None) => Err(ConfineError::Required(confinement)),
        _ => Ok(confinement),
    }
}

fn enforce(rules: &Rules) -> Result<Level, ConfineError> {
    let reads = AccessFs::ReadFile | AccessFs::ReadDir;
    let ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))?
        .create()?
        .add_rule(NetPort::new(DNS_PORT, AccessNet::ConnectTcp))?
        .add_rules(path_beneath_rules(SYSTEM, reads))?
        .add_rules(path_beneath_rules(&rules.reads, reads))?
        .add_rules(path_beneath_rules(&rules.writes, owned()))?;
    Ok(match ruleset.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => Level::Full,
        RulesetStatus::PartiallyEnforced => Level::Partial,
        RulesetStatus::NotEnforced => Level::None,
    })
}

/// What it does below its own directories: files, folders and sockets, moved and linked among them. It makes no devices, pipes
/// or symbolic links, and runs nothing from there.
fn owned() -> BitFlags<AccessFs> {
    AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSock
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::{
        fs, io,
        net::{TcpListener, TcpStream, UdpSocket},
        os::unix::net::UnixListener,
        process::Command,
    };

    use super::*;

    /// Runs something in a thread of its own that is confined; none where the kernel cannot.
    fn confined<T: Send>(rules: &Rules, work: impl FnOnce() -> T + Send) -> Option<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let confinement = restrict(Mode::BestEffort, rules).unwrap();
                (confinement.level == Level::Full).then(work)
            });
            thread.join().unwrap()
        })
    }

    fn is_denied<T>(done: io::Result<T>) -> bool {
        done.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    }

    #[test]
    fn a_confined_thread_writes_below_its_directories_and_nowhere_else() {
        let (ours, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (ours, others) = (ours.path(), others.path());
        fs::write(others.join("secret"), "theirs").unwrap();
        fs::write(ours.join("program"), "#!/bin/sh\n").unwrap();
        fs::create_dir(ours.join("folder")).unwrap();
        std::os::unix::fs::symlink(others, ours.join("way")).unwrap();
        let there = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = there.local_addr().unwrap();
        let rules = Rules {
            writes: vec![ours.to_owned()],
            reads: vec![],
        };
        let ran = confined(&rules, || {
            // What it does each day.
            fs::write(ours.join("a"), "one").unwrap();
            fs::hard_link(ours.join("a"), ours.join("folder/b")).unwrap();
            fs::rename(ours.join("folder/b"), ours.join("c")).unwrap();
            fs::remove_file(ours.join("c")).unwrap();
            UnixListener::bind(ours.join("socket")).unwrap();
            UdpSocket::bind("127.0.0.1:0").unwrap();
            fs::read("/proc/sys/kernel/random/boot_id").unwrap();
            fs::read_dir("/etc").unwrap();
            // And what a bug would have it do.
            assert!(is_denied(fs::write(others.join("new"), "ours")));
            assert!(is_denied(fs::write(ours.join("way/new"), "ours")));
            assert!(is_denied(fs::write("/dev/shm/new", "ours")));
            assert!(is_denied(fs::read(others.join("secret"))));
            assert!(is_denied(fs::remove_file(others.join("secret"))));
            assert!(fs::rename(ours.join("a"), others.join("a")).is_err());
            assert!(fs::hard_link(others.join("secret"), ours.join("s")).is_err());
            let truncated = fs::File::options().write(true).open(others.join("secret"));
            assert!(is_denied(truncated));
            assert!(is_denied(std::os::unix::fs::symlink("/", ours.join("l"))));
            assert!(is_denied(Command::new("/bin/true").status()));
            assert!(is_denied(TcpListener::bind("127.0.0.1:0")));
            assert!(is_denied(TcpStream::connect(tcp)));
        });
        if ran.is_none() {
            println!("skipped: this kernel's Landlock does not know all that is asked for");
            return;
        }
        assert_eq!(fs::read_dir(others).unwrap().count(), 1);
        // Only that thread is held to it.
        fs::write(others.join("new"), "ours").unwrap();
    }

    #[test]
    fn a_process_outside_is_not_signalled() {
        use rustix::process::{Pid, Signal, kill_process, test_kill_process};

        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let rules = Rules {
            writes: vec![],
            reads: vec![],
        };
        let killed = confined(&rules, || kill_process(pid.unwrap(), Signal::KILL));
        let is_there = test_kill_process(pid.unwrap()).is_ok();
        child.kill().unwrap();
        child.wait().unwrap();
        match killed {
            None => println!("skipped: this kernel's Landlock does not know signals"),
            Some(killed) => assert!(killed.is_err() && is_there, "{killed:?}"),
        }
    }

    #[test]
    fn what_is_not_there_is_left_out_and_off_is_off() {
        let folder = tempfile::tempdir().unwrap();
        let there = folder.path().join("later");
        let rules = Rules {
            writes: vec![there.clone()],
            reads: vec!["/nowhere/else".into()],
        };
        let made = confined(&rules, || fs::create_dir(&there));
        assert!(made.is_none_or(is_denied));
        assert_eq!(restrict(Mode::Off, &rules).unwrap().level, Level::None);
        fs::create_dir(&there).unwrap();
    }

    #[test]
    fn what_is_required_and_not_there_says_so() {
        for level in [Level::Partial, Level::None] {
            let confinement = Confinement {
                mode: Mode::Required,
                level,
            };
            let error = ConfineError::Required(confinement).to_string();
            assert!(error.contains("requires it"), "{error}");
            assert!(error.contains("confined"), "{error}");
        }
    }
}
