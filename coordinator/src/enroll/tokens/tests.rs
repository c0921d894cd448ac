use std::{os::unix::fs::PermissionsExt, sync::Barrier};

use scap_proto::extensions::Extensions;
use tempfile::TempDir;

use super::*;

const NOW: UnixMillis = UnixMillis(1_767_323_045_000);
const HOUR: u64 = 3600 * 1000;
const KEY: [u8; PUBLIC_KEY_BYTES] = [1; PUBLIC_KEY_BYTES];
const OTHER_KEY: [u8; PUBLIC_KEY_BYTES] = [2; PUBLIC_KEY_BYTES];

struct World {
    folder: TempDir,
    tokens: Tokens,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tokens = Tokens::new(folder.path().join("tokens"));
        Self { folder, tokens }
    }

    /// A token that is good for an hour.
    fn token(&self, host: &str) -> Token {
        let token = token();
        let host = host.parse().unwrap();
        self.tokens.add(&token, &host, &[], NOW, HOUR).unwrap();
        token
    }

    fn redeem(
        &self,
        token: &Token,
        key: &[u8; PUBLIC_KEY_BYTES],
        awaited: Option<&str>,
        now: UnixMillis,
    ) -> Result<Redeemed, TokenRefusal> {
        self.redeem_denied(token, key, awaited, now, DeniedHost::default())
    }

    /// As [`Self::redeem`], where the host was revoked.
    fn redeem_denied(
        &self,
        token: &Token,
        key: &[u8; PUBLIC_KEY_BYTES],
        awaited: Option<&str>,
        now: UnixMillis,
        denied: DeniedHost,
    ) -> Result<Redeemed, TokenRefusal> {
        let denied = |_: &NodeId| Ok(denied);
        let awaited = awaited.map(|host| [host.parse().unwrap()].into());
        let certify = |record: &TokenRecord| {
            // It is on disk before anything is certified.
            let saved = self.tokens.list()?;
            let saved = saved.iter().find(|it| it.id() == record.id()).unwrap();
            assert_eq!(saved.used.as_ref().unwrap().key, hex::encode(key));
            Ok(certified(&record.host))
        };
        let (secret, awaited) = (token.secret(), awaited.as_ref());
        let redeemed: Result<_, TokenError> = self
            .tokens
            .redeem(secret, key, awaited, now, denied, certify);
        redeemed.unwrap().map_err(|it| it.refusal)
    }
}

fn token() -> Token {
    Token::generate("prod".parse().unwrap(), AuthorityPin::of(b"authority"))
}

fn certified(host: &NodeId) -> Certified {
    let enrolment = Enrolment {
        certificate: format!("certificate of {host}"),
        authorities: "authority".into(),
        allowed_signers: None,
        host: None,
        membership: None,
        extensions: Extensions::default(),
    };
    Certified {
        enrolment,
        is_readmitted: false,
    }
}

fn later(millis: u64) -> UnixMillis {
    UnixMillis(NOW.0 + millis)
}

#[test]
fn e7_a_token_is_good_once_and_for_the_key_that_used_it_again_for_a_while() {
    let world = World::new();
    let token = world.token("web1");
    let first = world.redeem(&token, &KEY, None, NOW).unwrap();
    assert_eq!(first.enrolment.certificate, "certificate of web1");
    assert!(!first.is_again);
    let reused = world.redeem(&token, &OTHER_KEY, None, NOW);
    assert_eq!(reused.unwrap_err(), TokenRefusal::Used);
    let again = world.redeem(&token, &KEY, None, later(HOUR)).unwrap();
    assert!(again.is_again);
    assert_eq!(again.enrolment, first.enrolment);
    let late = world.redeem(&token, &KEY, None, later(HOUR + 1));
    assert_eq!(late.unwrap_err(), TokenRefusal::Used);
}

#[test]
fn e7_a_token_is_not_good_after_its_time_or_once_it_was_taken_back_and_no_other_secret_is() {
    let world = World::new();
    let (expired, revoked) = (world.token("web1"), world.token("web2"));
    let refused = world.redeem(&expired, &KEY, None, later(HOUR + 1));
    assert_eq!(refused.unwrap_err(), TokenRefusal::Expired);
    world.redeem(&expired, &KEY, None, later(HOUR)).unwrap();

    let taken_back = world.tokens.revoke("web2", NOW).unwrap();
    assert_eq!(taken_back.len(), 1);
    let refused = world.redeem(&revoked, &KEY, None, NOW);
    assert_eq!(refused.unwrap_err(), TokenRefusal::Revoked);
    for which in ["web2", "web1", "web3", &taken_back[0].id().to_string()] {
        let none = world.tokens.revoke(which, later(HOUR)).unwrap_err();
        assert!(matches!(none, TokenError::None(_)), "{none}");
    }
    let unknown = World::new().redeem(&revoked, &KEY, None, NOW);
    assert_eq!(unknown.unwrap_err(), TokenRefusal::Unknown);
    let refused = world.redeem(&token(), &KEY, None, NOW);
    assert_eq!(refused.unwrap_err(), TokenRefusal::Unknown);
}

/// Who stole a host has its key and the token that it used, and may have others that nobody used.
#[test]
fn no_token_from_before_its_host_was_revoked_brings_it_back_and_one_from_after_does() {
    let world = World::new();
    let (used, pending) = (world.token("web1"), world.token("web1"));
    world.redeem(&used, &KEY, None, NOW).unwrap();
    let denied = |until| DeniedHost {
        until: Some(until),
        has_key: false,
    };
    for (token, until) in [(&used, NOW), (&pending, NOW), (&pending, later(1))] {
        let refused = world.redeem_denied(token, &KEY, None, later(2), denied(until));
        assert_eq!(refused.unwrap_err(), TokenRefusal::HostRevoked);
    }
    let before = UnixMillis(NOW.0 - 1);
    // Nor a key that it had then, which does not use the token up.
    let had = DeniedHost {
        has_key: true,
        ..denied(before)
    };
    let refused = world.redeem_denied(&pending, &KEY, None, NOW, had);
    assert_eq!(refused.unwrap_err(), TokenRefusal::KeyRevoked);
    let redeemed = world.redeem_denied(&pending, &OTHER_KEY, None, NOW, denied(before));
    assert!(!redeemed.unwrap().is_again);
}

#[test]
fn t8_the_token_of_one_host_enrols_no_other_and_is_not_used_up_by_trying() {
    let world = World::new();
    let token = world.token("web1");
    let refused = world.redeem(&token, &KEY, Some("web2"), NOW);
    assert_eq!(refused.unwrap_err(), TokenRefusal::OtherHost);
    let redeemed = world.redeem(&token, &KEY, Some("web1"), NOW).unwrap();
    assert_eq!(redeemed.record.host.as_str(), "web1");
}

#[test]
fn e7_of_many_that_show_a_token_at_once_one_is_enrolled() {
    let world = World::new();
    let token = world.token("web1");
    let barrier = Barrier::new(8);
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8u8)
            .map(|number| {
                let (world, token, barrier) = (&world, &token, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    world.redeem(token, &[number; PUBLIC_KEY_BYTES], None, NOW)
                })
            })
            .collect();
        let joined = threads.into_iter().map(|it| it.join().unwrap());
        joined.collect()
    });
    let enrolled = results.iter().filter(|it| it.is_ok()).count();
    let used = |it: &&Result<_, _>| matches!(it, Err(TokenRefusal::Used));
    assert_eq!((enrolled, results.iter().filter(used).count()), (1, 7));
}

#[test]
fn a_host_is_awaited_until_it_says_that_it_has_its_identity() {
    let world = World::new();
    let token = world.token("web1");
    let is_awaited = |now| world.tokens.list().unwrap()[0].is_awaited(now);
    assert!(is_awaited(NOW) && !is_awaited(later(HOUR + 1)));
    let redeemed = world.redeem(&token, &KEY, None, later(HOUR)).unwrap();
    // It may not have got what it was given.
    assert!(is_awaited(later(2 * HOUR)) && !is_awaited(later(2 * HOUR + 1)));
    world.tokens.confirm(redeemed.record.id(), NOW).unwrap();
    assert!(!is_awaited(later(HOUR)));
}

#[test]
fn what_is_kept_has_no_secret_and_is_for_its_owner_alone() {
    let world = World::new();
    let token = world.token("web1");
    let text = token.to_text();
    let secret = text.rsplit(':').next().unwrap();
    let folder = world.folder.path().join("tokens");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let kept = fs::read_to_string(&path).unwrap();
        assert!(!kept.contains(secret), "{kept}");
        if path.extension().is_some() {
            assert_eq!(mode(&path), 0o600);
        }
    }
}

#[test]
fn what_is_over_is_kept_for_a_quarter_and_what_is_pending_for_ever() {
    let world = World::new();
    world.token("web1");
    let used = world.token("web2");
    world.redeem(&used, &KEY, None, NOW).unwrap();
    let hosts = |now: UnixMillis| {
        let host = "new".parse().unwrap();
        world
            .tokens
            .add(&token(), &host, &[], now, u64::MAX / 2)
            .unwrap();
        let all = world.tokens.list().unwrap();
        let hosts: Vec<_> = all.iter().map(|it| it.host.to_string()).collect();
        hosts.join(" ")
    };
    assert_eq!(hosts(later(KEPT_MILLIS)), "new web1 web2");
    assert_eq!(hosts(later(KEPT_MILLIS + 1)), "new new web1");
    assert_eq!(hosts(later(KEPT_MILLIS + HOUR + 1)), "new new new");
}

#[test]
fn a_damaged_token_is_an_error_that_names_its_file() {
    let world = World::new();
    let id = world.token("web1").secret().hash().id();
    let path = world.folder.path().join(format!("tokens/{id}.toml"));
    fs::write(&path, "hash = 'x'").unwrap();
    let error = world.tokens.list().unwrap_err();
    assert!(error.to_string().contains(&id.to_string()), "{error}");
}
