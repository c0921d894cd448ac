//! Chains of signers files: what is taken in one go, and each way in which a link is none.

use tempfile::TempDir;

use super::*;
use crate::release::signature::allowed_signers_line;

/// 2026-01-02 03:04:05 UTC.
const NOW: UnixMillis = UnixMillis(1_767_323_045_000);
const LATER: UnixMillis = UnixMillis(NOW.0 + 1000);

struct Keys {
    _directory: TempDir,
    all: Vec<Signer>,
}

impl Keys {
    fn new(count: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let make = |at: usize| {
            let path = directory.path().join(format!("key{at}"));
            Signer::create(&path, "").unwrap()
        };
        Self {
            all: (0..count).map(make).collect(),
            _directory: directory,
        }
    }

    /// A file in which these keys may sign what comes next.
    fn file(&self, who: &[usize]) -> String {
        let line = |at: &usize| {
            let name = format!("k{at}");
            allowed_signers_line(&name, "scap-signers:prod", self.all[*at].public_key())
        };
        who.iter().map(|at| line(at) + "\n").collect()
    }

    fn first(&self, who: &[usize]) -> SignersInForce {
        SignersInForce::new(0, self.file(who)).unwrap()
    }

    /// The link from `before` to a file of these keys, by those.
    fn link(&self, before: &SignersInForce, who: &[usize], by: &[usize]) -> SignedSigners {
        self.link_with(before, who, by, |_| {})
    }

    fn link_with(
        &self,
        before: &SignersInForce,
        who: &[usize],
        by: &[usize],
        change: impl FnOnce(&mut SignersFile),
    ) -> SignedSigners {
        let mut file = SignersFile {
            number: before.number() + 1,
            previous: before.hash(),
            text: self.file(who),
            expires: LATER,
            extensions: Extensions::default(),
        };
        change(&mut file);
        let mut link = SignedSigners::unsigned(&file);
        for at in by {
            link.sign(&fleet(), &self.all[*at]).unwrap();
        }
        link
    }
}

fn fleet() -> FleetName {
    "prod".parse().unwrap()
}

fn two() -> NonZeroUsize {
    NonZeroUsize::new(2).unwrap()
}

fn follow(
    from: &SignersInForce,
    chain: &[SignedSigners],
    now: UnixMillis,
) -> Result<SignersInForce, SignersError> {
    from.follow(chain, &fleet(), two(), now)
}

#[test]
fn b9_a_chain_of_several_files_is_taken_in_one_go_and_again_without_harm() {
    let keys = Keys::new(5);
    let first = keys.first(&[0, 1]);
    let one = keys.link(&first, &[1, 2], &[0, 1, 2]);
    let second = first.next(&one, &fleet(), two(), NOW).unwrap();
    let two_links = keys.link(&second, &[3, 4], &[1, 2, 3, 4]);
    let chain = [one, two_links];

    let end = follow(&first, &chain, NOW).unwrap();
    assert_eq!((end.number(), end.text()), (2, keys.file(&[3, 4]).as_str()));
    assert_eq!(follow(&second, &chain, NOW).unwrap().hash(), end.hash());
    assert_eq!(follow(&end, &chain, NOW).unwrap().hash(), end.hash());
    // What was taken stays in force, whatever the time.
    assert_eq!(
        follow(&end, &chain, UnixMillis(LATER.0 + 1))
            .unwrap()
            .number(),
        2
    );
    assert_eq!(follow(&first, &[], NOW).unwrap().number(), 0);
}

#[test]
fn b9_a_file_that_one_side_alone_signed_is_refused_and_says_which() {
    let keys = Keys::new(4);
    let first = keys.first(&[0, 1]);
    for (by, missing) in [
        (&[0, 1][..], "new"),
        (&[2, 3], "before"),
        (&[0, 2, 3], "before"),
        (&[0, 1, 2], "new"),
        // One key twice is one.
        (&[0, 0, 2, 3], "before"),
        (&[], "before"),
    ] {
        let link = keys.link(&first, &[2, 3], by);
        let error = follow(&first, &[link], NOW).unwrap_err();
        assert!(
            matches!(&error, SignersError::OneSide { whose, .. } if *whose == missing),
            "{by:?}: {error}"
        );
    }
    let link = keys.link(&first, &[2, 3], &[0, 1, 2, 3]);
    assert!(follow(&first, &[link], NOW).is_ok());
}

#[test]
fn b9_a_skipped_number_and_a_link_from_another_file_are_refused() {
    let keys = Keys::new(3);
    let first = keys.first(&[0, 1]);
    let by = [0, 1, 2];
    for number in [0, 2, 3, u64::MAX] {
        let link = keys.link_with(&first, &[1, 2], &by, |file| file.number = number);
        let followed = follow(&first, std::slice::from_ref(&link), NOW);
        let next = first.next(&link, &fleet(), two(), NOW).unwrap_err();
        assert!(
            matches!(next, SignersError::Skipped { expected: 1, offered } if offered == number),
            "{next}"
        );
        // One that is not later changes nothing, and is no reason to refuse what else comes.
        assert_eq!(followed.is_ok(), number == 0);
    }
    let link = keys.link_with(&first, &[1, 2], &by, |file| file.previous[0] ^= 1);
    assert!(matches!(
        follow(&first, &[link], NOW),
        Err(SignersError::OtherBefore(1))
    ));
    // Without the first link the second is none.
    let one = keys.link(&first, &[1, 2], &by);
    let second = first.next(&one, &fleet(), two(), NOW).unwrap();
    let last = keys.link(&second, &[0, 2], &by);
    assert!(matches!(
        follow(&first, std::slice::from_ref(&last), NOW),
        Err(SignersError::Skipped {
            expected: 1,
            offered: 2
        })
    ));
    let in_disorder = [last, one];
    assert!(follow(&first, &in_disorder, NOW).is_err());
}

#[test]
fn b9_a_chain_whose_last_file_expired_is_refused_and_earlier_ones_may_have() {
    let keys = Keys::new(3);
    let first = keys.first(&[0, 1]);
    let by = [0, 1, 2];
    let expired = keys.link_with(&first, &[1, 2], &by, |file| {
        file.expires = UnixMillis(NOW.0 - 1);
    });
    let refused = follow(&first, std::slice::from_ref(&expired), NOW);
    assert!(matches!(
        refused,
        Err(SignersError::Expired { number: 1, .. })
    ));
    let second = first.next(&expired, &fleet(), two(), NOW).unwrap();
    let last = keys.link(&second, &[0, 2], &by);
    assert_eq!(follow(&first, &[expired, last], NOW).unwrap().number(), 2);
}

#[test]
fn a_signature_for_another_fleet_or_of_a_release_brings_no_file() {
    let keys = Keys::new(2);
    let first = keys.first(&[0, 1]);
    let mut link = keys.link(&first, &[0, 1], &[]);
    for signer in &keys.all {
        link.sign(&"other".parse().unwrap(), signer).unwrap();
        let namespace = "scap-release:production:web/site";
        let signature = signer.sign(namespace, &link.payload).unwrap();
        link.signatures.push(signature);
    }
    assert!(matches!(
        follow(&first, std::slice::from_ref(&link), NOW),
        Err(SignersError::OneSide {
            whose: "before",
            ..
        })
    ));
    link.signatures = vec![link.signatures[0].clone(); SIGNATURES_MAX + 1];
    assert!(matches!(
        first.next(&link, &fleet(), two(), NOW),
        Err(SignersError::Signatures(9))
    ));
    let long = keys.link_with(&first, &[0], &[], |file| {
        file.text = "#".repeat(EXTENSION_BYTES_MAX);
    });
    assert!(matches!(long.encode(), Err(SignersError::TooLong(_))));
}

#[test]
fn b9_a_host_that_was_away_while_keys_ended_follows_to_the_file_that_the_authority_vouches_for_alone()
 {
    let keys = Keys::new(6);
    // Keys 0 and 1 end a day from now, 2 and 3 after a year.
    let (day, year) = ("20260103030405Z", "20270102030405Z");
    let ending = |who: &[usize], at: &str| {
        let file = keys.file(who);
        file.replace("namespaces=", &format!("valid-before=\"{at}\",namespaces="))
    };
    let first = SignersInForce::new(0, ending(&[0, 1], day)).unwrap();
    let in_a_month = UnixMillis(NOW.0 + 30 * 86_400_000);
    let link = |before: &SignersInForce, text: String, by: &[usize]| {
        keys.link_with(before, &[], by, |file| {
            file.text = text;
            file.expires = UnixMillis(in_a_month.0 + 1);
        })
    };
    let true_link = link(&first, ending(&[2, 3], year), &[0, 1, 2, 3]);
    let stolen = link(&first, ending(&[4, 5], year), &[0, 1, 4, 5]);
    let second = follow(&first, std::slice::from_ref(&true_link), NOW).unwrap();
    let judged = |chain: &[SignedSigners], vouched: Option<VouchedSigners>| {
        let by = FollowBy {
            fleet: &fleet(),
            threshold: two(),
            now: in_a_month,
            vouched,
        };
        first.follow_by(chain, &by).map(|it| it.hash())
    };
    let vouched = VouchedSigners {
        number: 1,
        hash: second.hash(),
    };
    // Nobody can tell when either was signed, so neither is taken by itself.
    for chain in [&true_link, &stolen].map(std::slice::from_ref) {
        assert!(matches!(
            judged(chain, None),
            Err(SignersError::OneSide {
                whose: "before",
                ..
            })
        ));
    }
    let taken = judged(std::slice::from_ref(&true_link), Some(vouched));
    assert_eq!(taken.unwrap(), second.hash());
    assert!(judged(std::slice::from_ref(&stolen), Some(vouched)).is_err());
    // Beyond the file that is vouched for keys must be good now; and one side alone brings nothing, vouched for or not.
    let next = link(&second, ending(&[4, 5], year), &[2, 3, 4, 5]);
    let chain = [true_link.clone(), next];
    assert!(judged(&chain, Some(vouched)).is_ok());
    let over = link(&second, ending(&[4, 5], day), &[2, 3, 4, 5]);
    assert!(judged(&[true_link, over], Some(vouched)).is_err());
    let half = link(&first, ending(&[2, 3], year), &[2, 3]);
    assert!(judged(&[half], Some(vouched)).is_err());
}
