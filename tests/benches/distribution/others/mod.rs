//! What else brings bytes to hosts, measured on the same links in the same run.
//!
//! Each is started as its manual says, on the fleet's own stations. Servers that a deployment host would have running are started
//! before the clock is; what must be made for each delivery (a torrent, a tarball) is made while it runs. Whether all hosts
//! have the right bytes is looked at afterwards; of these, only aria2 and git look themselves.

mod aria2;
mod git;
mod http;
mod pipes;
mod rsync;

use std::ffi::OsString;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use scap_tests::fleet::{Fleet, Host, MachineTime, Process, Station, Usage, wait_until};
use scap_tests::repo::SourceRepo;
use scap_tests::tree::Tree;
use serde::Serialize;

use crate::GIB;
use crate::ours::agents_usage;
use crate::row::number;

/// One of them.
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    /// In words.
    pub(crate) what: &'static str,
    /// Its programs, each with the Debian package that it comes in.
    needs: &'static [(&'static str, &'static str)],
    /// It sends about a copy to each host from the deployment host, so its time is known but for a few per cent: it
    /// gets a part of the payload.
    pub(crate) is_one_by_one: bool,
    start: for<'a> fn(&'a Work<'a>) -> Box<dyn Running + 'a>,
}

/// All of them, the fastest first.
pub(crate) static TOOLS: [Tool; 8] = [
    Tool {
        name: "chain",
        what: "a pipe from each host to the next; one break ends it",
        needs: &[("socat", "socat")],
        is_one_by_one: false,
        start: pipes::start_file,
    },
    Tool {
        name: "aria2",
        what: "BitTorrent, with a tracker at the seed",
        needs: &[
            ("aria2c", "aria2"),
            ("opentracker", "opentracker"),
            ("mktorrent", "mktorrent"),
        ],
        is_one_by_one: false,
        start: aria2::start,
    },
    Tool {
        name: "rsync-proxies",
        what: "rsync, through the root of N hosts that have it first",
        needs: &[("rsync", "rsync")],
        is_one_by_one: true,
        start: rsync::start_through_proxies,
    },
    Tool {
        name: "rsync",
        what: "rsync from a daemon",
        needs: &[("rsync", "rsync")],
        is_one_by_one: true,
        start: rsync::start,
    },
    Tool {
        name: "http",
        what: "nginx and curl",
        needs: &[("nginx", "nginx-light"), ("curl", "curl")],
        is_one_by_one: true,
        start: http::start_file,
    },
    Tool {
        name: "git-http",
        what: "git clone over HTTP, then git pull",
        needs: &[
            ("nginx", "nginx-light"),
            ("fcgiwrap", "fcgiwrap"),
            ("git", "git"),
        ],
        is_one_by_one: true,
        start: git::start_http,
    },
    Tool {
        name: "tar-chain",
        what: "tar through a pipe from each host to the next",
        needs: &[("socat", "socat"), ("tar", "tar"), ("git", "git")],
        is_one_by_one: false,
        start: pipes::start_tree,
    },
    Tool {
        name: "tarball",
        what: "one zstd tarball by nginx and curl",
        needs: &[
            ("nginx", "nginx-light"),
            ("curl", "curl"),
            ("zstd", "zstd"),
            ("tar", "tar"),
            ("git", "git"),
        ],
        is_one_by_one: true,
        start: http::start_tree,
    },
];

impl Tool {
    /// # Panics
    /// Where there is none of that name: they are this program's own.
    pub(crate) fn named(name: &str) -> &'static Self {
        let mut tools = TOOLS.iter();
        tools
            .find(|tool| tool.name == name)
            .unwrap_or_else(|| panic!("no {name}"))
    }

    /// The packages of those of its programs that are not here.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        let needs = self.needs.iter();
        let missing = needs.filter(|(program, _)| find(program).is_none());
        missing.map(|(_, package)| *package).collect()
    }

    /// Gets it ready to deliver; those of its packages that are missing where it cannot.
    pub(crate) fn start<'a>(&'static self, work: &'a Work<'a>) -> Result<Session<'a>, Theirs> {
        let missing = self.missing();
        if !missing.is_empty() {
            return Err(Theirs {
                tool: self.name,
                not_here: missing,
                measured: None,
            });
        }
        work.make_dirs();
        Ok(Session {
            tool: self,
            work,
            running: (self.start)(work),
        })
    }
}

/// What is to go where.
pub(crate) struct Work<'a> {
    pub(crate) fleet: &'a Fleet,
    /// Its work tree is delivered; by those that know files only, the file called [`FILE`] in it.
    pub(crate) repo: &'a SourceRepo,
    /// What it comes to.
    pub(crate) bytes: u64,
    /// See [`Shape::bound_seconds`](crate::shape::Shape::bound_seconds).
    pub(crate) bound_seconds: Option<f64>,
}

impl Work<'_> {
    fn seed(&self) -> &Station {
        self.fleet.coordinator().station()
    }

    fn address(&self) -> Ipv4Addr {
        self.seed().address()
    }

    /// Where a tool keeps its own files on the deployment host.
    fn own(&self) -> PathBuf {
        self.seed().dir().join("other")
    }

    /// Where a host gets what is delivered.
    fn target(&self, host: &Host) -> PathBuf {
        host.station().dir().join("other")
    }

    fn file(&self) -> PathBuf {
        self.repo.dir().join(FILE)
    }

    fn dirs(&self) -> impl Iterator<Item = PathBuf> {
        let targets = self.fleet.hosts().iter().map(|host| self.target(host));
        targets.chain([self.own()])
    }

    fn make_dirs(&self) {
        for dir in self.dirs() {
            std::fs::create_dir(dir).expect("the last one's are gone");
        }
    }
}

/// One of them, at work.
pub(crate) trait Running {
    /// Brings what the repo holds now to all hosts. Returns what its processes used that have ended; the others still run.
    fn deliver(&mut self) -> Usage;
}

/// A tool that is ready.
pub(crate) struct Session<'a> {
    tool: &'static Tool,
    work: &'a Work<'a>,
    running: Box<dyn Running + 'a>,
}

impl Session<'_> {
    /// Brings what the repo holds now to all hosts, with the clock running.
    ///
    /// # Panics
    /// Where it fails, or does not within [`LIMIT`].
    pub(crate) fn deliver(&mut self) -> Theirs {
        let (work, seed) = (self.work, self.work.seed());
        let before = seed.usage().and(agents_usage(work.fleet));
        let (counters, machine) = (seed.counters(), MachineTime::now());
        let began = Instant::now();
        let ended = self.running.deliver();
        let seconds = began.elapsed().as_secs_f64();
        let machine_idle_share = MachineTime::now().idle_share_since(machine);
        let seed_link_bytes = seed.counters().since(counters).sent_bytes;
        let still = seed.usage().and(agents_usage(work.fleet));
        let cpu = still.cpu.saturating_sub(before.cpu) + ended.cpu;
        let delivered = work.bytes as f64 * work.fleet.hosts().len() as f64 / GIB;
        Theirs {
            tool: self.tool.name,
            not_here: Vec::new(),
            measured: Some(Measured {
                bytes: work.bytes,
                seconds,
                bound_ratio: work.bound_seconds.map(|bound| seconds / bound),
                seed_link_bytes,
                seed_link_copies: seed_link_bytes as f64 / work.bytes as f64,
                cpu_seconds_per_gib_delivered: cpu.as_secs_f64() / delivered,
                peak_rss_bytes: still.and(ended).peak_rss_bytes,
                machine_idle_share,
            }),
        }
    }

    /// Asserts that each host has a tree, what the tool keeps beside it aside.
    pub(crate) fn assert_all_have(&self, expected: &Tree) {
        for host in self.work.fleet.hosts() {
            let mut found = expected.differences(&Tree::read(&self.work.target(host)));
            let is_own = |line: &String| {
                let extra = line.strip_prefix("too much: \"");
                extra.is_some_and(|path| path.starts_with(".git") || path.contains(aria2::CONTROL))
            };
            found.retain(|line| !is_own(line));
            let name = self.tool.name;
            assert_eq!(found, Vec::<String>::new(), "{name}, {}", host.name());
        }
    }

    /// Ends it and removes what it made.
    pub(crate) fn end(self) {
        drop(self.running);
        for dir in self.work.dirs() {
            std::fs::remove_dir_all(dir).expect("nobody writes there any more");
        }
    }
}

/// What one of them took.
#[derive(Debug, Serialize)]
pub(crate) struct Theirs {
    tool: &'static str,
    /// The packages that would have to be installed.
    not_here: Vec<&'static str>,
    pub(crate) measured: Option<Measured>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    /// What went to each host.
    pub(crate) bytes: u64,
    /// From the start until the last host has it.
    pub(crate) seconds: f64,
    pub(crate) bound_ratio: Option<f64>,
    pub(crate) seed_link_bytes: u64,
    pub(crate) seed_link_copies: f64,
    pub(crate) cpu_seconds_per_gib_delivered: f64,
    /// The most that any one process held; of those that end early, as of the last look.
    pub(crate) peak_rss_bytes: u64,
    pub(crate) machine_idle_share: f64,
}

impl Theirs {
    pub(crate) fn tool(&self) -> &'static str {
        self.tool
    }

    pub(crate) fn seconds(&self) -> Option<f64> {
        self.measured.as_ref().map(|it| it.seconds)
    }
}

impl fmt::Display for Theirs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(it) = &self.measured else {
            let packages = self.not_here.join(" ");
            return write!(f, "{:<14} not here: install {packages}", self.tool);
        };
        let mib = |bytes: u64| number(bytes as f64 / (1024.0 * 1024.0));
        write!(f, "{:<14} {:>8} s", self.tool, number(it.seconds))?;
        if let Some(ratio) = it.bound_ratio {
            write!(f, " {:>6} x bound", number(ratio))?;
        }
        write!(
            f,
            ", {} MiB each, {} MiB left the seed ({} copies), {} CPU s/GiB, {} MiB held, idle {}",
            mib(it.bytes),
            mib(it.seed_link_bytes),
            number(it.seed_link_copies),
            number(it.cpu_seconds_per_gib_delivered),
            mib(it.peak_rss_bytes),
            number(it.machine_idle_share)
        )
    }
}

/// Where a program is; servers may be where only root looks.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let also = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let dirs = std::env::split_paths(&path).chain(also);
    dirs.map(|dir| dir.join(program)).find(|it| it.is_file())
}

/// Starts a program that is here.
fn spawn(station: &Station, log: &str, program: &str, args: &[OsString]) -> Process {
    let program = find(program).expect("it was looked for before");
    station.spawn(log, &[program], args, &[])
}

/// Starts a line of shell. Its words are our own paths, which have no blanks or quotes.
fn shell(station: &Station, log: &str, line: &str) -> Process {
    spawn(station, log, "sh", &words(&["-c", line]))
}

/// Waits until all have ended well; returns what they used.
fn finish(all: Vec<Process>) -> Usage {
    let ended = all.into_iter().map(|process| {
        let output = process.wait(LIMIT);
        assert_eq!(output.code(), Some(0), "{output:#?}");
        output.usage
    });
    ended.fold(Usage::default(), Usage::and)
}

/// Waits until something listens.
fn wait_for_port(station: &Station, port: u16) {
    let address = SocketAddr::from((station.address(), port));
    wait_until("a server listens", LIMIT, || {
        let dialled = station.inside(|| TcpStream::connect(address));
        dialled.map(drop).map_err(|error| error.to_string())
    });
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the fleet's paths are plain")
}

/// What a payload's file is called.
pub(crate) const FILE: &str = "payload.bin";

/// How long any of them may take: many times what it should.
const LIMIT: Duration = Duration::from_secs(900);
