//! What a host accepts: the order of releases, grants and directives for one repo and environment.
//!
//! Pure. The node keeps one state for its fetching and the activator its own, so that neither needs
//! to believe the other. The new state is persisted before anything is done about it.

use std::collections::BTreeMap;

use scap_proto::{
    id::{NodeId, ReleaseId},
    limits::SEQUENCE_JUMP_MAX,
    reason::{Because, Reason},
    release::{
        Audience, AuthorityError, Directive, Environment, RepoPath, Stage, UnixMillis,
        VerifiedGrant, VerifiedRelease,
    },
};
use serde::{Deserialize, Serialize};

use crate::trust::VerifiedFinalization;

/// Whom orders must be addressed to for this host to follow them.
#[derive(Debug, Clone)]
pub struct Addressee {
    /// This host.
    pub host: NodeId,
    /// The environments it is in.
    pub environments: Vec<Environment>,
    /// The audiences it is in.
    pub audiences: Vec<Audience>,
    /// The least sequences of stable releases, by who enrolled it.
    pub floors: BTreeMap<(RepoPath, Environment), u64>,
}

/// What this host has accepted for one repo and environment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acceptance {
    /// The latest release and what was ordered about it.
    pub accepted: Option<Accepted>,
    /// The latest finalization.
    pub finalized: Option<Finalized>,
}

/// A release that was accepted, and the latest directive about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Its sequence.
    pub sequence: u64,
    /// The release.
    pub release: ReleaseId,
    /// The latest directive's epoch and number.
    pub directive: (u64, u64),
    /// What it ordered.
    pub stage: Stage,
}

/// A release that was finalized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finalized {
    /// Its sequence.
    pub sequence: u64,
    /// The release.
    pub release: ReleaseId,
}

/// What an acceptable order is to this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// New: persist this state, then follow the order.
    Follow(Acceptance),
    /// The very order that was accepted last: follow it if it has not been.
    Again,
    /// For other hosts.
    NotForUs,
}

/// Why an order is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Not signed, not addressed to this host, or out of time.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Sequences start at 1.
    #[error("a release with sequence 0")]
    Zero,
    /// An older release than the one accepted.
    #[error("release {release} has sequence {offered}, this host has accepted {accepted}")]
    Lower {
        /// The release offered.
        release: ReleaseId,
        /// Its sequence.
        offered: u64,
        /// The highest sequence accepted.
        accepted: u64,
    },
    /// So high that whoever signed it may want to leave no number for others.
    #[error(
        "release {release} has sequence {offered}, more than {SEQUENCE_JUMP_MAX} above {known}, the highest known here"
    )]
    Jump {
        /// The release offered.
        release: ReleaseId,
        /// Its sequence.
        offered: u64,
        /// The highest sequence accepted or that who enrolled the host knew of; 0 for none.
        known: u64,
    },
    /// Two releases with one sequence: the signer, or a thief of the key, says two things.
    #[error("release {offered} has the sequence {sequence} of release {accepted}: equivocation")]
    Equivocation {
        /// The sequence.
        sequence: u64,
        /// The release accepted.
        accepted: ReleaseId,
        /// The release offered.
        offered: ReleaseId,
    },
    /// A directive that a later one has overtaken.
    #[error("directive {offered:?} is older than {obeyed:?}, which this host obeys")]
    Replayed {
        /// The (epoch, number) offered.
        offered: (u64, u64),
        /// The (epoch, number) obeyed.
        obeyed: (u64, u64),
    },
    /// Two directives with one number: whoever holds the session key says two things.
    #[error("directive {directive:?} orders {offered:?}, it ordered {obeyed:?} before")]
    Contradiction {
        /// The (epoch, number) of both.
        directive: (u64, u64),
        /// The stage obeyed.
        obeyed: Stage,
        /// The stage offered.
        offered: Stage,
    },
    /// An order that does not lapse, or not that of this release.
    #[error("directive {0:?} is none that lapses")]
    Lasting((u64, u64)),
    /// Going back from the stable release takes a new release.
    #[error("release {0} is finalized: going back from it takes a new release")]
    Finalized(ReleaseId),
    /// A stable release below what the host's identity says is the least.
    #[error("release {release} has sequence {offered}, this host takes none below {floor}")]
    Floor {
        /// The release offered.
        release: ReleaseId,
        /// Its sequence.
        offered: u64,
        /// The least.
        floor: u64,
    },
    /// A release that this host has gone back from, by an order that is later than what calls it stable.
    #[error(
        "this host went back from release {release} by directive {obeyed:?}, and it was finalized by epoch {epoch}"
    )]
    GoneBack {
        /// The release.
        release: ReleaseId,
        /// The (epoch, number) by which it went back.
        obeyed: (u64, u64),
        /// The epoch of who finalized it.
        epoch: u64,
    },
    /// A stable release that is not meant for this host.
    #[error("release {0} was deployed without this host: it is the stable one of others")]
    NotMeant(ReleaseId),
    /// A finalization of something that this host never accepted, or that a later one has overtaken.
    #[error(
        "finalization of sequence {offered}, this host accepted {accepted} and finalized {finalized}"
    )]
    StaleFinalization {
        /// The sequence offered.
        offered: u64,
        /// The highest sequence accepted; 0 for none.
        accepted: u64,
        /// The highest sequence finalized; 0 for none.
        finalized: u64,
    },
}

impl Refusal {
    /// Its code.
    pub fn code(&self) -> Reason {
        match self {
            Self::Authority(error) => error.code(),
            Self::Zero | Self::Lower { .. } | Self::StaleFinalization { .. } => {
                Reason::RefusedSequence
            }
            Self::Jump { .. } => Reason::RefusedJump,
            Self::Equivocation { .. } | Self::Contradiction { .. } => Reason::RefusedEquivocation,
            Self::Replayed { .. } => Reason::RefusedEpoch,
            Self::Lasting(_) => Reason::RefusedLapsed,
            Self::Finalized(_) => Reason::RefusedFinalized,
            Self::Floor { .. } => Reason::RefusedFloor,
            Self::GoneBack { .. } => Reason::RefusedGoneBack,
            Self::NotMeant(_) => Reason::ForOthers,
        }
    }

    /// Why, for who ordered it.
    pub fn because(&self) -> Because {
        self.code().because(crate::error_chain(self))
    }
}

impl Accepted {
    /// That it was gone back from, and finalized by who was overtaken by then.
    fn refusal(&self, epoch: u64) -> Refusal {
        Refusal::GoneBack {
            release: self.release,
            obeyed: self.directive,
            epoch,
        }
    }
}

impl Acceptance {
    /// The highest sequence accepted; 0 for none.
    pub fn sequence(&self) -> u64 {
        self.accepted
            .as_ref()
            .map_or(0, |accepted| accepted.sequence)
    }

    /// The highest sequence finalized; 0 for none.
    pub fn finalized_sequence(&self) -> u64 {
        self.finalized.map_or(0, |finalized| finalized.sequence)
    }

    /// Decides about an order. Signatures were checked; this checks addressee, order and time.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn consider(
        &self,
        us: &Addressee,
        release: &VerifiedRelease,
        grant: &VerifiedGrant,
        directive: &Directive,
        now: UnixMillis,
    ) -> Result<Decision, Refusal> {
        let about = release.release();
        us.check(&about.environment, &about.audience)?;
        if !directive.targets.include(&us.host) {
            return Ok(Decision::NotForUs);
        }
        let offered = (directive.epoch, directive.number);
        self.check_sequence(us, release)?;
        if let Some(accepted) = self.accepted.as_ref().filter(|a| a.release == release.id()) {
            if offered < accepted.directive {
                return Err(Refusal::Replayed {
                    offered,
                    obeyed: accepted.directive,
                });
            }
            if offered == accepted.directive {
                if directive.stage == accepted.stage {
                    return Ok(Decision::Again);
                }
                return Err(Refusal::Contradiction {
                    directive: offered,
                    obeyed: accepted.stage,
                    offered: directive.stage,
                });
            }
        }
        match directive.stage {
            // What this release may undo is authority that it already carries.
            Stage::Revert if self.finalized.is_some_and(|f| f.release == release.id()) => {
                return Err(Refusal::Finalized(release.id()));
            }
            Stage::Revert => {}
            Stage::Fetch | Stage::Promote => {
                release.check_time(now)?;
                grant.check_time(now)?;
            }
        }
        Ok(Decision::Follow(Self {
            accepted: Some(Accepted {
                sequence: about.sequence,
                release: release.id(),
                directive: offered,
                stage: directive.stage,
            }),
            finalized: self.finalized,
        }))
    }

    /// What is accepted once a directive lapsed that was obeyed, and nobody followed up: the way back, by the authority that the
    /// release carries. Whoever asks knows that its time is over. Until something higher is told, the directive is no way forward
    /// any more.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn lapse(
        &self,
        us: &Addressee,
        release: ReleaseId,
        directive: &Directive,
    ) -> Result<Decision, Refusal> {
        let offered = (directive.epoch, directive.number);
        if !directive.targets.include(&us.host) {
            return Ok(Decision::NotForUs);
        }
        let obeyed = self.accepted.as_ref().filter(|it| it.release == release);
        let (Some(obeyed), Some(_)) = (obeyed, directive.dead_man()) else {
            return Err(Refusal::Lasting(offered));
        };
        if self.finalized.is_some_and(|it| it.release == release) {
            return Err(Refusal::Finalized(release));
        }
        if offered < obeyed.directive {
            return Err(Refusal::Replayed {
                offered,
                obeyed: obeyed.directive,
            });
        }
        if offered == obeyed.directive && obeyed.stage == Stage::Revert {
            return Ok(Decision::Again);
        }
        Ok(Decision::Follow(Self {
            accepted: Some(Accepted {
                directive: offered,
                stage: Stage::Revert,
                ..obeyed.clone()
            }),
            finalized: self.finalized,
        }))
    }

    /// Decides about a finalization of a release. It never expires. One by a grant that a later one has overtaken and taken this
    /// host back from the release is refused.
    ///
    /// # Errors
    /// [`Refusal`]; a finalization of another release than the one accepted is stale.
    pub fn consider_finalization(
        &self,
        us: &Addressee,
        verified: &VerifiedFinalization,
    ) -> Result<Decision, Refusal> {
        let VerifiedFinalization {
            release,
            finalization,
            epoch,
            reach: _,
        } = verified;
        us.check(&finalization.environment, &finalization.audience)?;
        if let Some(back) = self.gone_back_from(release.id())
            && back.directive.0 > *epoch
        {
            return Err(back.refusal(*epoch));
        }
        let stale = Refusal::StaleFinalization {
            offered: finalization.sequence,
            accepted: self.sequence(),
            finalized: self.finalized_sequence(),
        };
        if self
            .accepted
            .as_ref()
            .is_none_or(|accepted| accepted.release != release.id())
        {
            return Err(stale);
        }
        let new = Finalized {
            sequence: finalization.sequence,
            release: release.id(),
        };
        match self.finalized {
            Some(old) if old == new => Ok(Decision::Again),
            Some(old) if old.sequence >= new.sequence => Err(stale),
            _ => Ok(Decision::Follow(Self {
                finalized: Some(new),
                ..self.clone()
            })),
        }
    }

    /// Decides about a release that is offered as the stable one, without an order: its finalization is the authority to
    /// make its directory and, with [`Stage::Promote`], to switch to it. Nothing about it expires.
    ///
    /// It is accepted like the first order about it would be, but below any directive, so that a coordinator may go on with
    /// it; going back from it would take a new release in any case. Sequences below `floor` are refused, and so are a release that
    /// is not [meant](Self::is_meant) for this host, and one that it has gone back from, by an order or by itself, unless somebody
    /// directed it later, to be the stable one.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn consider_stable(
        &self,
        us: &Addressee,
        verified: &VerifiedFinalization,
        stage: Stage,
        floor: u64,
    ) -> Result<Decision, Refusal> {
        let VerifiedFinalization {
            release,
            finalization,
            epoch,
            reach: _,
        } = verified;
        us.check(&finalization.environment, &finalization.audience)?;
        if !self.is_meant(us, verified) {
            return Err(Refusal::NotMeant(release.id()));
        }
        self.check_sequence(us, release)?;
        let (id, sequence) = (release.id(), finalization.sequence);
        if sequence < floor {
            return Err(Refusal::Floor {
                release: id,
                offered: sequence,
                floor,
            });
        }
        if let Some(back) = self.gone_back_from(id)
            && back.directive.0 >= *epoch
        {
            return Err(back.refusal(*epoch));
        }
        let same = self.accepted.as_ref().filter(|it| it.release == id);
        let next = Self {
            accepted: Some(Accepted {
                sequence,
                release: id,
                directive: same.map_or((0, 0), |it| it.directive),
                // What was switched to is not taken back to being fetched.
                stage: match same.map(|it| it.stage) {
                    Some(Stage::Promote) => Stage::Promote,
                    _ => stage,
                },
            }),
            finalized: Some(Finalized {
                sequence,
                release: id,
            }),
        };
        match next == *self {
            true => Ok(Decision::Again),
            false => Ok(Decision::Follow(next)),
        }
    }

    /// Whether a release that is the stable one of some hosts is so of this one.
    pub fn is_meant(&self, us: &Addressee, verified: &VerifiedFinalization) -> bool {
        let release = verified.release.id();
        let accepted = self.accepted.as_ref().filter(|it| it.release == release);
        // What was taken from peers has no directive's number; it was meant for this host then.
        verified.reach.includes(&us.host, accepted.is_some())
    }

    /// The release, where the last that was accepted of it was to go back from it.
    fn gone_back_from(&self, release: ReleaseId) -> Option<&Accepted> {
        let accepted = self.accepted.as_ref();
        accepted.filter(|it| it.release == release && it.stage == Stage::Revert)
    }

    fn check_sequence(&self, us: &Addressee, release: &VerifiedRelease) -> Result<(), Refusal> {
        let (id, about) = (release.id(), release.release());
        let offered = about.sequence;
        if offered == 0 {
            return Err(Refusal::Zero);
        }
        let floor = us
            .floors
            .get(&(about.repo.clone(), about.environment.clone()));
        let known = self.sequence().max(floor.copied().unwrap_or(0));
        if offered.saturating_sub(known) > SEQUENCE_JUMP_MAX {
            return Err(Refusal::Jump {
                release: id,
                offered,
                known,
            });
        }
        match &self.accepted {
            Some(accepted) if offered < accepted.sequence => Err(Refusal::Lower {
                release: id,
                offered,
                accepted: accepted.sequence,
            }),
            Some(accepted) if offered == accepted.sequence && id != accepted.release => {
                Err(Refusal::Equivocation {
                    sequence: offered,
                    accepted: accepted.release,
                    offered: id,
                })
            }
            _ => Ok(()),
        }
    }
}

impl Addressee {
    pub(crate) fn check(
        &self,
        environment: &Environment,
        audience: &Audience,
    ) -> Result<(), AuthorityError> {
        if !self.environments.contains(environment) {
            return Err(AuthorityError::Environment(environment.clone()));
        }
        if !self.audiences.contains(audience) {
            return Err(AuthorityError::Audience(audience.clone()));
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
