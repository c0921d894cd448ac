//! Checks of certificates and keys, which hosts and coordinators have alike.

use std::{os::unix::fs::MetadataExt, path::Path};

use scap_proto::identity::{self, Identity, Life, RENEWAL_GRACE_DAYS, Validity};

use super::Check;
use crate::{clock, error_chain};

/// How long before its end an authority is to be thought of, in days: its hosts are visited by renewals, which takes months.
const AUTHORITY_DAYS_MIN: u64 = 365;

/// How much of a certificate's life is left, where `renew` is what renews it.
pub fn check_life(name: &'static str, valid: Validity, now_unix_ms: u64, renew: &str) -> Check {
    let until = clock::timestamp(valid.not_after_unix_ms);
    let days = valid.left_ms(now_unix_ms) / (24 * 3600 * 1000);
    match valid.life(now_unix_ms) {
        Life::Good => Check::ok(name, format!("valid until {until}, {days} days")),
        Life::Due => Check::warn(
            name,
            format!("valid until {until}, {days} days: a third of its life or less is left"),
            renew,
        ),
        Life::Expired => Check::bad(
            name,
            format!("expired at {until}; it can be renewed for {RENEWAL_GRACE_DAYS} days"),
            renew,
        ),
        Life::Over => Check::bad(
            name,
            format!("expired at {until}, too long ago to be renewed"),
            "enroll it again",
        ),
        Life::Early => Check::bad(
            name,
            format!(
                "valid from {}, and this clock says {}: clock skew",
                clock::timestamp(valid.not_before_unix_ms),
                clock::timestamp(now_unix_ms)
            ),
            "set this host's clock",
        ),
    }
}

/// How long the authorities that an identity trusts are valid: the last of them counts.
pub fn check_authorities(directory: &Path, now_unix_ms: u64) -> Check {
    const NAME: &str = "authority";
    let authorities = match identity::authority_validities(directory) {
        Ok(authorities) => authorities,
        Err(error) => return Check::bad(NAME, error_chain(&error), "enroll it again"),
    };
    let ends = authorities.iter().map(|valid| valid.not_after_unix_ms);
    let end = ends.max().unwrap_or_default();
    let until = clock::timestamp(end);
    let days = end.saturating_sub(now_unix_ms) / (24 * 3600 * 1000);
    let text = format!("{} trusted, until {until}, {days} days", authorities.len());
    let remedy = "give the fleet its next authority";
    match days {
        0 => Check::bad(NAME, text, remedy),
        days if days < AUTHORITY_DAYS_MIN => Check::warn(NAME, text, remedy),
        _ => Check::ok(NAME, text),
    }
}

/// Whether the key is its owner's alone, and so is the directory that it is in.
pub fn check_key(identity: &Identity) -> Check {
    const NAME: &str = "key";
    let directory = identity.directory();
    let key = identity::key_file(directory);
    for (path, forbidden, remedy) in [(key.as_path(), 0o077, "600"), (directory, 0o022, "700")] {
        let mode = match path.metadata() {
            Ok(metadata) => metadata.mode() & 0o777,
            Err(error) => {
                let text = format!("look at {}: {error}", path.display());
                return Check::bad(NAME, text, "run this as the agent's user");
            }
        };
        if mode & forbidden != 0 {
            let text = format!("{} has mode {mode:03o}", path.display());
            return Check::bad(NAME, text, format!("chmod {remedy} {}", path.display()));
        }
    }
    Check::ok(NAME, format!("{} is its owner's alone", key.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use scap_proto::identity::{CertificateAuthority, Role};

    use super::*;
    use crate::doctor::Level;

    const NOW: u64 = 1_767_323_045_000;
    const DAY: u64 = 24 * 3600 * 1000;

    #[test]
    fn e3_a_certificate_is_warned_of_in_its_last_third_and_bad_outside_of_its_time() {
        let at = |days: u64| {
            let now = NOW + days * DAY;
            check_life("certificate", Validity::leaf(NOW), now, "renew it")
        };
        for (days, level, says) in [
            (0, Level::Ok, "365 days"),
            (300, Level::Warn, "a third of its life"),
            (366, Level::Bad, "can be renewed"),
            (365 + 91, Level::Bad, "too long ago"),
        ] {
            let check = at(days);
            assert_eq!(check.level, level, "{check:?}");
            assert!(check.text.contains(says), "{check:?}");
        }
        let early = check_life("certificate", Validity::leaf(NOW), NOW - DAY, "renew it");
        assert!(early.text.contains("clock skew"), "{early:?}");
        assert_eq!(early.remedy.unwrap(), "set this host's clock");
    }

    #[test]
    fn c13_a_key_or_a_directory_that_others_can_use_is_bad_and_an_authority_is_warned_of_a_year_before()
     {
        let folder = tempfile::tempdir().unwrap();
        let authority = CertificateAuthority::create(&"prod".parse().unwrap(), NOW).unwrap();
        let node = authority.node(Role::Agent, "web1".parse().unwrap());
        let identity =
            Identity::create(folder.path(), &authority, &node, Validity::leaf(NOW)).unwrap();
        let chmod = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        chmod(folder.path(), 0o700);
        assert_eq!(check_key(&identity).level, Level::Ok);
        chmod(folder.path(), 0o770);
        assert!(
            check_key(&identity)
                .remedy
                .unwrap()
                .starts_with("chmod 700")
        );
        chmod(folder.path(), 0o700);
        let key = folder.path().join("node.key");
        chmod(&key, 0o640);
        assert!(check_key(&identity).text.ends_with("node.key has mode 640"));

        for (days, level) in [(0, Level::Ok), (3400, Level::Warn), (3652, Level::Bad)] {
            let check = check_authorities(folder.path(), NOW + days * DAY);
            assert_eq!(check.level, level, "{check:?}");
        }
    }
}
