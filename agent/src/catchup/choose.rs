//! What follows from what peers say: which stable releases this host takes, and whom it does not believe.
//!
//! Pure. Signatures were checked before; what is accepted is for [`Acceptance`] to say, as with orders.

use std::collections::{BTreeMap, BTreeSet};

use scap_proto::{
    id::{NodeId, ReleaseId},
    release::{Environment, RepoPath, Stage, UnixMillis},
    wire::control::Finalize,
};

use super::engine::Round;
use crate::{
    acceptance::{Acceptance, Addressee, Decision, Refusal},
    trust::{HostTrust, VerifiedFinalization},
};

/// Peers of which as many must answer, if only that they have nothing, before a host takes a release of a repo of which it
/// knows nothing: one alone could say that an old one is the latest. A host with a floor believes one, and so does one
/// that goes on from what it has.
pub const ANSWERS_MIN: usize = 2;

/// A repo and an environment.
pub type Key = (RepoPath, Environment);

/// What a peer claims to be stable.
#[derive(Debug)]
pub enum Claim {
    /// Enough allowed signers released it, and who was granted to direct it finalized it.
    Verified(Box<Offer>),
    /// It is not so, or it cannot be told.
    Refused {
        /// Which release, by the hash of its bytes.
        release: ReleaseId,
        /// Why it is not believed.
        reason: String,
    },
}

impl Claim {
    /// Checks every signature of what a peer sent.
    pub fn check(trust: &HostTrust, finalize: Finalize, now: UnixMillis) -> Self {
        match trust.verify_finalization(finalize.clone(), now) {
            Ok(verified) => Self::Verified(Box::new(Offer { finalize, verified })),
            Err(error) => Self::Refused {
                release: finalize.release.id(),
                reason: crate::error_chain(&error),
            },
        }
    }
}

/// A stable release that a peer has.
#[derive(Debug, Clone)]
pub struct Offer {
    /// As it came.
    pub finalize: Finalize,
    /// What it says.
    pub verified: VerifiedFinalization,
}

/// Where this host stands with a repo in an environment.
#[derive(Debug, Clone, Default)]
pub struct Holding {
    /// What it accepted.
    pub acceptance: Acceptance,
    /// Whether what it holds to be stable is so for some hosts alone.
    pub is_limited: bool,
    /// Whether a rollout of what it accepted is under way, which a coordinator leads.
    pub is_led: bool,
}

/// What to do about a repo in an environment.
#[derive(Debug)]
pub enum Finding {
    /// Persist this, fetch the release from those, and activate it.
    Take {
        /// The new state.
        acceptance: Acceptance,
        /// The release.
        finalize: Box<Finalize>,
        /// Who has it.
        from: BTreeSet<NodeId>,
    },
    /// It is what this host holds to already, and those have it.
    Current {
        /// Who has it.
        from: BTreeSet<NodeId>,
    },
    /// All that peers have is stable for other hosts alone.
    Others,
    /// Nobody has a later one than this host accepted.
    Older,
    /// A coordinator leads this host to it.
    Led,
    /// This host has gone back from it: an order or a later release is to say what comes next.
    GoneBack {
        /// Which.
        release: ReleaseId,
    },
    /// Too few peers answered to believe them.
    TooFew {
        /// How many did.
        answered: usize,
    },
    /// Two releases with one sequence are both called stable: neither is believed.
    Equivocation {
        /// The sequence.
        sequence: u64,
    },
}

/// Something that a peer said and nobody honest would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disbelieved {
    /// Who said it.
    pub peer: NodeId,
    /// Of which release.
    pub release: ReleaseId,
    /// Why it is not believed.
    pub reason: String,
}

/// A peer that calls a release stable which a later one has followed: it was away itself, or would have us go back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    /// Which peer.
    pub peer: NodeId,
    /// Of which repo and environment.
    pub of: Key,
    /// The sequence that it says.
    pub sequence: u64,
    /// The sequence that is stable, as far as this host knows now.
    pub stable: u64,
}

/// All that follows from a round.
#[derive(Debug, Default)]
pub struct Conclusion {
    /// Of each repo that was offered and is for this host.
    pub findings: BTreeMap<Key, Finding>,
    /// Who is not believed.
    pub disbelieved: Vec<Disbelieved>,
    /// Who is behind.
    pub behind: Vec<Behind>,
}

/// What this host knows itself.
#[derive(Debug)]
pub struct Known<'a> {
    /// Whom releases must be addressed to.
    pub us: &'a Addressee,
    /// Where it stands.
    pub holdings: &'a BTreeMap<Key, Holding>,
    /// The least sequences, of those repos of which the host's identity says one.
    pub floors: &'a BTreeMap<Key, u64>,
    /// How far to go: [`Stage::Fetch`] or [`Stage::Promote`].
    pub stage: Stage,
}

/// Looks what follows from a round.
pub fn choose(round: &Round, known: &Known<'_>) -> Conclusion {
    let mut conclusion = Conclusion::default();
    let mut offers: BTreeMap<Key, Vec<(&NodeId, &Offer)>> = BTreeMap::new();
    for (peer, answer) in &round.answers {
        for claim in answer.iter().flatten() {
            match claim {
                Claim::Refused { release, reason } => conclusion.disbelieved.push(Disbelieved {
                    peer: peer.clone(),
                    release: *release,
                    reason: reason.clone(),
                }),
                Claim::Verified(offer) => {
                    let about = offer.verified.release.release();
                    let key = (about.repo.clone(), about.environment.clone());
                    let is_ours = known.us.environments.contains(&key.1)
                        && known.us.audiences.contains(&about.audience);
                    // A peer may be in more than we are.
                    if is_ours && round.scope.includes(&key.0, &key.1) {
                        offers.entry(key).or_default().push((peer, offer));
                    }
                }
            }
        }
    }
    let is_meant = |(key, offers): &(&Key, &Vec<(&NodeId, &Offer)>)| {
        let mut offers = offers.iter();
        offers.any(|(_, offer)| known.is_meant(key, offer))
    };
    let meant: Vec<Key> = offers
        .iter()
        .filter(is_meant)
        .map(|(key, _)| key.clone())
        .collect();
    let others: Vec<Key> = offers.keys().cloned().collect();
    for (key, offers) in offers {
        if known.environment_of(&key.0, &meant, &others) == Some(&key.1) {
            let finding = find(&key, &offers, round.answered(), known, &mut conclusion);
            conclusion.note_behind(&key, &offers, &finding, known);
            conclusion.findings.insert(key, finding);
        }
    }
    conclusion
}

impl Conclusion {
    fn note_behind(
        &mut self,
        key: &Key,
        offers: &[(&NodeId, &Offer)],
        finding: &Finding,
        known: &Known<'_>,
    ) {
        // Who was not meant by what is stable for some alone is not behind.
        let held = known.holdings.get(key).filter(|it| !it.is_limited);
        let held = held.map_or(0, |it| it.acceptance.finalized_sequence());
        let stable = match finding {
            Finding::Take {
                acceptance,
                finalize,
                ..
            } if finalize.is_open() => acceptance.finalized_sequence(),
            _ => held,
        };
        let behind = offers.iter().map(|(peer, offer)| Behind {
            peer: (*peer).clone(),
            of: key.clone(),
            sequence: offer.verified.finalization.sequence,
            stable,
        });
        self.behind.extend(behind.filter(|it| it.sequence < stable));
    }
}

impl Known<'_> {
    /// Whether what is offered is meant for this host, and not stable for others alone.
    fn is_meant(&self, key: &Key, offer: &Offer) -> bool {
        let nothing = Acceptance::default();
        let held = self.holdings.get(key).map(|it| &it.acceptance);
        held.unwrap_or(&nothing).is_meant(self.us, &offer.verified)
    }

    /// In which environment a repo is deployed here: the one that it is in; else, of those it is offered for, the first that the
    /// host says it is in, and of those with something for this host where there is one. One repo has one place below the deploy root.
    fn environment_of(
        &self,
        repo: &RepoPath,
        meant: &[Key],
        others: &[Key],
    ) -> Option<&Environment> {
        let has_accepted = |it: &(&Key, &Holding)| it.1.acceptance.accepted.is_some();
        let mut held = self.holdings.iter().filter(|(key, _)| key.0 == *repo);
        if let Some((key, _)) = held.find(has_accepted) {
            return Some(&key.1);
        }
        let first = |offered: &[Key]| {
            let mut ours = self.us.environments.iter();
            ours.find(|ours| offered.iter().any(|(of, it)| of == repo && it == *ours))
        };
        first(meant).or_else(|| first(others))
    }
}

fn find(
    key: &Key,
    offers: &[(&NodeId, &Offer)],
    answered: usize,
    known: &Known<'_>,
    conclusion: &mut Conclusion,
) -> Finding {
    let sequence = |offer: &Offer| offer.verified.finalization.sequence;
    let nothing = Holding::default();
    let holding = known.holdings.get(key).unwrap_or(&nothing);
    // What is stable for others alone: whoever has it may have what is meant for us too.
    let is_meant = |offer: &Offer| known.is_meant(key, offer);
    let meant = offers.iter().filter(|(_, offer)| is_meant(offer));
    let Some(highest) = meant.map(|(_, offer)| sequence(offer)).max() else {
        return Finding::Others;
    };
    let top = offers
        .iter()
        .filter(|(_, offer)| sequence(offer) == highest);
    let releases: BTreeSet<ReleaseId> = top
        .clone()
        .map(|(_, it)| it.verified.release.id())
        .collect();
    let mut disbelieve = |reason: &dyn Fn(ReleaseId) -> Option<String>| {
        for (peer, offer) in top.clone() {
            let release = offer.verified.release.id();
            let reason = reason(release);
            conclusion
                .disbelieved
                .extend(reason.map(|reason| Disbelieved {
                    peer: (*peer).clone(),
                    release,
                    reason,
                }));
        }
    };
    let accepted = holding.acceptance.accepted.as_ref();
    if releases.len() > 1 {
        // What we accepted is not what is wrong.
        let ours = accepted
            .filter(|it| it.sequence == highest)
            .map(|it| it.release);
        disbelieve(&|release| {
            let reason = format!("another release has sequence {highest} too: equivocation");
            (Some(release) != ours).then_some(reason)
        });
        if ours.is_none_or(|ours| !releases.contains(&ours)) {
            return Finding::Equivocation { sequence: highest };
        }
    }
    let ours = |it: &&&(&NodeId, &Offer)| {
        accepted.is_some_and(|accepted| accepted.release == it.1.verified.release.id())
    };
    let mut meant = top.clone().filter(|(_, offer)| is_meant(offer));
    let best = meant.clone().find(|it| ours(&it)).or_else(|| meant.next());
    let Some((_, offer)) = best else {
        return Finding::Older;
    };
    let release = offer.verified.release.id();
    let from = top
        .clone()
        .filter(|(_, it)| it.verified.release.id() == release);
    let from: BTreeSet<NodeId> = from.map(|(peer, _)| (*peer).clone()).collect();
    let floor = known.floors.get(key).copied();
    let decision = holding.acceptance.consider_stable(
        known.us,
        &offer.verified,
        known.stage,
        floor.unwrap_or(0),
    );
    match decision {
        Ok(Decision::Again | Decision::NotForUs) => Finding::Current { from },
        Ok(Decision::Follow(_))
            if accepted.is_some_and(|it| it.release == release) && holding.is_led =>
        {
            Finding::Led
        }
        Ok(Decision::Follow(_))
            if accepted.is_none() && floor.is_none() && answered < ANSWERS_MIN =>
        {
            Finding::TooFew { answered }
        }
        Ok(Decision::Follow(acceptance)) => Finding::Take {
            acceptance,
            finalize: Box::new(offer.finalize.clone()),
            from,
        },
        // A peer that was away itself says so too.
        Err(Refusal::Lower { .. }) => Finding::Older,
        Err(Refusal::GoneBack { .. }) => Finding::GoneBack { release },
        Err(refusal) => {
            let reason = refusal.to_string();
            disbelieve(&|_| Some(reason.clone()));
            match refusal {
                Refusal::Equivocation { sequence, .. } => Finding::Equivocation { sequence },
                _ => Finding::Older,
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
