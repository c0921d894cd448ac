//! Forty hosts of which some are lost, each in a way of its own, at the exact edge of what each wave may lose: nobody is passed over.
//!
//! scap3 takes no more hosts into a stage once one has failed, and has those that it left out take the next stage all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;

use scap_tests::repo::SourceRepo;
use scap_tests::tree::Tree;

use super::fleet::{Agent, Fleet, deployed, enroll};
use super::process::Ended;
use super::resume::{flips, taken};
use super::rollout::{mend, spoil};
use super::scene::Scene;

const HOSTS: usize = 40;

/// Each wave's name, how many hosts it has, how many promote at a time, and how many may be lost.
const WAVES: [(&str, usize, usize, usize); 4] = [
    ("canary", 2, 2, 0),
    ("one", 10, 4, 3),
    ("two", 14, 5, 4),
    ("three", 14, 3, 2),
];

/// How a host is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// A check that comes before it fetches.
    Fetch,
    /// A check that comes before it switches.
    Promote,
    /// A check that comes after it switched.
    Promoted,
    /// Nothing may be put where it is to go live.
    Refused,
    /// Nobody is there.
    Down,
}

impl Loss {
    fn outcome(self) -> &'static str {
        match self {
            Self::Down => "unreachable",
            _ => "failed",
        }
    }

    /// What is said of it.
    fn reason(self) -> &'static str {
        match self {
            Self::Fetch => "before fetch: check `before-fetch`: ended with exit code 1",
            Self::Promote => "before promote: check `before-promote`: ended with exit code 1",
            Self::Promoted => "after promote: check `after-promote`: ended with exit code 1",
            Self::Refused => "can be changed by others (owner ",
            Self::Down => "it said nothing for ",
        }
    }

    fn check(self) -> Option<&'static str> {
        match self {
            Self::Fetch => Some("before-fetch"),
            Self::Promote => Some("before-promote"),
            Self::Promoted => Some("after-promote"),
            Self::Refused | Self::Down => None,
        }
    }
}

/// As many of each wave as may be lost: the first that fetches, one of a group, several of one group, the last of all.
const LOST: [(usize, Loss); 9] = [
    (2, Loss::Fetch),
    (5, Loss::Promote),
    (6, Loss::Down),
    (12, Loss::Refused),
    (13, Loss::Promoted),
    (14, Loss::Promote),
    (25, Loss::Fetch),
    (30, Loss::Down),
    (39, Loss::Promoted),
];

/// One more of the last wave, which loses that one to failures alone, in its second group: six hosts are told to switch then, of
/// which one may.
const ONE_TOO_MANY: [(usize, Loss); 3] =
    [(26, Loss::Promote), (29, Loss::Promoted), (39, Loss::Fetch)];

struct Forty {
    fleet: Fleet,
    repo: SourceRepo,
    addresses: Vec<String>,
}

fn name(at: usize) -> String {
    format!("web{:02}", at + 1)
}

/// The wave of a host, counted from 0, and its group in there.
fn place(at: usize) -> (usize, usize) {
    let mut first = 0;
    for (wave, (_, hosts, group, _)) in WAVES.into_iter().enumerate() {
        if at < first + hosts {
            return (wave, (at - first) / group);
        }
        first += hosts;
    }
    unreachable!("there are {HOSTS} hosts")
}

impl Forty {
    fn start() -> Self {
        let scene = Scene::new();
        let mut launched = Vec::new();
        for at in 0..HOSTS {
            let name = name(at);
            enroll(&scene, &name, &[]);
            let running = Agent::launch_in_its_folder(&scene, &name, "127.0.0.1:0", &[]);
            launched.push((name, running));
        }
        let ready = |(name, running): (String, _)| Agent::when_ready(&scene, &name, running);
        let agents: Vec<Agent> = launched.into_iter().map(ready).collect();
        let addresses = agents.iter().map(|agent| agent.address.clone()).collect();
        let (repo, _) = scene.repo();
        let mut checks = "checks:\n".to_owned();
        for check in ["before-fetch", "before-promote", "after-promote"] {
            let (moment, stage) = check.split_once('-').unwrap();
            // What is stable passes, so that it can be gone back to.
            let command = format!(
                "test \"$SCAP_REV_PATH\" = \"$SCAP_DONE_REV_DIR\" || test ! -e \"${{SCAP_FINAL_PATH%/srv/*}}/{check}\""
            );
            let _ = writeln!(
                checks,
                "  {check}: {{type: command, shell: true, command: '{command}', {moment}: {stage}}}"
            );
        }
        repo.write("scap/checks.yaml", checks);
        repo.write("scap/scap.cfg", "[global]\ngit_repo: repo\n");
        repo.commit("One");
        let fleet = Fleet { agents, scene };
        let forty = Self {
            fleet,
            repo,
            addresses,
        };
        forty.write_fleet_file();
        forty
    }

    fn write_fleet_file(&self) {
        let mut text = String::new();
        for (wave, _, group, lost) in WAVES {
            let _ = writeln!(
                text,
                "[[rollout.wave]]\nname = '{wave}'\ngroup = '{wave}'\ngroup_size = {group}\nbudget = {lost}"
            );
        }
        for (at, address) in self.addresses.iter().enumerate() {
            let (name, wave) = (name(at), WAVES[place(at).0].0);
            let _ = writeln!(
                text,
                "[[host]]\nname = '{name}'\naddress = '{address}'\ngroups = ['{wave}']"
            );
        }
        self.fleet.scene.write("fleet.toml", text);
    }

    fn lose(&mut self, (at, loss): (usize, Loss)) {
        match loss {
            Loss::Refused => spoil(&self.fleet, self.position(at)),
            Loss::Down => drop(self.fleet.agents.remove(self.position(at))),
            _ => {
                let check = loss.check().unwrap();
                self.fleet.scene.write(&format!("{}/{check}", name(at)), "");
            }
        }
    }

    /// Has it be well again.
    fn mend(&mut self, (at, loss): (usize, Loss)) {
        match loss {
            Loss::Refused => mend(&self.fleet, self.position(at)),
            Loss::Down => {
                let scene = &self.fleet.scene;
                let running =
                    Agent::launch_in_its_folder(scene, &name(at), &self.addresses[at], &[]);
                let agent = Agent::when_ready(scene, &name(at), running);
                self.fleet.agents.push(agent);
            }
            _ => {
                let check = loss.check().unwrap();
                fs::remove_file(self.fleet.scene.path(name(at)).join(check)).unwrap();
            }
        }
    }

    /// Where an agent that runs is among those.
    fn position(&self, at: usize) -> usize {
        let name = name(at);
        let agents = &self.fleet.agents;
        agents.iter().position(|it| it.name() == name).unwrap()
    }

    /// Commits one.
    fn version(&self, version: &str) -> String {
        self.repo.write("VERSION", version);
        self.repo.commit(version)
    }

    fn deploy(&self) -> Ended {
        self.fleet
            .deploy(&["--repo", "repo", "--connect-timeout", "2"])
    }

    /// The whole tree that each host has live.
    fn assert_live<'a>(&self, case: &str, commit_of: impl Fn(usize) -> &'a str) {
        let mut trees: BTreeMap<&str, Tree> = BTreeMap::new();
        for at in 0..HOSTS {
            let commit = commit_of(at);
            let tree = trees.entry(commit);
            let tree = tree.or_insert_with(|| self.repo.archived(commit));
            let live = Tree::read(&self.fleet.scene.path(name(at)).join("srv/repo"));
            let found = tree.differences(&live);
            assert!(found.is_empty(), "{case}: {}: {found:#?}", name(at));
        }
    }
}

/// That a report, and the record on the state branch, name each host once, with that outcome.
fn assert_told(
    forty: &Forty,
    ended: &Ended,
    expected: impl Fn(usize) -> (&'static str, &'static str),
) {
    let report = deployed(ended);
    let sequence = report["sequence"].to_string();
    let hosts = report["hosts"].as_array().unwrap();
    let named: BTreeSet<&str> = hosts
        .iter()
        .map(|it| it["name"].as_str().unwrap())
        .collect();
    assert_eq!((hosts.len(), named.len()), (HOSTS, HOSTS), "{report:#}");
    let show = ["show", &sequence, "--repo", "repo", "--json"];
    let record = forty.fleet.scene.scap(&show).exits(0);
    let record = record.json("scap.release/1");
    let mut recorded: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    for group in record["hosts"].as_array().unwrap() {
        let told = ["outcome", "reason"].map(|key| group[key].as_str().unwrap());
        for host in group["hosts"].as_array().unwrap() {
            let before = recorded.insert(host.as_str().unwrap(), (told[0], told[1]));
            assert_eq!(before, None, "{host} is recorded twice: {record:#}");
        }
    }
    assert_eq!(recorded.len(), HOSTS, "{record:#}");
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for at in 0..HOSTS {
        let name = name(at);
        let (outcome, reason) = expected(at);
        let host = hosts.iter().find(|it| it["name"] == name).unwrap();
        let error = host["error"].as_str().unwrap_or_default();
        assert_eq!(host["outcome"], outcome, "{name}: {host:#}");
        assert!(error.contains(reason), "{name}: {host:#}");
        assert_eq!(error.is_empty(), reason.is_empty(), "{name}: {host:#}");
        assert_eq!(recorded[&*name].0, outcome, "{name}");
        assert!(
            recorded[&*name].1.contains(reason),
            "{name}: {:?}",
            recorded[&*name]
        );
        *counts.entry(outcome).or_default() += 1;
    }
    let waves = report["waves"].as_array().unwrap().iter();
    let counted = waves.flat_map(|wave| wave["states"].as_object().unwrap());
    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    for (state, hosts) in counted {
        let hosts = usize::try_from(hosts.as_u64().unwrap()).unwrap();
        *states.entry(state).or_default() += hosts;
    }
    assert_eq!(states.values().sum::<usize>(), HOSTS, "{report:#}");
}

#[test]
fn of_forty_hosts_each_is_switched_or_named_where_each_wave_loses_just_what_it_may() {
    let mut forty = Forty::start();
    let one = forty.version("one");
    let ended = forty.deploy().exits(0);
    assert_told(&forty, &ended, |_| ("promoted", ""));
    forty.assert_live("all", |_| &one);
    let flips = flips(&forty.fleet, "repo");

    let two = forty.version("two");
    LOST.into_iter().for_each(|lost| forty.lose(lost));
    let ended = forty.deploy().exits(5);
    let loss_of = |at: usize| {
        LOST.into_iter()
            .find(|(lost, _)| *lost == at)
            .map(|it| it.1)
    };
    assert_told(&forty, &ended, |at| match loss_of(at) {
        Some(loss) => (loss.outcome(), loss.reason()),
        None => ("promoted", ""),
    });
    let is_switched = |at: usize| matches!(loss_of(at), None | Some(Loss::Promoted));
    forty.assert_live(
        "budgets are met",
        |at| if is_switched(at) { &two } else { &one },
    );
    let expected: Vec<usize> = (0..HOSTS).map(|at| usize::from(is_switched(at))).collect();
    assert_eq!(taken(&flips), expected);

    // The same command is for those.
    LOST.into_iter().for_each(|lost| forty.mend(lost));
    let ended = forty.deploy().exits(0);
    assert_told(&forty, &ended, |_| ("promoted", ""));
    forty.assert_live("all are mended", |_| &two);
    let expected: Vec<usize> = (0..HOSTS).map(|at| usize::from(!is_switched(at))).collect();
    assert_eq!(taken(&flips), expected);

    // One host more of the last wave, and those that were switched go back, and nobody else.
    forty.version("three");
    let earlier = LOST.into_iter().filter(|(at, _)| place(*at).0 < 3);
    let lost: Vec<(usize, Loss)> = earlier.chain(ONE_TOO_MANY).collect();
    lost.iter().for_each(|lost| forty.lose(*lost));
    let ended = forty.deploy().exits(4);
    let loss_of = |at: usize| lost.iter().find(|(lost, _)| *lost == at).map(|it| it.1);
    // Those that were told to switch, whatever came of it.
    let is_touched = |at: usize| {
        let is_told = matches!(loss_of(at), None | Some(Loss::Promote | Loss::Promoted));
        is_told && place(at) <= (3, 1)
    };
    assert_told(&forty, &ended, |at| match loss_of(at) {
        Some(loss) if is_touched(at) => ("rolled-back", loss.reason()),
        Some(loss) => (loss.outcome(), loss.reason()),
        None if is_touched(at) => ("rolled-back", ""),
        None => ("fetched", ""),
    });
    forty.assert_live("one too many", |_| &two);
    for (at, switches) in taken(&flips).into_iter().enumerate() {
        let has_switched = is_touched(at) && loss_of(at) != Some(Loss::Promote);
        // Others of the last group may have been told to go back before they switched.
        let is_in_time = switches == 0 && place(at) == (3, 1);
        let expected = if has_switched { 2 } else { 0 };
        assert!(
            switches == expected || is_in_time,
            "{}: {switches}",
            name(at)
        );
    }
}
