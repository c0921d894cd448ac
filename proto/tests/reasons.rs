//! The codes of reasons: they never change, and each has its section in the guide.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use scap_proto::reason::{REASON_CODE_BYTES_MAX, Reason, ReasonError};

/// As scripts, records and other builds know them. None is ever taken away or spelled otherwise.
const GOLDEN: &str = "
    chunks promotion external-check soak approval paused budget grant rollback finalization
    first-chunk local-disk no-peers in-flight peers-paused pushes other-releases nobody-has peers-busy
    activator check service port
    too-few-peers for-others led gone-back equivocation stale
    outside-plan outside-audience no-membership state-lost
    check-failed check-timeout template-error service-failed port-silent disk-full read-only unsafe-path path-taken busy
    io-error missing-chunk bad-content forbidden-name bad-config bad-plan record-damaged not-prepared not-live activator-lost
    went-back-by-itself live-no-more failed
    refused-signature refused-malformed refused-expired refused-environment refused-audience refused-target
    refused-sequence refused-epoch refused-equivocation refused-finalized refused-lapsed refused-floor refused-gone-back
    refused-plan refused-state refused-jump refused-origin refused-signers refused-commit
    refused
    stalled unreachable no-report unconfirmed skipped
    wrong-bytes slow-peer broken-promises broken-streams reads-nothing asks-too-much dials-too-often broke-protocol
    certificate-expired clock-skew not-enrolled
    budget-exceeded external-check-failed aborted was-going-back taken-over interrupted hosts-lost none-live
    host-key-unknown host-key-changed ssh-refused ssh-failed ssh-timeout ssh-output bad-request agent-failed
    token-unknown token-used token-expired token-revoked token-other-host token-refused enroll-stranger enroll-limited
    enroll-broken
    revoked old-authority trust-lost not-confined local-user
";

#[test]
fn every_code_is_as_it_always_was_and_is_read_back() {
    let codes: Vec<&str> = Reason::ALL.iter().map(Reason::as_str).collect();
    assert_eq!(codes, GOLDEN.split_whitespace().collect::<Vec<_>>());
    assert_eq!(codes.iter().collect::<BTreeSet<_>>().len(), codes.len());
    for reason in Reason::ALL {
        let code = reason.as_str();
        assert_eq!(code.parse(), Ok(*reason));
        assert_eq!(reason.known(), Some(code));
        assert_eq!(reason.to_string(), code);
        assert!(code.len() <= REASON_CODE_BYTES_MAX);
    }
}

#[test]
fn a_code_of_a_later_build_is_kept_as_it_is_and_what_is_no_code_is_refused() {
    let longest = "x".repeat(REASON_CODE_BYTES_MAX);
    for code in ["moon-phase", "a", "x86-64", longest.as_str()] {
        let other: Reason = code.parse().unwrap();
        assert!(matches!(other, Reason::Other(_)));
        assert_eq!((other.as_str(), other.known()), (code, None));
        assert_eq!(other.to_string().parse(), Ok(other));
    }
    let too_long = "x".repeat(REASON_CODE_BYTES_MAX + 1);
    for text in [
        "",
        "-a",
        "7",
        "Soak",
        "so ak",
        "soak\n",
        "\u{1b}[31m",
        "größe",
        &too_long,
    ] {
        assert_eq!(text.parse::<Reason>(), Err(ReasonError), "{text:?}");
    }
}

#[test]
fn every_code_has_a_section_in_the_guide_and_every_section_a_code() {
    let guide = include_str!("../../docs/reasons.md");
    let headings = guide.lines().filter_map(|line| line.strip_prefix("### "));
    let headings: Vec<&str> = headings.collect();
    let codes: Vec<&str> = Reason::ALL.iter().map(Reason::as_str).collect();
    assert_eq!(headings, codes, "in the order of the list");
}
