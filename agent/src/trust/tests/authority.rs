//! How many keys a release takes and from where, and keys that change.

use scap_proto::{
    identity::{Denial, Denied, FleetTrust, SignedFleetTrust, VouchedSigners},
    release::{SignedSigners, SignersFile},
};

use super::*;

impl World {
    /// The order that this draft becomes, with these signatures and, in its grant, what `grant` makes of it.
    fn sign_by(
        &self,
        draft: &Draft,
        signers: &[&Signer],
        grant: impl FnOnce(Grant) -> Grant,
    ) -> Order {
        let mut order = self.sign(draft);
        let namespace = draft.release.namespace();
        let by = |signer: &&Signer| signer.sign(&namespace, &order.release.payload).unwrap();
        order.release.signatures = signers.iter().map(by).collect();
        let granted = grant(draft.grant(order.release.id(), &self.session));
        order.grant = SignedGrant::sign(&granted, &namespace, signers[0]).unwrap();
        order
    }

    fn node(&self, role: Role, name: &str) -> Identity {
        let node = self.fleet.node(role, name.parse().unwrap());
        let path = self.directory.path().join(name);
        Identity::create(&path, &self.fleet, &node, Validity::leaf(NOW.0)).unwrap()
    }

    /// The link to a file in which these may do everything, by those.
    pub(super) fn link(
        &self,
        before: &SignersInForce,
        who: &[&Signer],
        by: &[&Signer],
    ) -> SignedSigners {
        let line = |signer: &&Signer| {
            allowed_signers_line("d", "scap-release:*,scap-signers:*", signer.public_key()) + "\n"
        };
        let mut link = SignedSigners::unsigned(&SignersFile {
            number: before.number() + 1,
            previous: before.hash(),
            text: who.iter().map(line).collect(),
            expires: EXPIRES,
            extensions: Extensions::default(),
        });
        for signer in by {
            link.sign(&"prod".parse().unwrap(), signer).unwrap();
        }
        link
    }
}

/// Draft number 1 for this repo and environment.
fn draft_for(repo: &str, environment: &str) -> Draft {
    let mut draft = Draft::new(1);
    draft.release.repo = repo.parse().unwrap();
    draft.release.environment = environment.parse().unwrap();
    draft
}

#[test]
fn b8_a_repo_in_one_environment_takes_two_keys_where_others_take_one() {
    let world = World::with_host_file(
        "[[signatures]]\nrepo = \"mw/config\"\nenvironment = \"production\"\nmin = 2\n",
    );
    let enough = |repo: &str, environment: &str, signers: &[&Signer]| {
        let order = world.sign_by(&draft_for(repo, environment), signers, |grant| grant);
        world.verify(order).is_ok()
    };
    let (one, two) = (&world.deployer, &world.colleague);
    assert!(!enough("mw/config", "production", &[one]));
    assert!(!enough("mw/config", "production", &[one, one]));
    // The apprentice may sign for staging alone.
    assert!(!enough(
        "mw/config",
        "production",
        &[one, &world.apprentice]
    ));
    assert!(enough("mw/config", "production", &[one, two]));
    assert!(enough("mw/config", "staging", &[&world.apprentice]));
    assert!(enough("mw/other", "production", &[one]));
}

#[test]
fn t7_a_release_is_followed_from_the_deployment_hosts_that_are_named_alone() {
    let world = World::with_host_file("origins = [\"deploy1\", \"deploy2\"]\n");
    let [deploy1, deploy3] = ["deploy1", "deploy3"].map(|it| world.node(Role::Coordinator, it));
    let from = |origin: Option<&Identity>| {
        world.sign_by(&Draft::new(1), &[&world.deployer], |grant| match origin {
            Some(identity) => grant.from_origin(identity),
            None => grant,
        })
    };
    assert!(world.verify(from(Some(&deploy1))).is_ok());
    // A thief of the deployer's key, somewhere else.
    let error = world.refusal(from(None));
    assert!(matches!(error, AuthorityError::Origin), "{error}");
    assert_eq!(error.code(), Reason::RefusedOrigin);
    let error = world.refusal(from(Some(&deploy3)));
    let text = error.to_string();
    assert_eq!(
        text,
        "directed from deploy3, and this host follows deploy1, deploy2 alone"
    );
    assert_eq!(error.code(), Reason::RefusedOrigin);

    // What is stable stays so when the certificate of who made it so is over.
    let order = from(Some(&deploy1));
    let release = order.release.clone();
    let verified = {
        let followed = world.trust.following.now();
        let about = &Draft::new(1).release;
        let authority = world
            .trust
            .authority(&followed, &about.repo, &about.environment);
        release.verify(&authority, NOW).unwrap()
    };
    let finalization = Finalization::of(&verified);
    let finalize = Finalize {
        release: order.release.clone(),
        grant: order.grant.clone(),
        finalization: SignedFinalization::sign(&finalization, &world.session),
    };
    let over = UnixMillis(deploy1.validity().not_after_unix_ms + 1);
    assert!(world.trust.verify_finalization(finalize, over).is_ok());
    assert!(world.trust.verify_order(order, over).is_err());
}

#[test]
fn e5_what_is_stable_by_a_certificate_that_counts_no_more_stays_so_where_the_authority_knows_its_grant()
 {
    let world = World::with_host_file("origins = [\"deploy1\"]\n");
    let deploy1 = world.node(Role::Coordinator, "deploy1");
    let stable = |sequence: u64| {
        let draft = Draft::new(sequence);
        let order = world.sign_by(&draft, &[&world.deployer], |grant| {
            grant.from_origin(&deploy1)
        });
        let finalize = world.finalize(&draft);
        Finalize {
            release: order.release,
            grant: order.grant,
            ..finalize
        }
    };
    let (before, after) = (stable(1), stable(2));
    assert!(world.trust.verify_finalization(before.clone(), NOW).is_ok());
    let revoked = FleetTrust {
        fleet: "prod".parse().unwrap(),
        number: 1,
        issued: NOW,
        authorities: world.trust.identity.trust().authorities(),
        retired: Vec::new(),
        denials: vec![Denial {
            who: Denied::Key(*deploy1.public_key()),
            reason: "stolen".to_owned(),
            since: NOW,
            is_enrolled_again: false,
        }],
        extensions: Extensions::default(),
    };
    let tell = |trust: &FleetTrust| {
        let signed = SignedFleetTrust::sign(trust, &world.fleet);
        world.trust.identity.trust().offer(signed).unwrap();
    };
    tell(&revoked);
    let refused = world.trust.verify_finalization(before.clone(), NOW);
    assert_eq!(refused.unwrap_err().code(), Reason::RefusedOrigin);
    let known = [before.grant.hash()];
    let vouching = FleetTrust {
        number: 2,
        ..revoked
    };
    tell(&vouching.with_grants(known.into_iter()));
    assert!(world.trust.verify_finalization(before.clone(), NOW).is_ok());
    // Nothing begins by it, and whoever holds the key makes nothing else stable.
    let order = Order {
        release: before.release,
        grant: before.grant,
        directive: world.sign(&Draft::new(1)).directive,
        plan: None,
    };
    assert_eq!(world.refusal(order).code(), Reason::RefusedOrigin);
    assert!(world.trust.verify_finalization(after, NOW).is_err());
}

#[test]
fn b9_an_authority_that_vouches_for_a_signers_file_brings_a_host_that_was_away_to_it() {
    let world = World::new();
    let first = world.trust.following.now().signers.clone();
    let (old, new) = (&world.deployer, &world.stranger);
    let ending = |signer: &Signer| {
        let line = allowed_signers_line("d", "scap-signers:*,scap-release:*", signer.public_key());
        line.replace(
            "namespaces=",
            "valid-before=\"20260103030405Z\",namespaces=",
        )
    };
    let day = UnixMillis(NOW.0 + 2 * 86_400_000);
    // A first file whose key ends a day from now, and a second by it.
    let one = NonZeroUsize::MIN;
    let mut to_ending = SignedSigners::unsigned(&SignersFile {
        number: 1,
        previous: first.hash(),
        text: ending(old),
        expires: UnixMillis(u64::MAX),
        extensions: Extensions::default(),
    });
    to_ending.sign(&"prod".parse().unwrap(), old).unwrap();
    let second = first.next(&to_ending, &"prod".parse().unwrap(), one, NOW);
    let second = second.unwrap();
    let mut to_new = world.link(&second, &[new], &[old, new]);
    let mut file = to_new.read_unverified().unwrap();
    file.expires = UnixMillis(u64::MAX);
    to_new = SignedSigners::unsigned(&file);
    for signer in [old, new] {
        to_new.sign(&"prod".parse().unwrap(), signer).unwrap();
    }
    let mut draft = Draft::new(1);
    draft.release.expires = UnixMillis(u64::MAX);
    let chain = [to_ending, to_new];
    let order = world.sign_by(&draft, &[new], |grant| grant.with_signers(&chain).unwrap());
    let verify = || world.trust.verify_order(order.clone(), day);
    let Err(OrderError::Authority(refused)) = verify() else {
        panic!("nobody says that it is the true way");
    };
    assert_eq!(refused.code(), Reason::RefusedSigners);
    let trust = FleetTrust {
        fleet: "prod".parse().unwrap(),
        number: 1,
        issued: NOW,
        authorities: world.trust.identity.trust().authorities(),
        retired: Vec::new(),
        denials: Vec::new(),
        extensions: Extensions::default(),
    };
    let vouched = VouchedSigners {
        number: 2,
        hash: *blake3::hash(file.text.as_bytes()).as_bytes(),
    };
    let signed = SignedFleetTrust::sign(&trust.with_signers(vouched), &world.fleet);
    world.trust.identity.trust().offer(signed).unwrap();
    verify().unwrap();
    assert_eq!(world.trust.signers_number(), 2);
}

#[test]
fn an_exception_from_named_deployment_hosts_is_said_and_shown() {
    let shown = |text: &str| World::with_host_file(text).trust.origins().to_string();
    assert_eq!(shown(""), "any (host.toml names none)");
    assert_eq!(shown("origins = [\"d2\", \"d1\"]"), "d1, d2");
    assert_eq!(
        shown("require_origin = false\norigins = [\"d1\"]"),
        "any (require_origin = false)"
    );
    let world = World::new();
    fs::write(world.host().join(HOST_FILE), "require_origin = true").unwrap();
    assert!(matches!(world.load(), Err(TrustError::Origins { .. })));
    fs::write(world.host().join(HOST_FILE), "signatures_min = 9").unwrap();
    assert!(matches!(world.load(), Err(TrustError::Thresholds { .. })));
}

#[test]
fn b9_a_grant_brings_the_keys_that_release_from_then_on_and_ends_those_before() {
    let world = World::new();
    let first = world.trust.following.now().signers.clone();
    let (old, new) = (&world.deployer, &world.stranger);
    let link = world.link(&first, &[new], &[old, new]);
    let bringing = |draft: &Draft, signer: &Signer, chain: &[SignedSigners]| {
        let chain = chain.to_vec();
        world.sign_by(draft, &[signer], |grant| {
            grant.with_signers(&chain).unwrap()
        })
    };
    // One side alone brings nothing, and its release is not by whom it may be.
    for by in [[old, old], [new, new]] {
        let half = world.link(&first, &[new], &by);
        let refused = world.refusal(bringing(&Draft::new(1), new, std::slice::from_ref(&half)));
        assert!(matches!(refused, AuthorityError::SignersFile(_)));
        assert_eq!(refused.code(), Reason::RefusedSigners);
        // Nor does it keep from what may be released.
        assert!(world.verify(bringing(&Draft::new(1), old, &[half])).is_ok());
    }
    assert_eq!(world.trust.signers_number(), 0);

    let order = bringing(&Draft::new(2), new, &[link]);
    let order = world.verify(order).unwrap();
    assert_eq!(order.release.release().sequence, 2);
    assert_eq!(world.trust.signers_number(), 1);
    let late = world.refusal(world.sign(&Draft::new(3)));
    assert_eq!(late.code(), Reason::RefusedSignature);
    let plain = world.sign_by(&Draft::new(3), &[new], |grant| grant);
    assert!(world.verify(plain).is_ok());
}

#[test]
fn b9_what_peers_have_of_a_stable_release_brings_the_keys_too() {
    let world = World::new();
    let first = world.trust.following.now().signers.clone();
    let (old, middle, new) = (&world.deployer, &world.apprentice, &world.stranger);
    let to_middle = world.link(&first, &[middle], &[old, middle]);
    let one = NonZeroUsize::MIN;
    let second = first.next(&to_middle, &"prod".parse().unwrap(), one, NOW);
    let to_new = world.link(&second.unwrap(), &[new], &[middle, new]);
    let draft = Draft::new(7);
    let order = world.sign_by(&draft, &[new], |grant| {
        grant.with_signers(&[to_middle, to_new]).unwrap()
    });
    let finalization = Finalization {
        release: order.release.id(),
        repo: draft.release.repo.clone(),
        environment: draft.release.environment.clone(),
        audience: draft.release.audience.clone(),
        sequence: 7,
        extensions: Extensions::default(),
    };
    let finalize = Finalize {
        release: order.release,
        grant: order.grant,
        finalization: SignedFinalization::sign(&finalization, &world.session),
    };
    let verified = world.trust.verify_finalization(finalize, NOW).unwrap();
    assert_eq!(verified.finalization.sequence, 7);
    assert_eq!(world.trust.signers_number(), 2, "two links in one go");
}
