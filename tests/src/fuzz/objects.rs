//! Signed objects, twice: as they come, by somebody who is nobody here, and with a good signature on whatever they say.

use std::fmt::Debug;

use bytes::Bytes;
use scap_proto::{
    codec,
    id::{PlanId, ReleaseId},
    limits::{
        DELTAS_MAX, DIRECTIVE_TARGETS_MAX, HOST_ADDRESSES_MAX, HOST_CONFIG_BYTES_MAX,
        HOST_RELAYS_MAX, MEMBERSHIP_NAMES_MAX, PLAN_HOSTS_MAX, REASON_BYTES_MAX,
        ROSTER_PAGE_HOSTS_MAX,
    },
    release::{
        AuthorityError, ConfigQuestion, Directive, Finalization, Grant, HostConfig, LeafSigned,
        Lease, Membership, Outcome, Plan, Release, Report, Roster, SignedConfigQuestion,
        SignedDirective, SignedFinalization, SignedGrant, SignedLease, SignedMembership,
        SignedRelease, SignedReport, SignedRoster, Targets,
        signature::{AllowedSigners, SSH_SIGNATURE_BYTES_MAX, SshSignature},
        signed::SignedObject,
    },
};

use super::{
    insider::{INSIDER, Insider, NOW},
    shown, value,
};

/// A release with its signatures, of which none is by anybody who may sign.
pub fn release(bytes: &[u8]) {
    let Some(signed) = value::<SignedRelease>(bytes) else {
        return;
    };
    assert_eq!(signed.id(), ReleaseId::of(&signed.payload));
    if let Ok(release) = signed.read_unverified().map_err(shown) {
        release.priority();
    }
    let refused = signed.verify(&INSIDER.authority(), NOW);
    let refused = refused.expect_err("nobody signed it who may");
    refused.code();
    shown(refused);
}

/// The text of a signature as `ssh-keygen -Y sign` makes it.
pub fn signature(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(signature) = text.parse::<SshSignature>().map_err(shown) else {
        return;
    };
    assert!(signature.as_str().len() <= SSH_SIGNATURE_BYTES_MAX);
    let again: SshSignature = signature.as_str().parse().expect("its own text");
    assert_eq!(again, signature);
    assert!(!signature.fingerprint().is_empty());
    let message = b"no message that anybody signed";
    let by_anybody = INSIDER
        .signers
        .verify(signature.namespace(), message, &signature, NOW.0);
    shown(by_anybody.expect_err("nobody signed that"));
}

/// An `allowed_signers` file, by which a signature of somebody else is looked at.
pub fn allowed_signers(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(signers) = text.parse::<AllowedSigners>().map_err(shown) else {
        return;
    };
    let signed = INSIDER.release.signed();
    let namespace = INSIDER.release.release().namespace();
    for signature in &signed.signatures {
        let by = signers.verify(&namespace, &signed.payload, signature, NOW.0);
        shown(by.expect_err("no file has the key that this process made"));
    }
}

/// Something that a node signed, of a fleet that is not this one.
pub fn leaf(bytes: &[u8]) {
    let Some(signed) = value::<LeafSigned>(bytes) else {
        return;
    };
    let trust = INSIDER.agent.trust();
    assert!(signed.signer(trust, NOW).is_none(), "nobody here signed it");
    if let Err(refusal) = trust.check(&signed.certificate, NOW.0) {
        shown(refusal);
    }
}

/// The payload of any signed object; somebody who may signs it.
pub fn objects(payload: &[u8]) {
    release_payload(payload);
    grant_payload(payload);
    directive_payload(payload);
    finalization_payload(payload);
    report_payload(payload);
    roster_payload(payload);
    lease_payload(payload);
    membership_payload(payload);
    question_payload(payload);
}

/// Reads a payload, and what it says is the same when it is written again.
fn read<T: SignedObject + PartialEq + Debug>(payload: &[u8]) -> Option<T> {
    let object = T::from_payload(payload).map_err(shown).ok()?;
    let ours = object.to_payload();
    assert!(ours.len() <= payload.len(), "it grows: {object:?}");
    let again = T::from_payload(&ours).expect("what we encode, we decode");
    assert_eq!(object, again);
    Some(object)
}

/// What was verified is what was signed. A refusal is for what it says, not for who signed it.
fn judged<T: PartialEq + Debug>(said: &T, verdict: Result<T, AuthorityError>) -> bool {
    match verdict {
        Ok(verified) => {
            assert_eq!(*said, verified, "what counts is what was signed");
            true
        }
        Err(error) => {
            let is_of_signature = matches!(
                error,
                AuthorityError::Signers { .. } | AuthorityError::SessionSignature
            );
            assert!(!is_of_signature, "signed by who may: {error:?}");
            error.code();
            shown(error);
            false
        }
    }
}

fn release_payload(payload: &[u8]) {
    let Some(release) = read::<Release>(payload) else {
        return;
    };
    let namespace = release.namespace();
    let signature = INSIDER.signer.sign(&namespace, payload);
    let signed = SignedRelease {
        payload: Bytes::copy_from_slice(payload),
        signatures: vec![signature.expect("a namespace is not empty")],
    };
    let verified = signed.verify(&INSIDER.authority(), NOW);
    release.commit_object();
    if judged(&release, verified.map(|it| it.release().clone())) {
        assert!(release.deltas.len() <= DELTAS_MAX);
    }
}

fn grant_payload(payload: &[u8]) {
    let Some(grant) = read::<Grant>(payload) else {
        return;
    };
    let namespace = INSIDER.release.release().namespace();
    let signature = INSIDER.signer.sign(&namespace, payload);
    let signed = SignedGrant {
        payload: Bytes::copy_from_slice(payload),
        signature: signature.expect("a namespace is not empty"),
    };
    let _ = signed.signers().map_err(shown);
    let _ = grant.origin(INSIDER.agent.trust(), NOW).map_err(shown);
    let verified = signed.verify(&INSIDER.release, &INSIDER.authority(), NOW);
    if judged(&grant, verified.map(|it| it.grant().clone())) {
        assert_eq!(grant.release, INSIDER.release.id());
    }
}

fn directive_payload(payload: &[u8]) {
    let Some(directive) = read::<Directive>(payload) else {
        return;
    };
    directive.dead_man();
    let signed: SignedDirective = INSIDER.by_session(payload);
    if judged(&directive, signed.verify(&INSIDER.grant)) {
        assert_eq!(directive.release, INSIDER.release.id());
        assert_eq!(directive.epoch, INSIDER.grant.grant().epoch);
        if let Targets::Only(hosts) = &directive.targets {
            assert!(hosts.len() <= DIRECTIVE_TARGETS_MAX);
            let targets = &directive.targets;
            let missed = hosts.iter().find(|host| !targets.include(host));
            assert_eq!(missed, None, "who is named is meant");
        }
    }
}

fn finalization_payload(payload: &[u8]) {
    let Some(finalization) = read::<Finalization>(payload) else {
        return;
    };
    let signed: SignedFinalization = INSIDER.by_session(payload);
    let verdict = signed.verify(&INSIDER.release, &INSIDER.grant);
    if judged(&finalization, verdict) {
        finalization.reach().expect("it was verified");
        assert_eq!(finalization.sequence, INSIDER.release.release().sequence);
    }
}

fn report_payload(payload: &[u8]) {
    let Some(report) = read::<Report>(payload) else {
        return;
    };
    let _ = report.step().map(|step| step.to_string());
    report.reason();
    report.live_snapshot();
    report.refused_release();
    report.held_plan();
    report.trust();
    let (agent, trust) = (&INSIDER.agent, INSIDER.agent.trust());
    let signed = SignedReport(Insider::by_leaf(agent, payload));
    if judged(&report, signed.verify(trust, NOW)) {
        assert_eq!(report.host, agent.own().name, "of another host");
        if let Outcome::Failed { reason } | Outcome::Refused { reason } = &report.outcome {
            assert!(reason.len() <= REASON_BYTES_MAX);
        }
    }
    let other = SignedReport(Insider::by_leaf(&INSIDER.coordinator, payload));
    assert!(other.verify(trust, NOW).is_err(), "signed by another node");
}

fn roster_payload(payload: &[u8]) {
    let Some(roster) = read::<Roster>(payload) else {
        return;
    };
    let trust = INSIDER.agent.trust();
    let signed = |by| SignedRoster(Insider::by_leaf(by, payload));
    if judged(&roster, signed(&INSIDER.coordinator).verify(trust, NOW)) {
        assert!((1..=ROSTER_PAGE_HOSTS_MAX).contains(&roster.hosts.len()));
        let relays = roster.relays().expect("it was verified");
        assert!(relays.len() <= HOST_RELAYS_MAX);
    }
    assert!(signed(&INSIDER.agent).verify(trust, NOW).is_err());
}

fn lease_payload(payload: &[u8]) {
    let Some(lease) = read::<Lease>(payload) else {
        return;
    };
    let trust = INSIDER.agent.trust();
    let signed = |by| SignedLease(Insider::by_leaf(by, payload));
    let by_coordinator = signed(&INSIDER.coordinator);
    assert_eq!(
        by_coordinator.relay_unverified().as_ref(),
        Some(&lease.relay)
    );
    if judged(&lease, by_coordinator.verify(trust, NOW)) {
        assert!(lease.expires > NOW);
    }
    assert!(signed(&INSIDER.agent).verify(trust, NOW).is_err());
}

fn membership_payload(payload: &[u8]) {
    let Some(membership) = read::<Membership>(payload) else {
        return;
    };
    let trust = INSIDER.agent.trust();
    let signed = |by| SignedMembership(Insider::by_leaf(by, payload));
    let host = &INSIDER.agent.own().name;
    if judged(
        &membership,
        signed(&INSIDER.coordinator).verify(trust, host, NOW),
    ) {
        assert_eq!(membership.host, *host, "of another host");
        assert!(membership.environments.len() <= MEMBERSHIP_NAMES_MAX);
        assert!(membership.audiences.len() <= MEMBERSHIP_NAMES_MAX);
    }
    assert!(signed(&INSIDER.agent).verify(trust, host, NOW).is_err());
}

fn question_payload(payload: &[u8]) {
    let Some(question) = read::<ConfigQuestion>(payload) else {
        return;
    };
    // That of the releases that it is about.
    let namespace = format!("scap-release:{}:{}", question.environment, question.repo);
    let signature = INSIDER.signer.sign(&namespace, payload);
    let signed = SignedConfigQuestion {
        payload: Bytes::copy_from_slice(payload),
        signatures: vec![signature.expect("a namespace is not empty")],
    };
    let host = &INSIDER.agent.own().name;
    match signed.verify(&INSIDER.authority(), &question.asker, host, NOW) {
        Ok(verified) => {
            assert_eq!(verified, question);
            assert!(question.hosts.contains(host), "for another host");
        }
        Err(error) => {
            shown(error);
        }
    }
    let other = signed.verify(&INSIDER.authority(), &[0; 32], host, NOW);
    assert!(other.is_err() || question.asker == [0; 32], "another asks");
}

/// A plan, whose name is its hash.
pub fn plan(bytes: &[u8]) {
    let id = PlanId::of(bytes);
    let Ok(plan) = Plan::decode(id, bytes).map_err(shown) else {
        return;
    };
    assert!(plan.hosts.len() <= PLAN_HOSTS_MAX);
    let again = plan.encode();
    assert_eq!(Plan::decode(again.0, &again.1).ok().as_ref(), Some(&plan));
    plan.seed_site();
    let routes = plan.routes();
    for (place, host) in (0..).zip(&plan.hosts) {
        assert!(host.addresses.len() <= HOST_ADDRESSES_MAX);
        assert!(routes.relays(place).len() <= HOST_RELAYS_MAX);
        assert_eq!(plan.host(&host.name), Some(host), "a search finds it");
        plan.site_of(&host.name);
        plan.reaches(&plan.seed, &host.name);
        assert!(plan.reaches(&host.name, &host.name));
    }
}

/// What hosts render, check and restart for a release.
pub fn host_config(bytes: &[u8]) {
    let Ok(config) = HostConfig::decode(bytes).map_err(shown) else {
        return;
    };
    assert!(bytes.len() <= HOST_CONFIG_BYTES_MAX);
    let ours = config.encode().expect("it came in no more bytes");
    assert!(ours.len() <= bytes.len());
    assert_eq!(HostConfig::decode(&ours).ok().as_ref(), Some(&config));
    config.repeats().expect("it was decoded");
    config.asks_nothing();
    for file in &config.config_files {
        let path = file.destination.to_string();
        assert!(!path.is_empty() && !path.split('/').any(|name| name == ".."));
    }
    assert_eq!(codec::encode(&config), ours[HostConfig::MAGIC.len()..]);
}
