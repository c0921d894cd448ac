//! Who is in the fleet.
//!
//! A fleet has one private certificate authority ([`CertificateAuthority`]), one level deep. Each
//! node has an Ed25519 key that never leaves it ([`SecretKey`]) and a certificate that names its
//! fleet, role and name ([`PeerIdentity`], as the URI `scap://<fleet>/<role>/<name>`). Both live in
//! one directory ([`Identity`]) beside the authorities whose nodes it trusts ([`Trust`]). The key
//! answers for the node in TLS handshakes ([`verifier`]) and signs its reports; what else of the host verifies has no
//! key ([`PublicIdentity`]). [`Refusal`] says why a peer is not let in.
//!
//! Who is in the fleet changes by a numbered [`FleetTrust`], signed by an authority: it says which authorities count from
//! then on, and who is cut off.
//!
//! A host that makes its key itself asks with an [`IdentityRequest`], and what it gets is an [`Enrolment`], which
//! [`install`] makes its identity.
//!
//! Identity says who somebody is, never what may be done: for that see [`crate::release`].

pub mod install;
pub mod verifier;

mod authority;
mod believed;
mod bundle;
mod enrolment;
mod file;
mod fleet;
mod fleet_trust;
mod keep;
mod key;
mod peer;
mod pin;
mod public;
mod refusal;
mod renewal;
mod request;
mod trust;
mod vouched;

pub use self::{
    authority::{
        AUTHORITY_VALIDITY_DAYS, AuthorityError, CLOCK_SKEW_SECS, Certificate,
        CertificateAuthority, LEAF_VALIDITY_DAYS, Validity,
    },
    bundle::{
        Identity, IdentityError, RenewError, authority_validities, certificate_key, key_file,
    },
    enrolment::{Enrolment, EnrolmentError},
    file::{FileError, lock_file},
    fleet::{FleetName, ParseFleetError, Role},
    fleet_trust::{Denial, Denied, FleetTrust, FleetTrustError, SignedFleetTrust, TrustMark},
    keep::{KeepError, Kept, Offered},
    key::{KeyError, PUBLIC_KEY_BYTES, SIGNATURE_BYTES, SecretKey, verify},
    peer::PeerIdentity,
    pin::{AuthorityPin, ParsePinError},
    public::PublicIdentity,
    refusal::{Clocks, HandshakeRefusal, Refusal, RefusalKind, RefusedBy, handshake_refusal},
    renewal::{Life, RENEWAL_GRACE_DAYS, RENEWAL_GRACE_MS},
    request::{IdentityRequest, REQUEST_BYTES_MAX, RequestError, key_fingerprint},
    trust::{LeafSignatureError, Trust},
    vouched::{LIFTS_MAX, VOUCHED_GRANTS_MAX, VouchedSigners},
};
pub(crate) use self::{
    file::{create_file, create_secret_file, read_file, read_secret_file},
    peer::{leaf_key, leaf_validity},
    pin::{AnyNewcomer, newcomer_resolver},
    trust::provider,
};
