//! BitTorrent by aria2, with opentracker at the seed; every host goes on serving until the last one is done.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use scap_tests::fleet::{Process, Station, Usage, wait_until};

use super::{LIMIT, Running, Work, finish, spawn, text, wait_for_port, words};

struct Torrent<'a> {
    work: &'a Work<'a>,
    running: Vec<Process>,
}

pub(super) fn start<'a>(work: &'a Work<'a>) -> Box<dyn Running + 'a> {
    let hook = work.own().join("hook");
    // Called with a number, the count of files, and the path of the first.
    std::fs::write(&hook, "#!/bin/sh\n: > \"$(dirname \"$3\")\".done\n").expect("just made");
    std::fs::set_permissions(&hook, Permissions::from_mode(0o755)).expect("it is ours");
    Box::new(Torrent {
        work,
        running: Vec::new(),
    })
}

impl Torrent<'_> {
    /// The tracker knows no torrent but those that are listed when it starts.
    fn track(&self, torrent: &Path) -> Process {
        let seed = self.work.seed();
        let shown = spawn(seed, "aria2-show", "aria2c", &words(&["-S", text(torrent)]));
        let shown = shown.wait(LIMIT).stdout;
        let hash = shown
            .lines()
            .find_map(|line| line.strip_prefix("Info Hash: "));
        let hash = hash.unwrap_or_else(|| panic!("no info hash in {shown}"));
        // It makes this its root, as which it reads the list without the rights that the fleet's directory wants.
        let dir = self.work.own();
        std::fs::write(dir.join("list"), format!("{hash}\n")).expect("just made");
        let address = seed.address().to_string();
        let port = TRACKER_PORT.to_string();
        let args = [
            "-i",
            &address,
            "-p",
            &port,
            "-P",
            &port,
            "-d",
            text(&dir),
            "-u",
            "nobody",
            "-w",
            "list",
        ];
        let tracker = spawn(seed, "opentracker", "opentracker", &words(&args));
        wait_for_port(seed, TRACKER_PORT);
        tracker
    }

    fn peer(&self, station: &Station, dir: &Path, torrent: &Path, more: &[&str]) -> Process {
        let dir = format!("--dir={}", text(dir));
        let common = [
            dir.as_str(),
            "--seed-ratio=0.0",
            "--enable-dht=false",
            "--file-allocation=none",
            "--summary-interval=0",
            "--console-log-level=warn",
            "--show-console-readout=false",
        ];
        let args = [&common[..], more, &[text(torrent)]].concat();
        spawn(station, "aria2", "aria2c", &words(&args))
    }
}

impl Running for Torrent<'_> {
    fn deliver(&mut self) -> Usage {
        let (work, own) = (self.work, self.work.own());
        let (torrent, file) = (own.join("payload.torrent"), work.file());
        let announce = format!("http://{}:{TRACKER_PORT}/announce", work.address());
        let args = [
            "-a",
            &announce,
            "-l",
            PIECE_BITS,
            "-o",
            text(&torrent),
            text(&file),
        ];
        let used = finish(vec![spawn(
            work.seed(),
            "mktorrent",
            "mktorrent",
            &words(&args),
        )]);
        self.running.push(self.track(&torrent));
        let have = ["--bt-seed-unverified=true"];
        let source = self.peer(work.seed(), work.repo.dir(), &torrent, &have);
        self.running.push(source);
        let hook = format!("--on-bt-download-complete={}", text(&own.join("hook")));
        for host in work.fleet.hosts() {
            let peer = self.peer(host.station(), &work.target(host), &torrent, &[&hook]);
            self.running.push(peer);
        }
        wait_until("every host's download is complete", LIMIT, || {
            let hosts = work.fleet.hosts().iter();
            let is_done = |target: &Path| target.with_extension("done").exists();
            let missing: Vec<&str> = hosts
                .filter(|host| !is_done(&work.target(host)))
                .map(|host| host.name())
                .collect();
            if missing.is_empty() {
                Ok(())
            } else {
                Err(missing)
            }
        });
        used
    }
}

impl Drop for Torrent<'_> {
    fn drop(&mut self) {
        // The dropped are killed.
        self.running.clear();
        let control = format!("{}{CONTROL}", super::FILE);
        let targets = self.work.fleet.hosts().iter();
        for target in targets.map(|host| self.work.target(host)) {
            // It is gone where the download never ended.
            let _ = std::fs::remove_file(target.with_extension("done"));
        }
        let _ = std::fs::remove_file(self.work.repo.dir().join(control));
    }
}

/// What the file beside a download, in which aria2 keeps how far it is, ends in.
pub(super) const CONTROL: &str = ".aria2";

const TRACKER_PORT: u16 = 6969;

/// Pieces of 256 KiB, its usual length for such a file.
const PIECE_BITS: &str = "18";
