//! A source tree to every host, then the same with one line changed; and the same by git, which each host fetches
//! from the deployment host.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use scap_tests::fleet::{Coordinator, Fleet, Host, Process, wait_until};
use scap_tests::repo::{SourceRepo, write_source_tree};
use scap_tests::under_test;
use serde::Serialize;

use crate::options::Options;

/// How long one of its steps may take: many times what it should.
const LIMIT: Duration = Duration::from_secs(300);

const NAME: &str = "tree";

#[derive(Debug, Serialize)]
pub(crate) struct SmallChange {
    pub(crate) files: usize,
    pub(crate) bytes: u64,
    pub(crate) ours: Delivered,
    pub(crate) git: Delivered,
}

/// Until the last host has it checked out; ours also verified and live.
#[derive(Debug, Serialize)]
pub(crate) struct Delivered {
    pub(crate) first_seconds: f64,
    pub(crate) first_seed_link_bytes: u64,
    pub(crate) change_seconds: f64,
    pub(crate) change_seed_link_bytes: u64,
}

/// `None` where it cannot be measured, or is not wanted.
pub(crate) fn measure(options: &Options) -> Option<SmallChange> {
    if options.tree_files == 0 {
        return None;
    }
    let builder = Fleet::builder(under_test!()).hosts(options.hosts);
    let fleet = options
        .place(builder.rate_mbit(options.rate_mbit))
        .build()?;
    let repo = SourceRepo::create(&fleet.dir().join("source").join(NAME));
    write_source_tree(repo.dir(), options.tree_files, 1);
    let commit = repo.commit("all of it");
    let tree = repo.archived(&commit);
    fleet.enrol();
    fleet.start_agents();

    let git = Git::serve(&fleet, &repo);
    let coordinator = fleet.coordinator();
    let deploy = || {
        coordinator
            .deploy(repo.dir(), &["--topology", &options.topology])
            .expect_done();
    };
    let (first, cloned) = (
        timed(coordinator, deploy),
        timed(coordinator, || git.clone_all()),
    );
    for host in fleet.hosts() {
        tree.assert_is(&host.live(NAME));
        wait_for_spare(host);
    }
    repo.write("names/two words", "another line\n");
    let changed = repo.archived(&repo.commit("one line"));
    let (change, fetched) = (
        timed(coordinator, deploy),
        timed(coordinator, || git.fetch_all()),
    );
    for host in fleet.hosts() {
        changed.assert_is(&host.live(NAME));
    }
    git.stop();
    let delivered = |first: (f64, u64), change: (f64, u64)| Delivered {
        first_seconds: first.0,
        first_seed_link_bytes: first.1,
        change_seconds: change.0,
        change_seed_link_bytes: change.1,
    };
    Some(SmallChange {
        files: tree.file_count(),
        bytes: tree.file_bytes(),
        ours: delivered(first, change),
        git: delivered(cloned, fetched),
    })
}

/// How long it took, and what left the deployment host meanwhile.
fn timed(coordinator: &Coordinator, work: impl FnOnce()) -> (f64, u64) {
    let counters = coordinator.station().counters();
    let began = Instant::now();
    work();
    let seconds = began.elapsed().as_secs_f64();
    let sent = coordinator.station().counters().since(counters).sent_bytes;
    (seconds, sent)
}

/// In production there are minutes between two releases; what an agent prepares meanwhile is there by then.
fn wait_for_spare(host: &Host) {
    let own = host.deploy_root().join(format!("{NAME}-cache/.scap"));
    wait_until("a spare", LIMIT, || {
        let missing = ["spare", "spare-of"].map(|name| (name, own.join(name).exists()));
        missing
            .iter()
            .all(|(_, exists)| *exists)
            .then_some(())
            .ok_or(missing)
    });
}

/// A git server on the deployment host, and a clone on each host.
struct Git<'a> {
    fleet: &'a Fleet,
    server: Process,
    url: String,
}

impl<'a> Git<'a> {
    fn serve(fleet: &'a Fleet, repo: &SourceRepo) -> Self {
        let base = repo.dir().parent().expect("it is in a directory");
        let station = fleet.coordinator().station();
        let mut args = words(&["daemon", "--reuseaddr", "--export-all"]);
        for (option, value) in [
            ("--base-path=", base.as_os_str()),
            ("--listen=", OsStr::new(&station.address().to_string())),
        ] {
            let mut word = OsString::from(option);
            word.push(value);
            args.push(word);
        }
        let server = station.spawn("git-daemon", &[PathBuf::from("git")], args, &[]);
        let git = Self {
            fleet,
            server,
            url: format!("git://{}/{NAME}/.git", station.address()),
        };
        let first = &fleet.hosts()[0];
        wait_until("an answer of git", LIMIT, || {
            let asked = git
                .start(first, "ls-remote", &words(&["ls-remote", &git.url]))
                .wait(LIMIT);
            if asked.code() == Some(0) {
                Ok(())
            } else {
                Err(asked)
            }
        });
        git
    }

    fn clone_all(&self) {
        self.on_all("clone", |clone| {
            let mut args = words(&["clone", "--quiet", &self.url]);
            args.push(clone.into());
            args
        });
    }

    fn fetch_all(&self) {
        self.on_all("pull", |clone| {
            let mut args = words(&["-C"]);
            args.push(clone.into());
            args.extend(words(&["pull", "--quiet", "--ff-only"]));
            args
        });
    }

    fn on_all(&self, log: &str, args: impl Fn(PathBuf) -> Vec<OsString>) {
        let start = |host: &Host| {
            let clone = host.deploy_root().join("by-git");
            self.start(host, &format!("{}-{log}", host.name()), &args(clone))
        };
        let started: Vec<Process> = self.fleet.hosts().iter().map(start).collect();
        for process in started {
            let ended = process.wait(LIMIT);
            assert_eq!(ended.code(), Some(0), "git {log}: {ended:#?}");
        }
    }

    fn start(&self, host: &Host, log: &str, args: &[OsString]) -> Process {
        host.station()
            .spawn(log, &[PathBuf::from("git")], args, &[])
    }

    fn stop(self) {
        self.server.terminate(LIMIT);
    }
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}
