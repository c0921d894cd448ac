//! A real sshd on loopback, of a test's own: its keys, its configuration, whom it lets in; and an ssh config that leads to it.

use std::fmt::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use scap_tests::fleet::wait_until;

use super::process::LIMIT;
use super::scene::Scene;

/// Debian's; it must be started by its whole path.
const PROGRAM: &str = "/usr/sbin/sshd";

/// Whether there is one. Where not, the test passes and says so; in CI it fails.
pub fn is_here() -> bool {
    let is_here = Path::new(PROGRAM).exists();
    if !is_here {
        println!("skipped: {PROGRAM} is not there (Debian package openssh-server)");
        let must_run = std::env::var_os("SCAP_TESTS_NO_SKIP").is_some();
        assert!(!must_run, "openssh-server is not installed");
    }
    is_here
}

/// A running sshd that takes the key of [`Client`]; dropping it kills it.
pub struct Sshd {
    /// The host as the fleet file and the ssh config call it.
    pub name: String,
    port: u16,
    host_key: PathBuf,
    child: Child,
}

impl Sshd {
    /// With a new host key, and `more` in its configuration.
    pub fn start(scene: &Scene, name: &str, more: &str) -> Self {
        Self::start_with_key(scene, name, "ed25519", more)
    }

    /// The same, where the key is of this kind.
    pub fn start_with_key(scene: &Scene, name: &str, kind: &str, more: &str) -> Self {
        Client::of(scene);
        if rustix::process::geteuid().is_root() {
            // For the half of it that has no rights.
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        let host_key = scene.path(format!("sshd/{name}.key"));
        let _ = std::fs::remove_file(&host_key);
        make_key(&host_key, kind);
        let log = scene.path(format!("output/sshd-{name}.log"));
        // Somebody may take the port that was free a moment ago.
        for _ in 0..10 {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = free.local_addr().unwrap().port();
            drop(free);
            // The first that is said of an option holds.
            let config = format!(
                "{more}\nListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\n\
                 UsePAM no\nPidFile none\nPermitRootLogin yes\nPasswordAuthentication no\n\
                 KbdInteractiveAuthentication no\nSetEnv PATH={}:/usr/bin:/bin\n",
                host_key.display(),
                scene.path("sshd/client.pub").display(),
                scene.path("bin").display(),
            );
            scene.write(&format!("sshd/{name}.conf"), config);
            let child = Command::new(PROGRAM)
                .args(["-D", "-e", "-f"])
                .arg(scene.path(format!("sshd/{name}.conf")))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(std::fs::File::create(&log).unwrap())
                .spawn()
                .unwrap();
            let mut sshd = Self {
                name: name.to_owned(),
                port,
                host_key: host_key.clone(),
                child,
            };
            let listens = wait_until(&format!("sshd of {name} listens"), LIMIT, || {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return Ok(true);
                }
                match sshd.child.try_wait().unwrap() {
                    Some(_) => Ok(false),
                    None => Err(std::fs::read_to_string(&log).unwrap()),
                }
            });
            // It may be another's that listens there: then ours has ended.
            if listens && sshd.child.try_wait().unwrap().is_none() {
                return sshd;
            }
        }
        panic!("sshd: {}", std::fs::read_to_string(&log).unwrap());
    }

    /// The fingerprint of its host key, as `ssh-keygen` tells it.
    pub fn fingerprint(&self) -> String {
        let told = Command::new("ssh-keygen")
            .arg("-lf")
            .arg(&self.host_key)
            .output()
            .unwrap();
        let told = String::from_utf8(told.stdout).unwrap();
        told.split(' ').nth(1).unwrap().to_owned()
    }

    /// The line of `known_hosts` by which it is known.
    pub fn known(&self) -> String {
        let public = std::fs::read_to_string(self.host_key.with_extension("key.pub")).unwrap();
        format!("{} {public}", self.name)
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The deployment host's ssh: a key and a config.
pub struct Client;

impl Client {
    fn of(scene: &Scene) {
        let key = scene.path("sshd/client");
        if !key.exists() {
            std::fs::create_dir_all(scene.path("sshd")).unwrap();
            make_key(&key, "ed25519");
        }
    }

    /// Writes `ssh_config`, which leads to these, and knows no host but by `known_hosts`.
    pub fn leads_to(scene: &Scene, hosts: &[&Sshd]) {
        let mut text = String::new();
        for host in hosts {
            let (name, port) = (&host.name, host.port);
            // So that a host is known by its name, whatever its port.
            let _ = writeln!(
                text,
                "Host {name}\nHostName 127.0.0.1\nPort {port}\nHostKeyAlias {name}"
            );
        }
        let _ = writeln!(
            text,
            "Host *\nIdentityFile {}\nIdentitiesOnly yes\nUserKnownHostsFile {}\n\
             GlobalKnownHostsFile /dev/null\nHashKnownHosts no\nUser {}",
            scene.path("sshd/client").display(),
            scene.path("known_hosts").display(),
            me(),
        );
        scene.write("ssh_config", text);
    }
}

/// Who runs the tests, and logs in.
pub fn me() -> String {
    let told = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(told.stdout).unwrap().trim().to_owned()
}

fn make_key(path: &Path, kind: &str) {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", kind, "-N", "", "-C", "test", "-f"])
        .arg(path)
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(made.success(), "ssh-keygen {}", path.display());
}
