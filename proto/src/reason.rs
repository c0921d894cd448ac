//! Reason codes: what something waits for, or why it ended as it did, in one list that hosts, coordinators, their JSON and the
//! guide share.
//!
//! The text beside a code is for people and may change; the code never does. Each has a section in `docs/reasons.md`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Longest code, in bytes: the longest that there is has 22, and a later build may have more to say.
pub const REASON_CODE_BYTES_MAX: usize = 40;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident = $code:literal,)*) => {
        /// What something waits for, or why it ended.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub enum Reason {
            $($(#[doc = $doc])* $name,)*
            /// One that a later build knows.
            Other(OtherReason),
        }

        impl Reason {
            /// Every one that this build knows.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its code, where this build knows it.
            pub fn known(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some($code),)*
                    Self::Other(_) => None,
                }
            }

            fn of_known(code: &str) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

reasons! {
    // What a rollout waits for.
    /// Hosts of a wave fetch.
    Chunks = "chunks",
    /// Hosts of a wave promote.
    Promotion = "promotion",
    /// The command that looks at a wave from the deployment host.
    ExternalCheck = "external-check",
    /// A wave has the release live, and is watched.
    Soak = "soak",
    /// A person is to let a wave promote.
    Approval = "approval",
    /// A person paused it.
    Paused = "paused",
    /// A wave has lost more than it may, counting hosts that are not reached.
    Budget = "budget",
    /// The authority to direct the release is over.
    Grant = "grant",
    /// Hosts go back.
    Rollback = "rollback",
    /// Hosts have not confirmed that the release is the stable one.
    Finalization = "finalization",
    // What a host waits for that fetches.
    /// The first chunk of the snapshot.
    FirstChunk = "first-chunk",
    /// The host's own disk: storing a chunk failed.
    LocalDisk = "local-disk",
    /// A peer that may be asked.
    NoPeers = "no-peers",
    /// Chunks that are on their way.
    InFlight = "in-flight",
    /// Peers that were busy, slow or silent.
    PeersPaused = "peers-paused",
    /// Chunks that upstreams push.
    Pushes = "pushes",
    /// Bytes that are on their way for other releases.
    OtherReleases = "other-releases",
    /// Chunks that no peer says it has.
    NobodyHas = "nobody-has",
    /// Peers that serve other releases first.
    PeersBusy = "peers-busy",
    // What a host waits for that has fetched.
    /// The host's activator, which makes the directory, switches or goes back.
    Activator = "activator",
    /// A check that is run.
    Check = "check",
    /// A service that is handled.
    Service = "service",
    /// A port that is to answer.
    Port = "port",
    // What a host waits for that catches up with its peers.
    /// More peers, to believe what they say.
    TooFewPeers = "too-few-peers",
    /// What peers have is the stable release of other hosts alone.
    ForOthers = "for-others",
    /// A coordinator, which leads a rollout of it.
    Led = "led",
    /// A deployment: the host went back from what its peers call stable.
    GoneBack = "gone-back",
    /// A person: two releases are said to have one sequence.
    Equivocation = "equivocation",
    /// News: nothing that is surely of today was heard for longer than the lease.
    Stale = "stale",
    // What a host saw that nobody honest does, or gives nothing for.
    /// No plan names who asked for a release.
    OutsidePlan = "outside-plan",
    /// Who asked for a release, or about a repo, is in another environment or audience.
    OutsideAudience = "outside-audience",
    /// Who asked does not show what it is in, and is to.
    NoMembership = "no-membership",
    /// The host's record of what it accepted was lost, or set back.
    StateLost = "state-lost",
    // Why a host failed.
    /// A check did not pass.
    CheckFailed = "check-failed",
    /// A check was not done in time.
    CheckTimeout = "check-timeout",
    /// A config file could not be rendered.
    TemplateError = "template-error",
    /// A command for a service did not succeed.
    ServiceFailed = "service-failed",
    /// A port did not answer in time.
    PortSilent = "port-silent",
    /// No room on the disk, or no inodes.
    DiskFull = "disk-full",
    /// The deploy root's file system is read-only.
    ReadOnly = "read-only",
    /// A directory that must be ours is not there, or others can change it.
    UnsafePath = "unsafe-path",
    /// Something that is not ours stands where something of ours goes.
    PathTaken = "path-taken",
    /// Another process is at work on the repo.
    Busy = "busy",
    /// A system call failed.
    IoError = "io-error",
    /// A chunk is not in the store, again and again.
    MissingChunk = "missing-chunk",
    /// The release's content is not what it says to be.
    BadContent = "bad-content",
    /// A path that would be unsafe, or impossible, to make on a host.
    ForbiddenName = "forbidden-name",
    /// What the release asks of hosts cannot be read.
    BadConfig = "bad-config",
    /// The plan of the release is missing, or cannot be read.
    BadPlan = "bad-plan",
    /// The host's own record of what it did is damaged.
    RecordDamaged = "record-damaged",
    /// What is to be gone back to, or switched to, is not there.
    NotPrepared = "not-prepared",
    /// What is to be the stable one, or compared, is not live.
    NotLive = "not-live",
    /// The activator died, or did not answer.
    ActivatorLost = "activator-lost",
    /// Nobody directed the release for the dead-man time.
    WentBackByItself = "went-back-by-itself",
    /// The host had the release live, and has it no more.
    LiveNoMore = "live-no-more",
    /// A build before reason codes failed, and says why in words alone.
    Failed = "failed",
    // Why a host refused an order.
    /// Not signed by who may.
    RefusedSignature = "refused-signature",
    /// It cannot be read, or is not what it comes with.
    RefusedMalformed = "refused-malformed",
    /// Its time is over.
    RefusedExpired = "refused-expired",
    /// For an environment that the host is not in.
    RefusedEnvironment = "refused-environment",
    /// For an audience that the host is not in.
    RefusedAudience = "refused-audience",
    /// For other hosts.
    RefusedTarget = "refused-target",
    /// An older release than the one accepted.
    RefusedSequence = "refused-sequence",
    /// A later directive was obeyed.
    RefusedEpoch = "refused-epoch",
    /// Two things under one number.
    RefusedEquivocation = "refused-equivocation",
    /// From the stable release nobody goes back.
    RefusedFinalized = "refused-finalized",
    /// The host went back by itself, and only a new order goes forward.
    RefusedLapsed = "refused-lapsed",
    /// Below the least sequence that the host takes.
    RefusedFloor = "refused-floor",
    /// The host went back from it.
    RefusedGoneBack = "refused-gone-back",
    /// Its plan is missing, or cannot be read.
    RefusedPlan = "refused-plan",
    /// The host cannot record that it accepted it.
    RefusedState = "refused-state",
    /// Its sequence is further from the one accepted than any may be.
    RefusedJump = "refused-jump",
    /// Not from a deployment host that the host follows.
    RefusedOrigin = "refused-origin",
    /// The signers file that it brings is not the next one, or not signed by enough of both.
    RefusedSigners = "refused-signers",
    /// Its commit is not signed by who the host asks for, or its files are not the commit's.
    RefusedCommit = "refused-commit",
    /// A build before reason codes refused, and says why in words alone.
    Refused = "refused",
    // Why a coordinator gave a host up.
    /// No progress for too long.
    Stalled = "stalled",
    /// Not reached for too long.
    Unreachable = "unreachable",
    /// Nothing that it said about what it was told got here.
    NoReport = "no-report",
    /// It did not confirm in time that the release is the stable one.
    Unconfirmed = "unconfirmed",
    /// A person goes on without it.
    Skipped = "skipped",
    // Why a host has no dealings with a peer.
    /// It sent bytes that are not those of the chunk.
    WrongBytes = "wrong-bytes",
    /// Time and again it sent nothing, or too little, while others sent.
    SlowPeer = "slow-peer",
    /// It says that it has chunks, and does not give them.
    BrokenPromises = "broken-promises",
    /// It kept ending requests without an answer.
    BrokenStreams = "broken-streams",
    /// It asks, and does not read what it gets.
    ReadsNothing = "reads-nothing",
    /// It asked for several times as much as there is.
    AsksTooMuch = "asks-too-much",
    /// It made new links faster than anybody needs them.
    DialsTooOften = "dials-too-often",
    /// It sent what is no message, or none that belongs there.
    BrokeProtocol = "broke-protocol",
    // Why a certificate is not renewed, or a link not made for one.
    /// A certificate is over.
    CertificateExpired = "certificate-expired",
    /// Two clocks are too far apart.
    ClockSkew = "clock-skew",
    /// The coordinator has no record that the host was enrolled with this key.
    NotEnrolled = "not-enrolled",
    // Why a rollout ended, or goes back.
    /// More hosts failed than may be lost.
    BudgetExceeded = "budget-exceeded",
    /// The command that looks at a wave from the deployment host did not say that all is well.
    ExternalCheckFailed = "external-check-failed",
    /// A person said so.
    Aborted = "aborted",
    /// It was going back when its coordinator before ended.
    WasGoingBack = "was-going-back",
    /// Somebody else directs the release.
    TakenOver = "taken-over",
    /// A person ended the coordinator.
    Interrupted = "interrupted",
    /// It is the stable release, and some hosts do not have it.
    HostsLost = "hosts-lost",
    /// No host has it live.
    NoneLive = "none-live",
    // Why a host was not enrolled over ssh.
    /// Its ssh key is not known.
    HostKeyUnknown = "host-key-unknown",
    /// Its ssh key is another than the known one.
    HostKeyChanged = "host-key-changed",
    /// It does not let us log in.
    SshRefused = "ssh-refused",
    /// ssh did not get there, or ended on the way.
    SshFailed = "ssh-failed",
    /// It did not answer in time.
    SshTimeout = "ssh-timeout",
    /// It printed more than is read.
    SshOutput = "ssh-output",
    /// What it printed is no request for a certificate.
    BadRequest = "bad-request",
    /// Its agent did not do what it was told.
    AgentFailed = "agent-failed",
    // Why a host was not enrolled with a token.
    /// Nobody handed the token out.
    TokenUnknown = "token-unknown",
    /// A host was enrolled with it.
    TokenUsed = "token-used",
    /// Its time is over.
    TokenExpired = "token-expired",
    /// It was taken back.
    TokenRevoked = "token-revoked",
    /// It is for another host.
    TokenOtherHost = "token-other-host",
    /// The coordinator does not take the host's token, and does not say why.
    TokenRefused = "token-refused",
    /// Who is there is no coordinator of the token's fleet, or knows nothing of the fleet.
    EnrollStranger = "enroll-stranger",
    /// Too many claims that were not good.
    EnrollLimited = "enroll-limited",
    /// A claim that was not made, or not heard to its end.
    EnrollBroken = "enroll-broken",
    // Why a node is not let in.
    /// Somebody cut it off.
    Revoked = "revoked",
    /// Its certificate is of an authority that the fleet has moved away from.
    OldAuthority = "old-authority",
    /// What says whose certificates count was kept here, and is lost.
    TrustLost = "trust-lost",
    // What an agent says of its own host.
    /// The kernel does not hold the daemon to its own directories, or not in all respects.
    NotConfined = "not-confined",
    /// A user of this host who may not asked a local socket.
    LocalUser = "local-user",
}

impl Reason {
    /// Its code, in lower-case kebab.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Other(other) => other.as_str(),
            known => known.known().unwrap_or_default(),
        }
    }

    /// The same with the words that go with it.
    pub fn because(self, text: impl Into<String>) -> Because {
        let (code, text) = (self, text.into());
        Because { code, text }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Reason {
    type Err = ReasonError;

    fn from_str(code: &str) -> Result<Self, ReasonError> {
        match Self::of_known(code) {
            Some(known) => Ok(known),
            None => OtherReason::new(code).map(Self::Other),
        }
    }
}

impl From<Reason> for String {
    fn from(reason: Reason) -> Self {
        reason.as_str().to_owned()
    }
}

impl TryFrom<String> for Reason {
    type Error = ReasonError;

    fn try_from(code: String) -> Result<Self, ReasonError> {
        code.parse()
    }
}

/// A code of a later build: lower-case letters, digits and hyphens, at most [`REASON_CODE_BYTES_MAX`] of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OtherReason {
    bytes: [u8; REASON_CODE_BYTES_MAX],
    length: u8,
}

impl OtherReason {
    fn new(code: &str) -> Result<Self, ReasonError> {
        let is_plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let begins_well = code.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
        if code.len() > REASON_CODE_BYTES_MAX || !begins_well || !code.bytes().all(is_plain) {
            return Err(ReasonError);
        }
        let mut bytes = [0; REASON_CODE_BYTES_MAX];
        bytes[..code.len()].copy_from_slice(code.as_bytes());
        let length = u8::try_from(code.len()).map_err(|_| ReasonError)?;
        Ok(Self { bytes, length })
    }

    fn as_str(&self) -> &str {
        let code = &self.bytes[..usize::from(self.length)];
        std::str::from_utf8(code).expect("it was a text when it was made")
    }
}

impl fmt::Debug for OtherReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

/// A text that is no code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a reason code has 1 to {REASON_CODE_BYTES_MAX} lower-case letters, digits and hyphens")]
pub struct ReasonError;

/// A code, and the words that go with it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Because {
    /// The code.
    pub code: Reason,
    /// In words. Not escaped.
    pub text: String,
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}
