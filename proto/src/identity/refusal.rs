//! Why a peer is not let in, and how that is told to both sides.
//!
//! The side that refuses knows all: a [`Refusal`]. The refused side hears a TLS alert, by which it
//! can tell the [`RefusalKind`]s apart, and the words of the refusing side's TLS library.

use std::{fmt, sync::Arc, time::Duration};

use jiff::Timestamp;
use quinn::ConnectionError;
use rustls::{
    AlertDescription, CertificateError, Error as TlsError, OtherError,
    pki_types::UnixTime,
    time_provider::{DefaultTimeProvider, TimeProvider},
};

use super::{
    authority::{CLOCK_SKEW_SECS, Validity},
    fleet::FleetName,
    fleet::Role,
    peer::PeerIdentity,
    renewal::RENEWAL_GRACE_DAYS,
};
use crate::{id::NodeId, reason::Reason};

/// Why we do not let a peer in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its certificate has not the form of a node's.
    #[error("what the peer showed is not a node's certificate: {0}")]
    Malformed(&'static str),
    /// None of our authorities vouches for it.
    #[error("the peer claims to be {claimed}, but no authority we trust certified it")]
    UnknownIssuer {
        /// Who it claims to be; anybody can claim anything.
        claimed: PeerIdentity,
    },
    /// Its certificate has run out, or one of the two clocks is ahead.
    #[error(
        "the certificate of {peer} has expired: valid from {} to {}, this clock says {} \
         (hint: where this clock is right, `scap-coordinator renew` renews it for up to {RENEWAL_GRACE_DAYS} days after its \
         end, and later the host is enrolled again; where it is wrong, set it)",
        date(validity.not_before_unix_ms), date(validity.not_after_unix_ms), date(*now_unix_ms)
    )]
    Expired {
        /// Whose certificate.
        peer: PeerIdentity,
        /// When it is valid.
        validity: Validity,
        /// Our time, in milliseconds since 1970.
        now_unix_ms: u64,
    },
    /// Its certificate is not valid yet: our clock is behind, or its issuer's was ahead.
    #[error(
        "the certificate of {peer} is not valid yet: valid from {} to {}, this clock says {} \
         (clock skew of at least {}; hint: this clock is behind, or that of the host which certified the peer was ahead: \
         set it)",
        date(validity.not_before_unix_ms), date(validity.not_after_unix_ms), date(*now_unix_ms),
        apart(*now_unix_ms, validity.not_before_unix_ms)
    )]
    NotYetValid {
        /// Whose certificate.
        peer: PeerIdentity,
        /// When it is valid.
        validity: Validity,
        /// Our time, in milliseconds since 1970.
        now_unix_ms: u64,
    },
    /// An authority certified it that is believed no more: the fleet has moved to another one.
    #[error(
        "old authority: {peer} has a certificate of an authority that the fleet has moved away from \
         (hint: enroll the host again)"
    )]
    OldAuthority {
        /// Who it is.
        peer: PeerIdentity,
    },
    /// Somebody cut it off.
    #[error(
        "{peer} is revoked since {}: {} (hint: enroll the host again if it is to be back)",
        date(*since_unix_ms), reason.escape_debug()
    )]
    Revoked {
        /// Who it is.
        peer: PeerIdentity,
        /// Why, as whoever did it said.
        reason: String,
        /// Since when, in milliseconds since 1970.
        since_unix_ms: u64,
    },
    /// It is a member of another fleet.
    #[error("the peer is {peer}, this node is of fleet {ours}")]
    WrongFleet {
        /// Who it is.
        peer: PeerIdentity,
        /// Our fleet.
        ours: FleetName,
    },
    /// It is not what is asked for here.
    #[error("the peer is {peer}, expected {}", words(expected))]
    WrongRole {
        /// Who it is.
        peer: PeerIdentity,
        /// The roles that are let in.
        expected: &'static [Role],
    },
    /// It is somebody else than the one that was dialled.
    #[error("the peer is {peer}, expected {expected}")]
    WrongName {
        /// Who it is.
        peer: PeerIdentity,
        /// Who was dialled.
        expected: NodeId,
    },
}

impl Refusal {
    /// Its code, where it has one.
    pub fn code(&self) -> Option<Reason> {
        match self {
            Self::OldAuthority { .. } => Some(Reason::OldAuthority),
            Self::Revoked { .. } => Some(Reason::Revoked),
            _ => None,
        }
    }

    /// Which kind it is; all that the peer is told.
    pub fn kind(&self) -> RefusalKind {
        match self {
            Self::Malformed(_) => RefusalKind::Malformed,
            Self::UnknownIssuer { .. } => RefusalKind::UnknownIssuer,
            Self::Expired { .. } | Self::NotYetValid { .. } => RefusalKind::NotValidNow,
            Self::OldAuthority { .. } => RefusalKind::OldAuthority,
            Self::Revoked { .. } => RefusalKind::Revoked,
            Self::WrongFleet { .. } => RefusalKind::WrongFleet,
            Self::WrongRole { .. } => RefusalKind::WrongRole,
            Self::WrongName { .. } => RefusalKind::WrongName,
        }
    }
}

/// What rustls must be told so that it sends the alert of our [`RefusalKind`].
impl From<&Refusal> for TlsError {
    fn from(refusal: &Refusal) -> Self {
        Self::InvalidCertificate(match refusal {
            Refusal::Malformed(_) => CertificateError::Other(OtherError(Arc::new(refusal.clone()))),
            Refusal::UnknownIssuer { .. } => CertificateError::UnknownIssuer,
            // With our clock, so that the peer can tell skew from a certificate that is over.
            Refusal::Expired {
                validity,
                now_unix_ms,
                ..
            } => CertificateError::ExpiredContext {
                time: unix_time(*now_unix_ms),
                not_after: unix_time(validity.not_after_unix_ms),
            },
            Refusal::NotYetValid {
                validity,
                now_unix_ms,
                ..
            } => CertificateError::NotValidYetContext {
                time: unix_time(*now_unix_ms),
                not_before: unix_time(validity.not_before_unix_ms),
            },
            // No node has an OCSP response, so this alert is free to say something else.
            Refusal::OldAuthority { .. } => CertificateError::InvalidOcspResponse,
            Refusal::Revoked { .. } => CertificateError::Revoked,
            Refusal::WrongFleet { .. } => CertificateError::ApplicationVerificationFailure,
            Refusal::WrongRole { .. } => CertificateError::InvalidPurpose,
            Refusal::WrongName { .. } => CertificateError::NotValidForName,
        })
    }
}

/// The reasons to refuse a handshake that both sides can tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefusalKind {
    /// No certificate was shown.
    NoCertificate,
    /// The certificate has not the form of a node's.
    Malformed,
    /// It is not by a trusted authority.
    UnknownIssuer,
    /// It has expired, or is not valid yet.
    NotValidNow,
    /// It is by an authority that is trusted no more.
    OldAuthority,
    /// Somebody cut it off.
    Revoked,
    /// It is of another fleet.
    WrongFleet,
    /// It is of another role.
    WrongRole,
    /// It is of another name.
    WrongName,
    /// The other side does not have the key that belongs to its certificate.
    WrongKey,
    /// The two sides share no version of the protocol.
    Version,
}

impl RefusalKind {
    const ALL: [Self; 11] = [
        Self::NoCertificate,
        Self::Malformed,
        Self::UnknownIssuer,
        Self::NotValidNow,
        Self::OldAuthority,
        Self::Revoked,
        Self::WrongFleet,
        Self::WrongRole,
        Self::WrongName,
        Self::WrongKey,
        Self::Version,
    ];

    /// The TLS alert that says it.
    fn alert(self) -> AlertDescription {
        match self {
            Self::NoCertificate => AlertDescription::CertificateRequired,
            Self::Malformed => AlertDescription::CertificateUnknown,
            Self::UnknownIssuer => AlertDescription::UnknownCA,
            Self::NotValidNow => AlertDescription::CertificateExpired,
            Self::OldAuthority => AlertDescription::BadCertificateStatusResponse,
            Self::Revoked => AlertDescription::CertificateRevoked,
            Self::WrongFleet => AlertDescription::AccessDenied,
            Self::WrongRole => AlertDescription::UnsupportedCertificate,
            Self::WrongName => AlertDescription::BadCertificate,
            Self::WrongKey => AlertDescription::DecryptError,
            Self::Version => AlertDescription::NoApplicationProtocol,
        }
    }

    /// QUIC carries the alert `a` as the error code 0x100 + `a` (RFC 9001, section 4.8).
    fn from_quic_code(code: u64) -> Option<Self> {
        let alert = u8::try_from(code.checked_sub(0x100)?).ok()?;
        Self::ALL
            .into_iter()
            .find(|kind| u8::from(kind.alert()) == alert)
    }
}

/// Which side ended a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedBy {
    /// We refused the peer.
    Us,
    /// The peer refused us.
    Peer,
}

/// A handshake that was refused, as far as its connection's error tells. `Display` is one line for
/// a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakeRefusal {
    /// By whom.
    pub by: RefusedBy,
    /// Why.
    pub kind: RefusalKind,
    /// The words of the refusing side's TLS library: printable ASCII, at most 256 bytes.
    pub words: String,
    /// Both clocks, where the peer refused our certificate for its time and says by which clock.
    pub clocks: Option<Clocks>,
}

/// What the two sides of a handshake say the time is, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// What the peer's clock says.
    pub theirs_unix_ms: u64,
    /// What ours says.
    pub ours_unix_ms: u64,
}

impl Clocks {
    /// Whether they are so far apart that one of them is wrong: by more than certificates allow for.
    pub fn is_skew(&self) -> bool {
        self.theirs_unix_ms.abs_diff(self.ours_unix_ms) > CLOCK_SKEW_SECS * 1000
    }

    /// What a refusing peer's words say of its clock, beside ours.
    fn of_words(words: &str) -> Option<Self> {
        let (_, after) = words.split_once(VERIFICATION_TIME)?;
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        let theirs: u64 = after[..digits].parse().ok()?;
        let ours = DefaultTimeProvider.current_time()?.as_secs();
        Some(Self {
            theirs_unix_ms: theirs.checked_mul(1000)?,
            ours_unix_ms: ours.checked_mul(1000)?,
        })
    }
}

/// What goes before the clock of who refuses a certificate for its time, in the words of rustls. Where a later one words it
/// otherwise, the clock is not known, and its words are shown all the same.
const VERIFICATION_TIME: &str = "verification time ";

/// What a connection's error says about a refused handshake; `None` where the connection failed for
/// another reason.
pub fn handshake_refusal(error: &ConnectionError) -> Option<HandshakeRefusal> {
    let (by, code, words) = match error {
        ConnectionError::TransportError(e) => (RefusedBy::Us, e.code, e.reason.as_bytes()),
        ConnectionError::ConnectionClosed(e) => (RefusedBy::Peer, e.error_code, &e.reason[..]),
        _ => return None,
    };
    let kind = RefusalKind::from_quic_code(code.into())?;
    let words: String = words.escape_ascii().map(char::from).take(256).collect();
    let is_for_time = (by, kind) == (RefusedBy::Peer, RefusalKind::NotValidNow);
    let clocks = is_for_time.then(|| Clocks::of_words(&words)).flatten();
    Some(HandshakeRefusal {
        by,
        kind,
        words,
        clocks,
    })
}

impl fmt::Display for HandshakeRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(clocks) = self.clocks {
            return clocks.fmt(f);
        }
        f.write_str(match (self.by, self.kind) {
            (RefusedBy::Us, RefusalKind::NoCertificate) => "the peer showed no certificate",
            (RefusedBy::Us, RefusalKind::Malformed) => "the peer's certificate is not a node's",
            (RefusedBy::Us, RefusalKind::UnknownIssuer) => {
                "no authority we trust certified the peer"
            }
            (RefusedBy::Us, RefusalKind::NotValidNow) => {
                "the peer's certificate has expired or is not valid yet"
            }
            (RefusedBy::Us, RefusalKind::OldAuthority) => {
                "the peer's certificate is of an authority that the fleet has moved away from"
            }
            (RefusedBy::Us, RefusalKind::Revoked) => "the peer is revoked",
            (RefusedBy::Us, RefusalKind::WrongFleet) => "the peer is of another fleet",
            (RefusedBy::Us, RefusalKind::WrongRole) => "the peer's role is not let in here",
            (RefusedBy::Us, RefusalKind::WrongName) => "the peer is not the host that was dialled",
            (RefusedBy::Us, RefusalKind::WrongKey) => {
                "the peer does not have the key of its certificate"
            }
            (RefusedBy::Us, RefusalKind::Version) => {
                "the peer speaks no version of the protocol that this side speaks"
            }
            (RefusedBy::Peer, RefusalKind::NoCertificate) => {
                "the peer refused us: it asks for a certificate and we showed none"
            }
            (RefusedBy::Peer, RefusalKind::Malformed) => {
                "the peer refused us: it does not take our certificate for a node's"
            }
            (RefusedBy::Peer, RefusalKind::UnknownIssuer) => {
                "the peer refused us: it does not trust the authority that certified us \
                 (hint: both ends need the ca.crt of the same fleet)"
            }
            (RefusedBy::Peer, RefusalKind::NotValidNow) => {
                "the peer refused us: by its clock our certificate has expired or is not valid yet \
                 (hint: compare the two clocks, then `scap-coordinator renew`)"
            }
            (RefusedBy::Peer, RefusalKind::OldAuthority) => {
                "the peer refused us: our certificate is of an old authority, which the fleet has moved away from \
                 (hint: enroll this host again)"
            }
            (RefusedBy::Peer, RefusalKind::Revoked) => {
                "the peer refused us: this node is revoked \
                 (hint: if it is to be back, enroll it again)"
            }
            (RefusedBy::Peer, RefusalKind::WrongFleet) => {
                "the peer refused us: it is of another fleet"
            }
            (RefusedBy::Peer, RefusalKind::WrongRole) => {
                "the peer refused us: it does not let our role in"
            }
            (RefusedBy::Peer, RefusalKind::WrongName) => {
                "the peer refused us: it dialled a host of another name"
            }
            (RefusedBy::Peer, RefusalKind::WrongKey) => {
                "the peer refused us: our key does not belong to our certificate"
            }
            (RefusedBy::Peer, RefusalKind::Version) => {
                "the peer refused us: it speaks no version of the protocol that this side speaks"
            }
        })?;
        match self.by {
            RefusedBy::Peer if !self.words.is_empty() => write!(f, " (it says: {})", self.words),
            _ => Ok(()),
        }
    }
}

/// Why a peer refused our certificate for its time.
impl fmt::Display for Clocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (theirs, ours) = (date(self.theirs_unix_ms), date(self.ours_unix_ms));
        if self.is_skew() {
            let apart = apart(self.theirs_unix_ms, self.ours_unix_ms);
            write!(
                f,
                "the peer refused us: clock skew of {apart}: its clock says {theirs}, by which our certificate is out of its \
                 time, and this clock says {ours} (hint: set the one that is wrong)"
            )
        } else {
            write!(
                f,
                "the peer refused us: our certificate is out of its time by both clocks: its clock says {theirs}, this clock \
                 says {ours} (hint: `scap-coordinator renew` renews it for up to {RENEWAL_GRACE_DAYS} days after its end)"
            )
        }
    }
}

impl std::error::Error for HandshakeRefusal {}

fn words(roles: &[Role]) -> String {
    let roles: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
    roles.join(" or ")
}

/// How far two times are apart, as people say it.
fn apart(one_unix_ms: u64, other_unix_ms: u64) -> String {
    match one_unix_ms.abs_diff(other_unix_ms) / 1000 {
        seconds if seconds >= 2 * 24 * 3600 => format!("{} days", seconds / (24 * 3600)),
        seconds if seconds >= 2 * 3600 => format!("{} h", seconds / 3600),
        seconds => format!("{seconds} s"),
    }
}

fn unix_time(unix_ms: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_millis(unix_ms))
}

fn date(unix_ms: u64) -> String {
    i64::try_from(unix_ms / 1000)
        .ok()
        .and_then(|secs| Timestamp::from_second(secs).ok())
        .map_or_else(
            || format!("{unix_ms} ms after 1970"),
            |date| date.to_string(),
        )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3600 * 1000;

    fn clocks(theirs: u64, ours: u64) -> Clocks {
        Clocks {
            theirs_unix_ms: theirs,
            ours_unix_ms: ours,
        }
    }

    #[test]
    fn e3_clocks_that_are_far_apart_are_named_as_skew_and_those_that_agree_are_not() {
        let now = 20_000 * DAY;
        for (theirs, apart) in [(now + 400 * DAY, "400 days"), (now - 7_200_000, "2 h")] {
            let text = clocks(theirs, now).to_string();
            assert!(text.contains(&format!("clock skew of {apart}")), "{text}");
            assert!(text.contains("set the one that is wrong"), "{text}");
        }
        let text = clocks(now + 3_600_000, now).to_string();
        assert!(!text.contains("skew"), "{text}");
        assert!(text.contains("by both clocks"), "{text}");
        assert!(text.contains("scap-coordinator renew"), "{text}");
    }

    #[test]
    fn the_clock_of_who_refuses_is_read_from_what_rustls_says_and_from_nothing_else() {
        let refusal = Refusal::Expired {
            peer: PeerIdentity {
                fleet: "prod".parse().unwrap(),
                role: Role::Agent,
                name: "web1".parse().unwrap(),
            },
            validity: Validity {
                not_before_unix_ms: 0,
                not_after_unix_ms: 5 * DAY,
            },
            now_unix_ms: 7 * DAY,
        };
        let words = TlsError::from(&refusal).to_string();
        let read = Clocks::of_words(&words).unwrap();
        assert_eq!(read.theirs_unix_ms, 7 * DAY, "{words}");
        assert!(read.is_skew());
        for words in [
            "",
            "verification time",
            "verification time x",
            "verification time 99999999999999999999",
            "verification time 18446744073709551615",
        ] {
            assert_eq!(Clocks::of_words(words), None, "{words}");
        }
    }
}
