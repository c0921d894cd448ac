//! What a person may safely do about a rollout, and what each of that touches.

use std::collections::BTreeSet;

use super::{
    engine::{Engine, Phase},
    host::{HostProgress, HostState},
    wait::WaitingOn,
    waves::Soak,
};

/// Something that may be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The command: `abort`, `retry --failed`.
    pub command: &'static str,
    /// How many hosts it has do something else than they would do without it.
    pub hosts: usize,
    /// Of how many waves these are.
    pub waves: usize,
    /// What it does, with these numbers in words.
    pub effect: String,
}

impl Engine {
    /// Every move that would be followed now, the gentlest first.
    pub fn moves(&self) -> Vec<Move> {
        let Phase::Waves(turn) = &self.phase else {
            return Vec::new();
        };
        let on = self.waiting_on().map(|wait| wait.on);
        let wave = &self.config.policy.waves[turn.wave];
        let is_lost = |it: &HostProgress| {
            matches!(it.state, HostState::Failed(_) | HostState::Unreachable(_))
        };
        let has_begun = |it: &HostProgress| it.place.0 <= turn.wave;
        let waits_behind = |it: &HostProgress| it.place.0 > turn.wave;
        let mut moves = Vec::new();
        match on {
            Some(WaitingOn::Paused) => {
                moves.push(self.one(
                    "resume",
                    |it| it.state != HostState::Promoted,
                    |hosts, _| format!("it goes on; {} to go", counted(hosts, "host")),
                ));
            }
            Some(WaitingOn::Budget) => {
                let excused = |it: &HostProgress| has_begun(it) && it.is_lost();
                moves.push(self.one("resume", excused, |hosts, _| {
                    format!(
                        "it goes on without {} that {} lost",
                        counted(hosts, "host"),
                        verb(hosts, "is", "are")
                    )
                }));
            }
            Some(WaitingOn::Approval) => {
                let is_next =
                    |it: &HostProgress| it.place.0 == turn.wave && it.state == HostState::Fetched;
                moves.push(self.one("promote", is_next, |hosts, _| {
                    format!(
                        "{} of wave {} {} to it",
                        counted(hosts, "host"),
                        wave.name,
                        verb(hosts, "switches", "switch")
                    )
                }));
            }
            Some(WaitingOn::Soak) if matches!(turn.soak, Soak::Until(_)) => {
                moves.push(
                    self.one("promote", waits_behind, |hosts, waves| match waves {
                        0 => "the soak ends now, and the release becomes the stable one".to_owned(),
                        _ => format!(
                            "the soak ends now, and {} in {} {} next",
                            counted(hosts, "host"),
                            counted(waves, "wave"),
                            verb(hosts, "comes", "come")
                        ),
                    }),
                );
            }
            _ => {}
        }
        if self.paused.is_none() && !self.is_out_of_grant {
            let is_later = |it: &HostProgress| it.state == HostState::Waiting;
            moves.push(self.one("pause", HostProgress::is_busy, |hosts, _| {
                let later = self.hosts.values().filter(|it| is_later(it)).count();
                format!(
                    "{} {} what was told, and {} {} told nothing yet",
                    counted(hosts, "host"),
                    verb(hosts, "finishes", "finish"),
                    counted(later, "host"),
                    verb(later, "is", "are")
                )
            }));
        }
        if self.hosts.values().any(is_lost) {
            moves.push(self.one("retry --failed", is_lost, |hosts, _| {
                format!(
                    "{} {} tried again",
                    counted(hosts, "host"),
                    verb(hosts, "is", "are")
                )
            }));
        }
        let may_be_skipped = |it: &HostProgress| {
            let is_gone = matches!(it.state, HostState::Skipped(_));
            !is_gone && (!it.is_touched || is_lost(it)) && it.state != HostState::Promoted
        };
        if self.hosts.values().any(may_be_skipped) {
            moves.push(Move {
                hosts: 1,
                waves: 1,
                ..self.one("skip HOST", may_be_skipped, |hosts, _| {
                    format!(
                        "it goes on without that one; {} may be left out so",
                        counted(hosts, "host")
                    )
                })
            });
        }
        if !self.config.is_finalized {
            moves.push(self.one(
                "abort",
                |it| it.is_touched,
                |hosts, waves| match waves {
                    0 => "no host goes back: none was switched; it ends".to_owned(),
                    _ => format!(
                        "{} in {} {} back",
                        counted(hosts, "host"),
                        counted(waves, "wave"),
                        verb(hosts, "goes", "go")
                    ),
                },
            ));
        }
        moves
    }

    fn one(
        &self,
        command: &'static str,
        is_one: impl Fn(&HostProgress) -> bool,
        effect: impl Fn(usize, usize) -> String,
    ) -> Move {
        let found = || self.hosts.values().filter(|it| is_one(it));
        let waves: BTreeSet<usize> = found().map(|it| it.place.0).collect();
        let hosts = found().count();
        Move {
            command,
            hosts,
            waves: waves.len(),
            effect: effect(hosts, waves.len()),
        }
    }
}

/// `1 host`, `2 hosts`.
fn counted(count: usize, what: &str) -> String {
    let many = if count == 1 { "" } else { "s" };
    format!("{count} {what}{many}")
}

fn verb<'a>(count: usize, one: &'a str, many: &'a str) -> &'a str {
    if count == 1 { one } else { many }
}
