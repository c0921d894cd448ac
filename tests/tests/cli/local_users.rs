//! The sockets of a host and of a deployment, and who is heard there.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::process::{Gid, Signal, Uid, geteuid};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};
use scap_agent::api::Call;
use scap_coordinator::cli::CONTROL_COMMANDS;

use super::fleet::{Fleet, deployed};
use super::process::send_signal;

/// A user of the host who has nothing to do with it.
const STRANGER: u32 = 65_003;

/// What a user hears who writes a line to a socket: in a thread, whose user is another than that of the process.
pub fn heard_by(user: u32, groups: &[u32], socket: &Path, line: &str) -> io::Result<String> {
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| -> io::Result<String> {
            let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
            set_thread_groups(&groups)?;
            set_thread_gid(Gid::from_raw(user))?;
            set_thread_uid(Uid::from_raw(user))?;
            let mut stream = UnixStream::connect(socket)?;
            // It may be refused before it has said anything.
            let _ = stream.write_all(line.as_bytes());
            let mut heard = Vec::new();
            let read = stream.read_to_end(&mut heard);
            if heard.is_empty() {
                read?;
            }
            Ok(String::from_utf8_lossy(&heard).into_owned())
        });
        asking.join().unwrap()
    })
}

/// The inodes of the sockets that processes have open.
fn sockets_of(pids: &[u32]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for pid in pids {
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            let target = target.to_string_lossy().into_owned();
            if let Some(inode) = target.strip_prefix("socket:[") {
                found.insert(inode.trim_end_matches(']').to_owned());
            }
        }
    }
    found
}

/// The lines of a table of sockets that are of these, as words.
fn table(name: &str, inode_at: usize, inodes: &BTreeSet<String>) -> Vec<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/self/net/{name}")).unwrap_or_default();
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    let lines = text.lines().skip(1).map(words);
    let of_these = |words: &Vec<String>| words.get(inode_at).is_some_and(|it| inodes.contains(it));
    lines.filter(of_these).collect()
}

#[test]
fn e11_every_local_socket_denies_by_default_and_nothing_listens_on_tcp() {
    if !geteuid().is_root() {
        println!("skipped: other users take root");
        return;
    }
    let fleet = Fleet::start(&["web1"]);
    let scene = &fleet.scene;
    scene.repo();
    let activator = fleet.agents[0].activator().pid;
    send_signal(activator, Signal::STOP);
    let mut deploy = fleet.start_deploy(&["--repo", "repo"]);
    deploy.wait_until_it_says("wave rest: fetch");
    let control = scene.path("st/control");
    let control: Vec<PathBuf> = fs::read_dir(control)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(control.len(), 1, "{control:?}");
    let control = &control[0];

    // All that listens: there is no HTTP here, nor anything else over TCP.
    let pids: Vec<u32> = scene.processes().iter().map(|it| it.pid).collect();
    let inodes = sockets_of(&pids);
    for name in ["tcp", "tcp6"] {
        let listening = table(name, 9, &inodes);
        assert!(listening.is_empty(), "{listening:?}");
    }
    let listens = |words: &Vec<String>| words[3] == "00010000" && words.len() > 7;
    let listening: BTreeSet<String> = table("unix", 6, &inodes)
        .into_iter()
        .filter(listens)
        .map(|words| words[7].rsplit('/').next().unwrap().to_owned())
        .collect();
    let of_deployment = control.file_name().unwrap().to_str().unwrap();
    let known = ["agent.sock", "activator.sock", of_deployment].map(str::to_owned);
    assert_eq!(listening, known.into());

    let lines = |key: &str, names: &[&str]| -> Vec<String> {
        let line = |name: &&str| format!("{{\"{key}\":\"{name}\"}}\n");
        names.iter().map(line).collect()
    };
    // The activator's requests are frames; who may not ask is refused whatever it would say.
    let surfaces = [
        (
            scene.path("web1/data/agent.sock"),
            lines("method", &Call::METHODS),
        ),
        (
            scene.path("web1/data/activator.sock"),
            vec!["\0\0\0\u{1}\0".into()],
        ),
        (control.clone(), lines("command", &CONTROL_COMMANDS)),
    ];
    let open = |path: &Path, mode: u32| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    // Directories first, then the sockets themselves: each of the three is enough, and is all there is.
    let ask = |socket: &Path, line: &str| heard_by(STRANGER, &[], socket, line);
    for below in ["", "web1", "web1/data", "st", "st/control"] {
        for (socket, lines) in &surfaces {
            assert!(ask(socket, &lines[0]).is_err(), "{}", socket.display());
        }
        open(&scene.path(below), 0o755);
    }
    for (socket, lines) in &surfaces {
        assert!(ask(socket, &lines[0]).is_err(), "{}", socket.display());
        open(socket, 0o666);
        for line in lines {
            if socket.ends_with("activator.sock") {
                // It is stopped, and takes its turn below.
                continue;
            }
            let heard = ask(socket, line).unwrap();
            assert!(heard.contains(r#""code":"local-user""#), "{line}: {heard}");
            assert!(heard.contains("user 65003 may not ask here"), "{heard}");
        }
    }
    // Whoever may ask is told what is no request.
    for (socket, _) in [&surfaces[0], &surfaces[2]] {
        let heard = heard_by(0, &[], socket, "{\"method\":\"run\",\"command\":\"run\"}\n");
        assert!(heard.unwrap().contains("unknown variant"));
    }
    open(&scene.path("st"), 0o700);
    send_signal(activator, Signal::CONT);
    let (socket, lines) = &surfaces[1];
    assert!(ask(socket, &lines[0]).unwrap().contains("local-user"));
    // None of it disturbed anybody.
    let report = deployed(&deploy.end().exits(0));
    assert_eq!(report["hosts"][0]["outcome"], "promoted", "{report:#}");
}
