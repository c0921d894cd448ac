//! What a host is answered that asked for a certificate, in bytes; and that nobody's bytes harm who reads them.

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};
use scap_proto::{
    extensions::Extensions,
    identity::{Enrolment, EnrolmentError, IdentityRequest},
    limits::{ENROLMENT_BYTES_MAX, ENROLMENT_TRUST_PARTS_MAX, EXTENSION_BYTES_MAX},
};

use crate::objects::golden;

const ENROLMENT: &str = "
    736361702d656e726f6c6d656e742f310a      # scap-enrolment/1\\n
    04 63657274                             # certificate
    02 6361                                 # authorities
    01 03 77686f                            # who may release
    00                                      # no host.toml
    01 02 00ff                              # membership
    00                                      # no extensions
";

fn enrolment() -> Enrolment {
    Enrolment {
        certificate: "cert".into(),
        authorities: "ca".into(),
        allowed_signers: Some(Bytes::from_static(b"who")),
        host: None,
        membership: Some(Bytes::from_static(b"\x00\xff")),
        extensions: Extensions::default(),
    }
}

#[test]
fn an_enrolment_is_these_bytes() {
    let bytes = enrolment().encode();
    assert_eq!(bytes, golden(ENROLMENT));
    assert_eq!(Enrolment::decode(&bytes).unwrap(), enrolment());
}

const TRUST: &str = "
    02                                      # two extensions
    02 fb0010 AA                            # the first part of whose certificates count, 4096 bytes
    04 01 bb                                # the rest
";

#[test]
fn whose_certificates_count_is_in_extensions_of_an_enrolment_in_parts() {
    let kept = [vec![0xaa; 4096], vec![0xbb]].concat();
    let with_trust = enrolment().with_trust(&kept).unwrap();
    let bytes = with_trust.encode();
    let trust = golden(&TRUST.replace("AA", &"aa".repeat(4096)));
    let before = golden(ENROLMENT);
    assert_eq!(bytes, [&before[..before.len() - 1], &trust].concat());
    let read = Enrolment::decode(&bytes).unwrap();
    assert_eq!(read.trust().unwrap(), kept);
    assert_eq!(enrolment().trust(), None);
    let most = vec![0; ENROLMENT_TRUST_PARTS_MAX * EXTENSION_BYTES_MAX];
    let most = enrolment().with_trust(&most).unwrap();
    assert!(Enrolment::decode(&most.encode()).is_ok());
    let more = vec![0; ENROLMENT_TRUST_PARTS_MAX * EXTENSION_BYTES_MAX + 1];
    assert!(enrolment().with_trust(&more).is_err());
}

#[test]
fn other_bytes_are_refused_and_an_unknown_extension_that_must_be_known_too() {
    let bytes = enrolment().encode();
    for end in 0..bytes.len() {
        assert!(Enrolment::decode(&bytes[..end]).is_err(), "{end} bytes");
    }
    let longer = [bytes.as_slice(), b"x"].concat();
    assert!(Enrolment::decode(&longer).is_err());
    let longest = vec![b' '; ENROLMENT_BYTES_MAX + 1];
    let refused = Enrolment::decode(&longest);
    assert!(matches!(refused, Err(EnrolmentError::TooLong)));
    for (tag, is_taken) in [(2, true), (3, false)] {
        let mut grown = enrolment();
        grown.extensions = grown.extensions.with(tag, Bytes::new()).unwrap();
        assert_eq!(Enrolment::decode(&grown.encode()).is_ok(), is_taken);
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_request_or_an_enrolment_panic(bytes in vec(any::<u8>(), 0..600)) {
        let _ = IdentityRequest::parse(&bytes);
        let _ = Enrolment::decode(&bytes);
        let behind_magic = [b"scap-enrolment/1\n", bytes.as_slice()].concat();
        let _ = Enrolment::decode(&behind_magic);
    }
}
