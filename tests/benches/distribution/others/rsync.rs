//! rsync: from a daemon at the seed to all hosts, or to the root of their number, from which the others fetch.

use std::path::Path;

use scap_tests::fleet::{Host, Process, Station, Usage};

use super::{Running, Work, finish, spawn, text, wait_for_port, words};

struct Rsync<'a> {
    work: &'a Work<'a>,
    /// How many hosts fetch from the seed, and then serve as many others each; all where nobody serves.
    proxies: usize,
    _servers: Vec<Process>,
}

pub(super) fn start<'a>(work: &'a Work<'a>) -> Box<dyn Running + 'a> {
    let proxies = work.fleet.hosts().len();
    let _servers = vec![serve(work.seed(), &work.own(), work.repo.dir())];
    Box::new(Rsync {
        work,
        proxies,
        _servers,
    })
}

pub(super) fn start_through_proxies<'a>(work: &'a Work<'a>) -> Box<dyn Running + 'a> {
    let hosts = work.fleet.hosts();
    let proxies = hosts.len().isqrt().max(1);
    let mut _servers = vec![serve(work.seed(), &work.own(), work.repo.dir())];
    for host in &hosts[..proxies] {
        let target = work.target(host);
        _servers.push(serve(host.station(), host.station().dir(), &target));
    }
    Box::new(Rsync {
        work,
        proxies,
        _servers,
    })
}

impl Running for Rsync<'_> {
    fn deliver(&mut self) -> Usage {
        let (first, rest) = self.work.fleet.hosts().split_at(self.proxies);
        let fetch = |host: &Host, from: &Station| {
            let source = format!("rsync://{}:{PORT}/all/", from.address());
            let target = self.work.target(host);
            let args = ["--archive", "--delete", &source, text(&target)];
            spawn(host.station(), "rsync", "rsync", &words(&args))
        };
        let begin = first.iter().map(|host| fetch(host, self.work.seed()));
        let used = finish(begin.collect());
        let rest = rest.iter().enumerate();
        let rest = rest.map(|(place, host)| fetch(host, first[place % self.proxies].station()));
        finish(rest.collect()).and(used)
    }
}

/// A daemon for a directory, git's own aside; what it needs is kept in `own`.
fn serve(station: &Station, own: &Path, dir: &Path) -> Process {
    let config = own.join("rsyncd.conf");
    let content = format!(
        "use chroot = no\nuid = root\ngid = root\n[all]\npath = {}\nread only = yes\nexclude = /.git\n",
        text(dir)
    );
    std::fs::write(&config, content).expect("the directory is the fleet's");
    let args = [
        "--daemon",
        "--no-detach",
        &format!("--config={}", text(&config)),
        &format!("--address={}", station.address()),
        &format!("--port={PORT}"),
    ];
    let server = spawn(station, "rsyncd", "rsync", &words(&args));
    wait_for_port(station, PORT);
    server
}

const PORT: u16 = 8730;
