//! The report: what one host did and where it stands, in its own word.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    codec::{self, Extensible},
    extensions::Extensions,
    id::{NodeId, PlanId, ReleaseId, SnapshotId},
    identity::{Identity, PeerIdentity, Role, Trust, TrustMark},
    limits::{REASON_BYTES_MAX, SHUNNED_PEERS_MAX},
    reason::Reason,
    release::{
        directive::Stage,
        names::{Environment, RepoPath},
        sighting::{self, Sighting},
        signed::{AuthorityError, LeafSigned, SignedObject, UnixMillis},
        step::Step,
    },
};

/// Where the bytes of a release came from, in plain bytes of chunks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BytesBySource {
    /// From the seed.
    pub seed: u64,
    /// From other agents.
    pub peers: u64,
    /// Held already.
    pub reuse: u64,
}

/// How far the host is with what it was told. Variants are only ever added at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Told nothing yet, or nothing about this repo.
    Idle,
    /// On its way.
    Working {
        /// Chunks it has.
        chunks_held: u32,
        /// Chunks there are; 0 until that is known.
        chunks_total: u32,
        /// What it waits for, where nothing moves; empty otherwise. At most
        /// [`REASON_BYTES_MAX`] bytes.
        waiting: String,
    },
    /// There.
    Done,
    /// Tried and failed.
    Failed {
        /// Why, for people; at most [`REASON_BYTES_MAX`] bytes.
        reason: String,
    },
    /// Would not: an order has no authority here. [`Report::refused_release`] says of which release. The same order again
    /// gets the same answer.
    Refused {
        /// Why, for people; at most [`REASON_BYTES_MAX`] bytes.
        reason: String,
    },
}

/// What a host holds to, for one repo and environment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The highest sequence it accepted; 0 for none.
    pub accepted_sequence: u64,
    /// Which release that was.
    pub accepted: Option<ReleaseId>,
    /// What is live.
    pub live: Option<ReleaseId>,
    /// The sequence that was last finalized; 0 for none.
    pub finalized_sequence: u64,
}

/// What one host says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Who.
    pub host: NodeId,
    /// About which repo.
    pub repo: RepoPath,
    /// In which environment.
    pub environment: Environment,
    /// About which release, where it was told of one.
    pub release: Option<ReleaseId>,
    /// Rises with each report of this host, also over restarts.
    pub counter: u64,
    /// The stage that it was told to reach.
    pub stage: Stage,
    /// The (epoch, number) of the directive that told it so.
    pub directive: (u64, u64),
    /// How far it is.
    pub outcome: Outcome,
    /// Where the bytes came from.
    pub bytes: BytesBySource,
    /// How long fetching took, in milliseconds; 0 before it is done.
    pub fetch_millis: u64,
    /// How long making the release's directory took, in milliseconds; 0 before it is done, and where it was there.
    pub prepare_millis: u64,
    /// How long promoting took, in milliseconds; 0 before it is done.
    pub promote_millis: u64,
    /// Where it stands.
    pub standing: Standing,
    /// Room to grow.
    pub extensions: Extensions,
}

/// The release of the order that was refused: its id.
const REFUSED_RELEASE: u16 = 4;

/// Nothing came for so long that the host asks to be fed by the seed; no bytes. Who does not know it feeds nobody for it.
const WANTS_SEED: u16 = 2;

/// The snapshot that is live: its id. Who does not know it makes no delta for it.
const LIVE_SNAPSHOT: u16 = 6;

/// The plan that the host keeps: its id. Who does not know it sends the plan again.
const HOLDS_PLAN: u16 = 8;

/// What the host waits for, or why it failed or refused: the code of a reason. Who does not know it has the words alone.
const REASON: u16 = 10;

/// What the host is at that ends by itself. Who does not know it has the words alone.
const STEP: u16 = 12;

/// Which fleet trust the host holds to, and of which authority its certificate is. Who does not know it does not know.
const TRUST: u16 = 20;

/// What a host says of itself in the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrustStanding {
    /// The fleet trust that it holds to.
    pub mark: TrustMark,
    /// The first bytes of the key of the authority that issued its certificate; zero where it believes none that did.
    pub issuer: [u8; 8],
    /// The last instant at which its certificate is valid.
    pub expires: UnixMillis,
}

/// Peers that the host has no dealings with, and why. Who does not know it does not hear of them.
const SHUNS: u16 = 24;

/// A peer that a host has no dealings with for a while.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ShunnedPeer {
    /// Which.
    pub peer: NodeId,
    /// Why.
    pub code: Reason,
}

/// What the host saw that nobody honest does. Who does not know it does not hear of it.
const SIGHTINGS: u16 = 26;

/// Since when the host has heard nothing that is surely of today: milliseconds, 8 bytes, little-endian. Who does not know it does not
/// hear of it.
const STALE_SINCE: u16 = 22;

impl Report {
    /// The same report, of a host that stands so in the fleet.
    pub fn trusting(self, standing: &TrustStanding) -> Self {
        let TrustStanding {
            mark,
            issuer,
            expires,
        } = standing;
        let bytes = [
            &mark.to_bytes()[..],
            &issuer[..],
            &expires.0.to_le_bytes()[..],
        ];
        self.with(TRUST, Bytes::from(bytes.concat()))
    }

    /// How the host stands in the fleet; none where it does not say.
    pub fn trust(&self) -> Option<TrustStanding> {
        let bytes = self.extensions.get(TRUST)?;
        let rest = bytes.get(TrustMark::BYTES..)?;
        let (issuer, rest) = rest.split_first_chunk()?;
        Some(TrustStanding {
            mark: TrustMark::from_bytes(bytes)?,
            issuer: *issuer,
            expires: UnixMillis(u64::from_le_bytes(*rest.first_chunk()?)),
        })
    }

    /// The same report, of a host that has no dealings with these: the first [`SHUNNED_PEERS_MAX`] of them.
    pub fn shunning(self, peers: &[ShunnedPeer]) -> Self {
        let first: Vec<_> = peers.iter().take(SHUNNED_PEERS_MAX).collect();
        self.with(SHUNS, codec::encode(&first).into())
    }

    /// The peers that the host says it has no dealings with, of which it is alone to say so.
    pub fn shunned_peers(&self) -> Vec<ShunnedPeer> {
        let said = self.extensions.get(SHUNS);
        let peers = said.and_then(|bytes| codec::decode::<Vec<ShunnedPeer>>(bytes).ok());
        let mut peers = peers.unwrap_or_default();
        peers.truncate(SHUNNED_PEERS_MAX);
        peers
    }

    /// The same report, of a host that saw these; without any as it was.
    pub fn having_seen(self, sightings: &[Sighting]) -> Self {
        match sightings.is_empty() {
            true => self,
            false => self.with(SIGHTINGS, sighting::to_bytes(sightings)),
        }
    }

    /// What the host saw that nobody honest does.
    pub fn sightings(&self) -> Vec<Sighting> {
        let bytes = self.extensions.get(SIGHTINGS);
        bytes.map_or_else(Vec::new, |bytes| sighting::from_bytes(bytes))
    }

    /// The same report, of a host that has heard nothing that is surely of today since then, and its lease is over.
    pub fn stale(self, since: UnixMillis) -> Self {
        self.with(STALE_SINCE, Bytes::copy_from_slice(&since.0.to_le_bytes()))
    }

    /// Since when the host has heard nothing that is surely of today, where its lease is over.
    pub fn stale_since(&self) -> Option<UnixMillis> {
        let bytes = self.extensions.get(STALE_SINCE)?;
        let bytes: [u8; 8] = bytes.as_ref().try_into().ok()?;
        Some(UnixMillis(u64::from_le_bytes(bytes)))
    }

    /// The same report, of a host that keeps that plan: an order need not bring it.
    pub fn holding(self, plan: PlanId) -> Self {
        self.with(HOLDS_PLAN, Bytes::copy_from_slice(plan.as_bytes()))
    }

    /// The plan that the host says it keeps.
    pub fn held_plan(&self) -> Option<PlanId> {
        let bytes = self.extensions.get(HOLDS_PLAN)?;
        Some(PlanId::from_bytes(bytes.as_ref().try_into().ok()?))
    }

    /// The same report, with the code of what is waited for, or of why it failed or refused.
    pub fn because(self, code: Reason) -> Self {
        self.with(REASON, Bytes::copy_from_slice(code.as_str().as_bytes()))
    }

    /// The same report, of a host that is at a step; the code is that of the step.
    pub fn at(self, step: &Step) -> Self {
        self.because(step.code).with(STEP, step.to_bytes())
    }

    /// What the host is at that ends by itself, where it says so.
    pub fn step(&self) -> Option<Step> {
        Step::from_bytes(self.reason()?, self.extensions.get(STEP)?)
    }

    /// The code of what the host waits for, or of why it failed or refused; none where it does not say.
    pub fn reason(&self) -> Option<Reason> {
        let code = self.extensions.get(REASON)?;
        std::str::from_utf8(code).ok()?.parse().ok()
    }

    /// The same report, of a host that asks to be fed by the seed.
    pub fn wanting_seed(self) -> Self {
        self.with(WANTS_SEED, Bytes::new())
    }

    /// The same report, of a host that refuses an order about that release.
    pub fn refusing(self, release: ReleaseId) -> Self {
        self.with(REFUSED_RELEASE, Bytes::copy_from_slice(release.as_bytes()))
    }

    /// The same report, of a host on which that snapshot is live.
    pub fn running(self, snapshot: SnapshotId) -> Self {
        self.with(LIVE_SNAPSHOT, Bytes::copy_from_slice(snapshot.as_bytes()))
    }

    /// The same report with one extension more, or with another value of it.
    fn with(self, tag: u16, bytes: Bytes) -> Self {
        let extensions = self.extensions.with(tag, bytes);
        let extensions = extensions.expect("a few short ones are allowed");
        Self { extensions, ..self }
    }

    /// The snapshot that is live; none where nothing is, or it does not say.
    pub fn live_snapshot(&self) -> Option<SnapshotId> {
        let bytes = self.extensions.get(LIVE_SNAPSHOT)?;
        Some(SnapshotId::from_bytes(bytes.as_ref().try_into().ok()?))
    }

    /// The release of the order that was refused; none where it does not say.
    pub fn refused_release(&self) -> Option<ReleaseId> {
        let bytes = self.extensions.get(REFUSED_RELEASE)?;
        Some(ReleaseId::from_bytes(bytes.as_ref().try_into().ok()?))
    }

    /// Whether the host asks to be fed by the seed.
    pub fn wants_seed(&self) -> bool {
        self.extensions.get(WANTS_SEED).is_some()
    }
}

impl Extensible for Report {
    fn extensions(&self) -> &Extensions {
        &self.extensions
    }
}

impl SignedObject for Report {
    const MAGIC: &'static str = "scap-report/1\n";
}

/// A report with its signature and the certificate of who signed it, as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedReport(pub LeafSigned);

impl SignedReport {
    /// Signs `report` with the host's own key.
    pub fn sign(report: &Report, identity: &Identity) -> Self {
        Self(LeafSigned::sign(report, identity))
    }

    /// Checks that the host that the report names signed it.
    ///
    /// # Errors
    /// [`AuthorityError::Codec`], [`AuthorityError::Report`], [`AuthorityError::Limit`].
    pub fn verify(&self, trust: &Trust, now: UnixMillis) -> Result<Report, AuthorityError> {
        let report = Report::from_payload(&self.0.payload)?;
        let is_its_host =
            |signer: &PeerIdentity| signer.name == report.host && signer.role == Role::Agent;
        if !self.0.signer(trust, now).as_ref().is_some_and(is_its_host) {
            return Err(AuthorityError::Report {
                claimed: report.host,
            });
        }
        let text = match &report.outcome {
            Outcome::Working { waiting, .. } => waiting,
            Outcome::Failed { reason } | Outcome::Refused { reason } => reason,
            Outcome::Idle | Outcome::Done => return Ok(report),
        };
        AuthorityError::check_limit("bytes of reason", text.len(), 0..=REASON_BYTES_MAX)?;
        Ok(report)
    }
}

/// `reason`, cut to [`REASON_BYTES_MAX`] at a character.
pub fn bounded_reason(mut reason: String) -> String {
    if reason.len() > REASON_BYTES_MAX {
        let cut = (0..=REASON_BYTES_MAX)
            .rev()
            .find(|at| reason.is_char_boundary(*at));
        reason.truncate(cut.unwrap_or(0));
    }
    reason
}
