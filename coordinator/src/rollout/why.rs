//! Why a host is where it is: the causal chain, from what is seen of it to what that comes from.

use std::{collections::BTreeSet, time::Duration};

use scap_proto::{
    id::NodeId,
    reason::{Because, Reason},
};

use super::{
    engine::{Engine, Phase},
    host::{HostProgress, HostState},
};

/// How many relays are looked at above a host: more than a control tree has levels.
const UPSTREAMS_MAX: usize = 8;

/// What is around a host, which the engine does not know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Who is to pass on its orders and reports; empty where we do.
    pub upstreams: Vec<NodeId>,
    /// What it shares with others, such as `rack b`, and all hosts of that.
    pub places: Vec<(String, BTreeSet<NodeId>)>,
}

/// A host, and why it is there: the first link is what is seen of it, and each further one is where those before come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// Its wave.
    pub wave: String,
    /// Where it is, as JSON has it.
    pub state: &'static str,
    /// Whether it said last that it has the release live.
    pub is_live: bool,
    /// The chain.
    pub links: Vec<Link>,
}

/// One link of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// What it is about: `state`, `host`, `same`, `away`, `upstream`, `place` or `rollout`.
    pub about: &'static str,
    /// In words. Not escaped.
    pub text: String,
    /// The code of what it says, where it has one.
    pub code: Option<Reason>,
    /// Since when, by the engine's time.
    pub since: Option<Duration>,
    /// When something is done about it whatever happens, by the engine's time.
    pub until: Option<Duration>,
    /// The other hosts that it is about.
    pub hosts: BTreeSet<NodeId>,
}

impl Link {
    fn new(about: &'static str, text: String) -> Self {
        Self {
            about,
            text,
            code: None,
            since: None,
            until: None,
            hosts: BTreeSet::new(),
        }
    }
}

impl Engine {
    /// Why a host is where it is; none where it is not in this rollout.
    pub fn why(&self, host: &NodeId, around: impl Fn(&NodeId) -> Surroundings) -> Option<Why> {
        let progress = self.hosts.get(host)?;
        let mut links = vec![self.seen(progress)];
        if let Some(reason) = reason(progress) {
            links.extend(self.same(host, reason));
        }
        if let Some((since, reason)) = &progress.away {
            links.push(Link {
                since: Some(*since),
                until: self.given_up_at(progress),
                code: Some(Reason::Unreachable),
                ..Link::new("away", format!("it is not reached: {reason}"))
            });
            links.extend(self.above(host, &around));
            links.extend(self.beside(host, around(host).places));
        } else if let Some(step) = &progress.step {
            let text = format!("it says that it is at {step}");
            links.push(Link {
                since: Some(progress.moved_at),
                until: progress
                    .step_limit(&self.config)
                    .map(|limit| progress.moved_at + limit),
                code: Some(step.code),
                ..Link::new("host", text)
            });
        } else if !progress.waiting.is_empty() {
            let text = format!("it says that it waits for {}", progress.waiting);
            links.push(Link {
                code: progress.waiting_code,
                ..Link::new("host", text)
            });
        }
        links.extend(self.held_by(progress));
        Some(Why {
            wave: self.config.policy.waves[progress.place.0].name.clone(),
            state: progress.state.code(),
            is_live: progress.is_live,
            links,
        })
    }

    /// What is seen of it.
    fn seen(&self, progress: &HostProgress) -> Link {
        let (held, known) = progress.chunks;
        let text = match &progress.state {
            HostState::Waiting => "it was told nothing yet".to_owned(),
            HostState::Fetching if known == 0 => "it fetches the list of chunks".into(),
            HostState::Fetching if held == known => "it makes the release's directory".into(),
            HostState::Fetching => format!("it fetches: {held} of {known} chunks are there"),
            HostState::Fetched => "it has everything, and was not told to promote yet".into(),
            HostState::Promoting => "it was told to promote, and does not have it live yet".into(),
            HostState::Promoted if progress.is_finalized => {
                "it has the release live, as its stable one".into()
            }
            HostState::Promoted => "it has the release live, which is not stable yet".into(),
            HostState::Reverting => "it was told to go back, and is not back yet".into(),
            HostState::Reverted => "it went back to what it ran before".into(),
            HostState::Failed(reason) => format!("it failed: {reason}"),
            HostState::Unreachable(reason) => format!("it was given up as unreachable: {reason}"),
            HostState::Skipped(reason) => format!("a person goes on without it: {reason}"),
        };
        let is_busy = progress.is_busy();
        Link {
            since: is_busy.then_some(progress.moved_at),
            until: self.given_up_at(progress).filter(|_| is_busy),
            code: reason(progress).map(|because| because.code),
            ..Link::new("state", text)
        }
    }

    fn given_up_at(&self, progress: &HostProgress) -> Option<Duration> {
        let is_watched = self.is_watched(progress);
        is_watched.then(|| progress.deadline(&self.config))
    }

    /// Others for which the reason is the very same.
    fn same(&self, host: &NodeId, because: &Because) -> Option<Link> {
        let is_same = |it: &HostProgress| reason(it) == Some(because);
        let others = self.hosts.iter().filter(|(_, it)| is_same(it));
        let hosts: BTreeSet<NodeId> = others.map(|(name, _)| name.clone()).collect();
        let count = hosts.len();
        let hosts: BTreeSet<NodeId> = hosts.into_iter().filter(|it| it != host).collect();
        (!hosts.is_empty()).then(|| Link {
            hosts,
            ..Link::new("same", format!("{count} hosts say the very same"))
        })
    }

    /// Who should pass its orders on and is not reached either, up to one who is.
    fn above(&self, host: &NodeId, around: &impl Fn(&NodeId) -> Surroundings) -> Vec<Link> {
        let mut links = Vec::new();
        let mut at = host.clone();
        for _ in 0..UPSTREAMS_MAX {
            let upstreams = around(&at).upstreams;
            let known = upstreams
                .iter()
                .filter_map(|it| Some((it, self.hosts.get(it)?)));
            let known: Vec<(&NodeId, &HostProgress)> = known.collect();
            let lost = known
                .iter()
                .filter_map(|(name, it)| Some((*name, it.away.as_ref()?)));
            let lost: Vec<(&NodeId, &(Duration, String))> = lost.collect();
            let Some((first, (since, reason))) = lost.first().copied() else {
                if let Some((name, _)) = known.first() {
                    let text = format!("its upstream {name} is reached, and does not reach {at}");
                    links.push(Link {
                        hosts: BTreeSet::from([(*name).clone()]),
                        ..Link::new("upstream", text)
                    });
                }
                break;
            };
            if lost.len() < known.len() {
                let hosts: BTreeSet<NodeId> =
                    lost.iter().map(|(name, _)| (*name).clone()).collect();
                let text = format!(
                    "{} of its {} upstreams are not reached",
                    lost.len(),
                    known.len()
                );
                links.push(Link {
                    hosts,
                    ..Link::new("upstream", text)
                });
                break;
            }
            links.push(Link {
                since: Some(*since),
                hosts: BTreeSet::from([first.clone()]),
                ..Link::new(
                    "upstream",
                    format!("its upstream {first} is not reached: {reason}"),
                )
            });
            at = first.clone();
        }
        links
    }

    /// Where more than this host is lost of what it shares with others.
    fn beside(&self, host: &NodeId, places: Vec<(String, BTreeSet<NodeId>)>) -> Vec<Link> {
        let lost_of = |(name, all): (String, BTreeSet<NodeId>)| {
            let lost = all
                .iter()
                .filter(|it| self.hosts.get(*it).is_some_and(|it| it.away.is_some()));
            let lost: BTreeSet<NodeId> = lost.cloned().collect();
            let first = lost
                .iter()
                .filter_map(|it| Some(self.hosts[it].away.as_ref()?.0))
                .min();
            let text = format!(
                "{} of {} hosts of {name} are not reached",
                lost.len(),
                all.len()
            );
            let is_more = lost.iter().any(|it| it != host);
            is_more.then(|| Link {
                since: first,
                hosts: lost.into_iter().filter(|it| it != host).collect(),
                ..Link::new("place", text)
            })
        };
        places.into_iter().filter_map(lost_of).collect()
    }

    /// What the rollout waits for, where that is what a host stays for where it is.
    fn held_by(&self, progress: &HostProgress) -> Option<Link> {
        use HostState::{Fetched, Promoted, Waiting};
        let is_held = match progress.state {
            Waiting | Fetched => true,
            Promoted => !progress.is_finalized,
            _ => false,
        };
        let wait = self.wait().filter(|_| is_held)?;
        let turn = match (&self.phase, &wait.wave) {
            (Phase::Waves(turn), _) if turn.wave < progress.place.0 => {
                let name = &self.config.policy.waves[turn.wave].name;
                format!(
                    "it is the turn of wave {name}; the rollout waits for {}",
                    wait.on
                )
            }
            (_, Some(wave)) => format!("the rollout waits for {} of wave {wave}", wait.on),
            (_, None) => format!("the rollout waits for {}", wait.on),
        };
        Some(Link {
            since: Some(wait.since),
            until: wait.until,
            code: Some(wait.on.into()),
            hosts: wait.hosts,
            ..Link::new("rollout", turn)
        })
    }
}

/// Why it is lost, where it is.
fn reason(progress: &HostProgress) -> Option<&Because> {
    progress.state.because()
}
