//! What decides whom a host believes from now on: fleet trusts, signers files, and what enrolment sends both ways.

use std::num::NonZeroUsize;

use scap_proto::{
    identity::{
        Enrolment, FleetTrust, IdentityRequest, REQUEST_BYTES_MAX, TrustMark, key_fingerprint,
    },
    release::{SignedSigners, SignersInForce, signed::SignedObject},
};

use super::{
    insider::{INSIDER, NOW},
    shown, value,
};

/// The payload of a fleet trust, of which everything is looked at that does not depend on who signed it.
pub fn fleet_trust(bytes: &[u8]) {
    if let Some(mark) = TrustMark::from_bytes(bytes) {
        assert_eq!(mark.to_bytes(), bytes[..TrustMark::BYTES]);
    }
    let Ok(trust) = FleetTrust::from_payload(bytes).map_err(shown) else {
        return;
    };
    let again = FleetTrust::from_payload(&trust.to_payload());
    assert_eq!(again.ok().as_ref(), Some(&trust));
    if trust.check().map_err(shown).is_ok() {
        assert!(trust.number > 0 && !trust.authorities.is_empty());
    }
}

/// A link of the chain of signers files, by somebody who may not sign the next.
pub fn signers(bytes: &[u8]) {
    let Some(link) = value::<SignedSigners>(bytes) else {
        return;
    };
    let _ = link.encode().map_err(shown);
    let Ok(file) = link.read_unverified().map_err(shown) else {
        return;
    };
    let fleet = &INSIDER.agent.own().fleet;
    let number = file.number.wrapping_sub(1);
    let Ok(before) = SignersInForce::new(number, INSIDER.signers_text.clone()) else {
        panic!("the insider's own file is one");
    };
    let next = before.next(&link, fleet, NonZeroUsize::MIN, NOW);
    shown(next.expect_err("no file follows that nobody signed who may"));
}

/// What a host gets that is enrolled, and what it asked for.
pub fn enrolment(bytes: &[u8]) {
    if let Ok(enrolment) = Enrolment::decode(bytes).map_err(shown) {
        let ours = enrolment.encode();
        assert!(ours.len() <= bytes.len());
        assert_eq!(Enrolment::decode(&ours).ok(), Some(enrolment));
    }
    if let Ok(request) = IdentityRequest::parse(bytes).map_err(shown) {
        assert!(bytes.len() <= REQUEST_BYTES_MAX);
        assert!(key_fingerprint(request.public_key()).starts_with("SHA256:"));
    }
}
