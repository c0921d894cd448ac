//! Orders as they arrive, with real keys: what each signature says and does not say.

use std::fs;

use bytes::Bytes;
use scap_proto::{
    codec::{self, CodecError},
    content::SnapshotRef,
    extensions::Extensions,
    id::{ReleaseId, SnapshotId},
    identity::{CertificateAuthority, Role, SecretKey, Validity},
    release::{
        Grant, PlanHost, Reach, Release, SignedDirective, SignedFinalization, SignedGrant,
        SignedRelease, Stage, Targets, TopologyKind,
        signature::{SignatureError, Signer, SshSignature, allowed_signers_line},
        signed::SignedObject,
    },
};
use tempfile::TempDir;

use super::*;

mod authority;

/// 2026-01-02 03:04:05 UTC.
pub(crate) const NOW: UnixMillis = UnixMillis(1_767_323_045_000);
/// When what a [`Draft`] says expires unless it says otherwise: an hour later.
pub(crate) const EXPIRES: UnixMillis = UnixMillis(NOW.0 + 3_600_000);

/// A host `web1`, and those who deploy to it or would like to.
pub(crate) struct World {
    directory: TempDir,
    /// Makes further nodes of the fleet.
    fleet: CertificateAuthority,
    /// What the host trusts.
    pub(crate) trust: HostTrust,
    /// May release.
    pub(crate) deployer: Signer,
    /// May release too.
    pub(crate) colleague: Signer,
    /// May release for `staging` alone.
    apprentice: Signer,
    /// May not.
    pub(crate) stranger: Signer,
    /// Directs the rollout.
    pub(crate) session: SecretKey,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_host_file("")
    }

    /// A host whose `host.toml` says this.
    fn with_host_file(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = CertificateAuthority::create(&"prod".parse().unwrap(), NOW.0).unwrap();
        let node = authority.node(Role::Agent, "web1".parse().unwrap());
        let host = directory.path().join("host");
        Identity::create(&host, &authority, &node, Validity::leaf(NOW.0)).unwrap();
        let signer = |name: &str| Signer::create(&directory.path().join(name), name).unwrap();
        let (deployer, colleague) = (signer("deployer"), signer("colleague"));
        let (apprentice, stranger) = (signer("apprentice"), signer("stranger"));
        let line = |who: &str, namespaces: &str, signer: &Signer| {
            allowed_signers_line(who, namespaces, signer.public_key())
        };
        let lines = [
            line("deployer", "scap-release:*,scap-signers:*", &deployer),
            line("colleague", "scap-release:*,scap-signers:*", &colleague),
            line("apprentice", "scap-release:staging:*", &apprentice),
        ];
        fs::write(host.join(ALLOWED_SIGNERS_FILE), lines.join("\n")).unwrap();
        fs::write(host.join(HOST_FILE), text).unwrap();
        Self {
            trust: HostTrust::load(&host, NOW).unwrap(),
            directory,
            fleet: authority,
            deployer,
            colleague,
            apprentice,
            stranger,
            session: SecretKey::generate(),
        }
    }

    fn host(&self) -> PathBuf {
        self.directory.path().join("host")
    }

    fn load(&self) -> Result<HostTrust, TrustError> {
        HostTrust::load(&self.host(), NOW)
    }

    /// The order that this draft becomes.
    pub(crate) fn sign(&self, draft: &Draft) -> Order {
        let release = SignedRelease::sign(&draft.release, &self.deployer).unwrap();
        Order {
            grant: self.grant(draft, release.id(), &self.deployer),
            directive: SignedDirective::sign(&draft.directive(release.id()), &self.session),
            plan: None,
            release,
        }
    }

    /// From now on a key alone that signed nothing may release.
    pub(crate) fn take_all_keys_away(&self) {
        let first = self.trust.following.now().signers.clone();
        let link = self.link(&first, &[&self.stranger], &[&self.deployer, &self.stranger]);
        let taken = self.trust.following.take(&[link], NOW, None);
        assert_eq!(taken.unwrap().signers.number(), 1);
    }

    /// What this draft directs, by a session key that nobody granted anything.
    pub(crate) fn sign_as_stranger(&self, draft: &Draft) -> SignedDirective {
        let release = SignedRelease::sign(&draft.release, &self.deployer).unwrap();
        SignedDirective::sign(&draft.directive(release.id()), &SecretKey::generate())
    }

    /// The finalization of this draft's release.
    pub(crate) fn finalize(&self, draft: &Draft) -> Finalize {
        self.finalize_reaching(draft, &Reach::All)
    }

    /// The same for these hosts.
    pub(crate) fn finalize_reaching(&self, draft: &Draft, reach: &Reach) -> Finalize {
        let Order { release, grant, .. } = self.sign(draft);
        let followed = self.trust.following.now();
        let about = &draft.release;
        let authority = self
            .trust
            .authority(&followed, &about.repo, &about.environment);
        let verified = release.clone().verify(&authority, NOW);
        let finalization = Finalization::of(&verified.unwrap()).reaching(reach);
        Finalize {
            release,
            grant,
            finalization: SignedFinalization::sign(&finalization, &self.session),
        }
    }

    /// The grant of `draft` by `signer`.
    fn grant(&self, draft: &Draft, release: ReleaseId, signer: &Signer) -> SignedGrant {
        let grant = draft.grant(release, &self.session);
        SignedGrant::sign(&grant, &draft.release.namespace(), signer).unwrap()
    }

    fn verify(&self, order: Order) -> Result<VerifiedOrder, OrderError> {
        self.trust.verify_order(order, NOW)
    }

    /// Why the order is refused before the question of its place comes up.
    fn refusal(&self, order: Order) -> AuthorityError {
        match self.verify(order) {
            Err(OrderError::Authority(error)) => error,
            other => panic!("expected a refusal, found {other:?}"),
        }
    }
}

/// What an order says, before it is signed.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) release: Release,
    pub(crate) epoch: u64,
    pub(crate) grant_expires: UnixMillis,
    pub(crate) number: u64,
    pub(crate) targets: Targets,
    pub(crate) stage: Stage,
    pub(crate) plan: Option<PlanId>,
}

impl Draft {
    /// Directive 1 of epoch 1 about release number `sequence`: fetch it, all of you.
    pub(crate) fn new(sequence: u64) -> Self {
        let release = Release {
            repo: "mw/config".parse().unwrap(),
            environment: Environment::default(),
            audience: Audience::default(),
            sequence,
            snapshot: SnapshotRef {
                id: SnapshotId::of(b"a snapshot"),
                descriptor_length: 100,
            },
            commit: None,
            config: None,
            deltas: Vec::new(),
            previous: None,
            created: NOW,
            expires: EXPIRES,
            extensions: Extensions::default(),
        };
        Self {
            release,
            epoch: 1,
            grant_expires: EXPIRES,
            number: 1,
            targets: Targets::All,
            stage: Stage::Fetch,
            plan: None,
        }
    }

    /// The same release, and this directive.
    pub(crate) fn directing(&self, epoch: u64, number: u64, stage: Stage) -> Self {
        Self {
            epoch,
            number,
            stage,
            ..self.clone()
        }
    }

    fn grant(&self, release: ReleaseId, session: &SecretKey) -> Grant {
        Grant {
            release,
            session_key: *session.public(),
            epoch: self.epoch,
            expires: self.grant_expires,
            extensions: Extensions::default(),
        }
    }

    fn directive(&self, release: ReleaseId) -> Directive {
        Directive {
            release,
            epoch: self.epoch,
            number: self.number,
            targets: self.targets.clone(),
            stage: self.stage,
            plan: self.plan,
            extensions: Extensions::default(),
        }
    }
}

fn plan(random_seed: u64) -> (PlanId, Bytes) {
    let plan = Plan {
        seed: "deploy1".parse().unwrap(),
        hosts: vec![PlanHost {
            name: "web1".parse().unwrap(),
            addresses: vec!["10.0.0.2:7227".parse().unwrap()],
            site: String::new(),
            rack: String::new(),
            wave: 0,
        }],
        topology: TopologyKind::Swarm,
        degree: 8,
        fanout: 2,
        random_seed,
        extensions: Extensions::default(),
    };
    plan.encode()
}

/// What is wrong with the only signature of the release or grant that was refused.
fn only_signature(error: AuthorityError) -> SignatureError {
    let AuthorityError::Signers { source, .. } = error else {
        panic!("expected a refused signature, found {error:?}");
    };
    match *source {
        SignatureError::TooFew { mut refused, .. } if refused.len() == 1 => refused.remove(0),
        other => other,
    }
}

#[test]
fn an_order_that_all_its_parties_signed_is_verified_whole() {
    let world = World::new();
    let (id, bytes) = plan(1);
    let draft = Draft {
        plan: Some(id),
        ..Draft::new(1)
    };
    let order = Order {
        plan: Some(bytes),
        ..world.sign(&draft)
    };
    let verified = world.verify(order.clone()).unwrap();
    assert_eq!(verified.release.release(), &draft.release);
    assert_eq!(verified.release.id(), order.release.id());
    assert_eq!(verified.release.signers()[0].principals, "deployer");
    assert_eq!(verified.directive, draft.directive(order.release.id()));
    assert_eq!(verified.plan.unwrap().random_seed, 1);
}

#[test]
fn b1_a_release_without_signatures_or_with_too_many_is_refused() {
    let world = World::new();
    let mut order = world.sign(&Draft::new(1));
    let signature = order.release.signatures.remove(0);
    for count in [0, 9] {
        order.release.signatures = vec![signature.clone(); count];
        let refusal = world.refusal(order.clone());
        assert!(
            matches!(refusal, AuthorityError::Limit { what: "signatures", found, .. } if found == count),
            "{refusal}"
        );
    }
}

#[test]
fn b1_an_order_with_any_bit_of_it_flipped_is_refused() {
    let world = World::new();
    let (id, plan_bytes) = plan(1);
    let draft = Draft {
        plan: Some(id),
        ..Draft::new(1)
    };
    let order = Order {
        plan: Some(plan_bytes.clone()),
        ..world.sign(&draft)
    };
    let flipped = |bytes: &[u8], index: usize| -> Bytes {
        let mut bytes = bytes.to_vec();
        bytes[index] ^= 1 << (index % 8);
        bytes.into()
    };
    let refused = |order: Order, what: &str, index: usize| {
        assert!(world.verify(order).is_err(), "byte {index} of {what}");
    };
    for index in 0..order.release.payload.len() {
        let mut order = order.clone();
        order.release.payload = flipped(&order.release.payload, index);
        refused(order, "the release", index);
    }
    for index in 0..order.grant.payload.len() {
        let mut order = order.clone();
        order.grant.payload = flipped(&order.grant.payload, index);
        refused(order, "the grant", index);
    }
    let directive = codec::encode(&order.directive);
    for index in 0..directive.len() {
        if let Ok(directive) = codec::decode(&flipped(&directive, index)) {
            let order = Order {
                directive,
                ..order.clone()
            };
            refused(order, "the directive and its signature", index);
        }
    }
    for index in 0..plan_bytes.len() {
        let plan = Some(flipped(&plan_bytes, index));
        let order = Order {
            plan,
            ..order.clone()
        };
        refused(order, "the plan", index);
    }
    assert!(world.verify(order).is_ok());
}

#[test]
fn a_signature_of_another_release_is_not_one_of_this() {
    let world = World::new();
    let mut order = world.sign(&Draft::new(1));
    order.release.signatures = world.sign(&Draft::new(2)).release.signatures;
    let error = only_signature(world.refusal(order));
    assert!(matches!(error, SignatureError::Bad { .. }), "{error}");
}

#[test]
fn b6_a_release_signed_for_another_environment_or_repo_is_refused() {
    let world = World::new();
    for namespace in [
        "scap-release:staging:mw/config",
        "scap-release:production:mw/other",
        "scap-release:production:mw/config/",
        "file",
    ] {
        let mut order = world.sign(&Draft::new(1));
        let payload = &order.release.payload;
        order.release.signatures = vec![world.deployer.sign(namespace, payload).unwrap()];
        let error = only_signature(world.refusal(order));
        assert!(
            matches!(&error, SignatureError::OtherNamespace { found, .. } if found == namespace),
            "{error}"
        );
    }
}

#[test]
fn b1_a_key_that_may_not_release_here_is_refused_by_name() {
    let world = World::new();
    let mut order = world.sign(&Draft::new(1));
    let namespace = Draft::new(1).release.namespace();
    let mut signed_by = |signer: &Signer| {
        order.release.signatures = vec![signer.sign(&namespace, &order.release.payload).unwrap()];
        only_signature(world.refusal(order.clone()))
    };
    let unknown = signed_by(&world.stranger);
    assert!(
        matches!(&unknown, SignatureError::Unknown { fingerprint } if *fingerprint == world.stranger.fingerprint()),
        "{unknown}"
    );
    let elsewhere = signed_by(&world.apprentice);
    assert!(
        matches!(&elsewhere, SignatureError::NotAllowed { principals, .. } if principals == "apprentice"),
        "{elsewhere}"
    );
}

#[test]
fn only_a_signer_of_the_release_grants_it() {
    let world = World::new();
    let order = world.sign(&Draft::new(1));
    let granted_by = |signer: &Signer| {
        world.refusal(Order {
            grant: world.grant(&Draft::new(1), order.release.id(), signer),
            ..order.clone()
        })
    };
    let colleague = granted_by(&world.colleague);
    assert!(matches!(colleague, AuthorityError::GrantSigner));
    let stranger = granted_by(&world.stranger);
    assert!(
        matches!(
            stranger,
            AuthorityError::Signers {
                what: "the grant",
                ..
            }
        ),
        "{stranger}"
    );
}

#[test]
fn a_grant_or_directive_of_another_release_is_refused() {
    let world = World::new();
    let (order, other) = (world.sign(&Draft::new(1)), world.sign(&Draft::new(2)));
    let check = |order: Order| {
        let refusal = world.refusal(order);
        assert!(
            matches!(refusal, AuthorityError::OtherRelease { found, .. } if found == other.release.id()),
            "{refusal}"
        );
    };
    check(Order {
        grant: other.grant.clone(),
        ..order.clone()
    });
    check(Order {
        directive: other.directive.clone(),
        ..order
    });
}

#[test]
fn a_directive_without_the_grant_it_was_given_under_is_refused() {
    let world = World::new();
    let order = world.sign(&Draft::new(1));
    let stranger = SecretKey::generate();
    let directive = Draft::new(1).directive(order.release.id());
    let refusal = world.refusal(Order {
        directive: SignedDirective::sign(&directive, &stranger),
        ..order.clone()
    });
    assert!(matches!(refusal, AuthorityError::SessionSignature));

    let later = Draft::new(1).directing(2, 1, Stage::Fetch);
    let refusal = world.refusal(Order {
        directive: world.sign(&later).directive,
        ..order
    });
    assert_eq!(
        refusal.to_string(),
        "a directive of epoch 2, under a grant of epoch 1"
    );
}

#[test]
fn targets_that_a_search_would_miss_are_refused() {
    let world = World::new();
    for names in [["web1", "db1"], ["web1", "web1"]] {
        let targets = names.map(|name| name.parse().unwrap()).to_vec();
        let draft = Draft {
            targets: Targets::Only(targets),
            ..Draft::new(1)
        };
        let refusal = world.refusal(world.sign(&draft));
        assert!(matches!(refusal, AuthorityError::Targets), "{refusal}");
    }
}

#[test]
fn only_the_plan_that_the_directive_names_is_followed() {
    let world = World::new();
    let ((id, bytes), (_, other)) = (plan(1), plan(2));
    let draft = Draft {
        plan: Some(id),
        ..Draft::new(1)
    };
    let verify = |draft: &Draft, plan: Option<&Bytes>| {
        let order = Order {
            plan: plan.cloned(),
            ..world.sign(draft)
        };
        world.verify(order).map(|verified| verified.plan.is_some())
    };
    assert!(verify(&draft, Some(&bytes)).unwrap());
    assert!(matches!(
        verify(&draft, Some(&other)),
        Err(OrderError::Plan(PlanError::OtherPlan))
    ));
    assert!(matches!(verify(&draft, None), Err(OrderError::NoPlan(named)) if named == id));
    assert!(!verify(&Draft::new(1), Some(&other)).unwrap());
}

#[test]
fn b8_two_signatures_are_by_two_keys() {
    let world = World::with_host_file("signatures_min = 2\n");
    let mut order = world.sign(&Draft::new(1));
    let namespace = Draft::new(1).release.namespace();
    let by = |signer: &Signer| signer.sign(&namespace, &order.release.payload).unwrap();
    let (deployer, colleague) = (by(&world.deployer), by(&world.colleague));
    let stranger = by(&world.stranger);
    // The same signature in another text: line ends do not count.
    let again: SshSignature = deployer.as_str().replace('\n', "\r\n").parse().unwrap();
    assert_ne!(again, deployer);
    for signatures in [
        vec![deployer.clone()],
        vec![deployer.clone(), deployer.clone()],
        vec![deployer.clone(), again],
        vec![deployer.clone(), stranger],
    ] {
        order.release.signatures = signatures;
        let AuthorityError::Signers { source, .. } = world.refusal(order.clone()) else {
            panic!("one key is not two");
        };
        assert!(
            matches!(
                *source,
                SignatureError::TooFew {
                    valid: 1,
                    threshold: 2,
                    ..
                }
            ),
            "{source}"
        );
    }
    order.release.signatures = vec![colleague, deployer];
    assert_eq!(
        world.verify(order.clone()).unwrap().release.signers().len(),
        2
    );
    order.grant = world.grant(&Draft::new(1), order.release.id(), &world.colleague);
    assert!(world.verify(order).is_ok(), "either signer grants");
}

#[test]
fn a_finalization_is_the_session_keys_word_about_this_very_release() {
    let world = World::new();
    let draft = Draft::new(3);
    let good = world.finalize(&draft);
    let verify = |finalization: SignedFinalization| {
        let finalize = Finalize {
            finalization,
            ..good.clone()
        };
        world.trust.verify_finalization(finalize, NOW)
    };
    let verified = verify(good.finalization.clone()).unwrap();
    let said = verified.finalization;
    assert_eq!(said.sequence, 3);

    let stranger = SignedFinalization::sign(&said, &SecretKey::generate());
    assert!(matches!(
        verify(stranger),
        Err(AuthorityError::SessionSignature)
    ));
    for wrong in [
        Finalization {
            sequence: 4,
            ..said.clone()
        },
        Finalization {
            environment: "staging".parse().unwrap(),
            ..said.clone()
        },
        Finalization {
            release: ReleaseId::of(b"another"),
            ..said.clone()
        },
    ] {
        assert!(matches!(
            verify(SignedFinalization::sign(&wrong, &world.session)),
            Err(AuthorityError::Finalization)
        ));
    }
    // The same key signed this directive too, but not as a finalization.
    let directive = codec::encode(&world.sign(&draft).directive);
    let Err(AuthorityError::Codec(CodecError::Magic { expected })) =
        verify(codec::decode(&directive).unwrap())
    else {
        panic!("a directive is no finalization");
    };
    assert_eq!(expected, "scap-finalization/1");
    assert_eq!(Finalization::MAGIC.trim_end(), expected);
}

#[test]
fn a_host_without_a_file_of_its_own_is_in_production_with_all() {
    let world = World::new();
    fs::remove_file(world.host().join(HOST_FILE)).unwrap();
    let addressee = world.load().unwrap().addressee;
    assert_eq!(addressee.host.as_str(), "web1");
    assert_eq!(addressee.environments, [Environment::default()]);
    assert_eq!(addressee.audiences, [Audience::default()]);

    let text = "environments = [\"staging\", \"qa\"]\naudiences = [\"edge\"]\n";
    let addressee = World::with_host_file(text).trust.addressee;
    assert_eq!(addressee.environments[1].as_str(), "qa");
    assert_eq!(addressee.audiences[0].as_str(), "edge");
}

#[test]
fn a_file_that_says_who_and_what_to_follow_is_right_or_refused_by_name() {
    let world = World::new();
    for text in [
        "signatures_min = 0",
        "[[signatures]]\nrepo = \"web/site\"\nmin = 0",
        "[[signatures]]\nrepo = \"web/*\"\nmin = 2",
        "environment = \"production\"",
        "environments = [\"../production\"]",
        "audiences = \"all\"",
        "environments = [",
    ] {
        fs::write(world.host().join(HOST_FILE), text).unwrap();
        let error = world.load().unwrap_err();
        assert!(
            matches!(&error, TrustError::Parse { path, .. } if path.ends_with(HOST_FILE)),
            "{text}: {error}"
        );
    }
    fs::write(world.host().join(HOST_FILE), [0xff]).unwrap();
    assert!(matches!(world.load(), Err(TrustError::Read { .. })));
    fs::write(world.host().join(HOST_FILE), "").unwrap();
    fs::remove_file(world.host().join(ALLOWED_SIGNERS_FILE)).unwrap();
    assert!(matches!(world.load(), Err(TrustError::Signers(_))));
}

#[test]
fn a_floor_is_of_one_repo_and_environment_and_a_membership_is_one_or_none() {
    let text = "[[floor]]\nrepo = \"web/site\"\nsequence = 12\n\
        [[floor]]\nrepo = \"web/site\"\nenvironment = \"staging\"\nsequence = 3\n";
    let world = World::with_host_file(text);
    let site = "web/site".parse().unwrap();
    let floor = |environment: &str| world.trust.floor(&site, &environment.parse().unwrap());
    assert_eq!(
        (floor("production"), floor("staging"), floor("qa")),
        (Some(12), Some(3), None)
    );
    assert_eq!(
        world
            .trust
            .floor(&"web".parse().unwrap(), &Environment::default()),
        None
    );
    assert!(
        world.trust.membership.get().is_none(),
        "enrolled by an earlier build"
    );
    fs::write(world.host().join(MEMBERSHIP_FILE), b"not one").unwrap();
    assert!(matches!(world.load(), Err(TrustError::Membership { .. })));
    fs::write(
        world.host().join(HOST_FILE),
        "[[floor]]\nrepo = \"web/site\"",
    )
    .unwrap();
    assert!(matches!(world.load(), Err(TrustError::Parse { .. })));
}

#[test]
fn e3_a_host_starts_with_a_certificate_that_can_be_renewed_and_not_with_one_of_another_time() {
    let world = World::new();
    let valid = world.trust.identity.validity();
    let end = valid.not_after_unix_ms;
    let grace = scap_proto::identity::RENEWAL_GRACE_MS;
    for now in [end, end + 1, end + grace] {
        assert!(HostTrust::load(&world.host(), UnixMillis(now)).is_ok());
    }
    assert!(matches!(
        HostTrust::load(&world.host(), UnixMillis(end + grace + 1)),
        Err(TrustError::Time(Refusal::Expired { .. }))
    ));
    assert!(matches!(
        HostTrust::load(&world.host(), UnixMillis(valid.not_before_unix_ms - 1)),
        Err(TrustError::Time(Refusal::NotYetValid { .. }))
    ));
}
