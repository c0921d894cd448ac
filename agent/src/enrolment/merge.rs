//! What becomes of a host's own policy when it is enrolled again: of each rule, the stricter of the host's and the coordinator's.

use std::num::NonZeroUsize;

use crate::trust::{CommitRule, Floor, HostFile, ThresholdRule};

/// What a host goes on with.
#[derive(Debug)]
pub(super) struct Merged {
    /// Its `host.toml`.
    pub(super) host: HostFile,
    /// Whether the signers file stays that it has.
    pub(super) keeps_signers: bool,
    /// What is not as the coordinator says it, by its name in `host.toml`.
    pub(super) kept: Vec<&'static str>,
}

/// What the host says (`present`) and what a coordinator says of it (`said`), which brings a signers file or does not.
///
/// A coordinator says alone which environments and audiences a host is in. From which deployment hosts it takes releases says the
/// coordinator too, as long as that is from some and the host does not say `require_origin = false`. All else may only become stricter.
pub(super) fn merged(present: HostFile, said: &HostFile, brings_signers: bool) -> Merged {
    let keeps_signers = !brings_signers || said.signers_number < present.signers_number;
    let signers_number = match keeps_signers {
        true => present.signers_number,
        false => said.signers_number,
    };
    let (require_origin, origins) = match takes_origins(&present, said) {
        true => (
            said.require_origin.or(present.require_origin),
            said.origins.clone(),
        ),
        false => (present.require_origin, present.origins.clone()),
    };
    let host = HostFile {
        environments: said.environments.clone(),
        audiences: said.audiences.clone(),
        signatures_min: present.signatures_min.max(said.signatures_min),
        signers_signatures_min: of_signers(&present, said),
        signers_number,
        require_origin,
        origins,
        signatures: thresholds(&present, said),
        signed_commits: commits(present.signed_commits, &said.signed_commits),
        floors: floors(present.floors, &said.floors),
    };
    let kept = [
        ("signatures_min", host.signatures_min != said.signatures_min),
        (
            "signers_signatures_min",
            host.signers_signatures_min != said.signers_signatures_min,
        ),
        (
            "signers_number and allowed_signers",
            host.signers_number != said.signers_number,
        ),
        ("require_origin", host.require_origin != said.require_origin),
        ("origins", host.origins != said.origins),
        ("[[signatures]]", host.signatures != said.signatures),
        (
            "[[signed_commits]]",
            host.signed_commits != said.signed_commits,
        ),
        ("[[floor]]", host.floors != said.floors),
    ];
    let kept = kept.into_iter().filter(|(_, is_kept)| *is_kept);
    let kept = kept.map(|(name, _)| name).collect();
    Merged {
        host,
        keeps_signers,
        kept,
    }
}

/// Whether the coordinator's word about origins stands in for the host's.
fn takes_origins(present: &HostFile, said: &HostFile) -> bool {
    let is_own = present.require_origin == Some(false);
    let is_bound = present.require_origin == Some(true) || !present.origins.is_empty();
    let binds = said.require_origin != Some(false) && !said.origins.is_empty();
    !is_own && (binds || !is_bound)
}

/// No less than what each of them comes to by itself. Where neither says a number, the most that any release takes stays it.
fn of_signers(present: &HostFile, said: &HostFile) -> Option<NonZeroUsize> {
    let takes = |host: &HostFile| {
        let rules = host.signatures.iter().map(|rule| rule.min);
        let most = rules.fold(host.signatures_min, NonZeroUsize::max);
        host.signers_signatures_min.unwrap_or(most)
    };
    let is_said = present
        .signers_signatures_min
        .or(said.signers_signatures_min);
    is_said.map(|_| takes(present).max(takes(said)))
}

/// The rules of both. A rule stands before the number for all others, also where it asks for less: so one of which the other side
/// speaks only by that number asks for no less than it.
fn thresholds(present: &HostFile, said: &HostFile) -> Vec<ThresholdRule> {
    let raised = |rules: &[ThresholdRule], other: &HostFile| -> Vec<ThresholdRule> {
        let raise = |rule: &ThresholdRule| {
            let is_ruled = other.signatures.iter().any(|it| it.covers(rule));
            let least = match is_ruled {
                true => rule.min,
                false => other.signatures_min,
            };
            ThresholdRule {
                min: rule.min.max(least),
                ..rule.clone()
            }
        };
        rules.iter().map(raise).collect()
    };
    let mut rules = raised(&present.signatures, said);
    for rule in raised(&said.signatures, present) {
        let is_same = |it: &&mut ThresholdRule| it.covers(&rule) && rule.covers(it);
        match rules.iter_mut().find(is_same) {
            Some(same) => same.min = same.min.max(rule.min),
            None => rules.push(rule),
        }
    }
    rules
}

/// The first that is about a commit counts: those of the host come first.
fn commits(mut rules: Vec<CommitRule>, said: &[CommitRule]) -> Vec<CommitRule> {
    for rule in said {
        if !rules.contains(rule) {
            rules.push(rule.clone());
        }
    }
    rules
}

fn floors(mut floors: Vec<Floor>, said: &[Floor]) -> Vec<Floor> {
    for floor in said {
        let is_same = |it: &Floor| it.repo == floor.repo && it.environment == floor.environment;
        if !floors.iter().any(is_same) {
            floors.push(floor.clone());
        }
        for same in floors.iter_mut().filter(|it| is_same(it)) {
            same.sequence = same.sequence.max(floor.sequence);
        }
    }
    floors
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::trust::Thresholds;

    fn host(text: &str) -> HostFile {
        toml::from_str(text).unwrap()
    }

    fn merge(present: &str, said: &str) -> Merged {
        merged(host(present), &host(said), true)
    }

    fn text(host: &HostFile) -> String {
        toml::to_string(host).unwrap()
    }

    #[test]
    fn what_a_host_says_for_itself_does_not_become_weaker() {
        let own = "signatures_min = 2\nsigners_signatures_min = 3\nsigners_number = 4\n\
            require_origin = true\norigins = [\"deploy1\"]\n\
            [[signatures]]\nrepo = \"site\"\nmin = 3\n\
            [[signed_commits]]\nrepo = \"site\"\nkeyring = \"/etc/keys\"\n\
            [[floor]]\nrepo = \"site\"\nsequence = 7\n";
        let said = "environments = [\"staging\"]\naudiences = []\norigins = [\"deploy2\"]\n";
        let found = merge(own, said);
        assert_eq!(found.host.environments, ["staging".parse().unwrap()]);
        assert!(found.host.audiences.is_empty());
        assert_eq!(found.host.origins, ["deploy2".parse().unwrap()]);
        assert_eq!(found.host.require_origin, Some(true));
        let (host, own) = (found.host, host(own));
        assert_eq!(host.signatures_min, own.signatures_min);
        assert_eq!(host.signers_signatures_min, own.signers_signatures_min);
        assert_eq!(host.signers_number, 4);
        assert_eq!(host.signatures, own.signatures);
        assert_eq!(host.signed_commits, own.signed_commits);
        assert_eq!(host.floors, own.floors);
        assert!(found.keeps_signers);
        let kept = [
            "signatures_min",
            "signers_signatures_min",
            "signers_number and allowed_signers",
            "require_origin",
            "[[signatures]]",
            "[[signed_commits]]",
            "[[floor]]",
        ];
        assert_eq!(found.kept, kept);
    }

    #[test]
    fn what_a_coordinator_asks_for_beyond_that_is_taken_over() {
        let said = "signatures_min = 2\nsigners_signatures_min = 3\nsigners_number = 4\n\
            origins = [\"deploy1\"]\n[[signatures]]\nrepo = \"site\"\nmin = 3\n\
            [[signed_commits]]\nkeyring = \"/etc/keys\"\n\
            [[floor]]\nrepo = \"site\"\nsequence = 7\n";
        for present in ["", said] {
            let found = merge(present, said);
            assert_eq!(text(&found.host), text(&host(said)));
            assert_eq!((found.keeps_signers, found.kept), (false, vec![]));
        }
        // The host's own rule about the same stays the first.
        let found = merge("[[signed_commits]]\nkeyring = \"/etc/own\"\n", said);
        let keyrings = found.host.signed_commits.iter();
        let keyrings: Vec<_> = keyrings.filter_map(|it| it.keyring.clone()).collect();
        assert_eq!(keyrings, ["/etc/own", "/etc/keys"].map(PathBuf::from));
    }

    #[test]
    fn each_release_takes_the_more_of_what_both_ask_for() {
        let files = [
            "",
            "signatures_min = 3\n",
            "signatures_min = 3\n[[signatures]]\nrepo = \"site\"\nmin = 1\n",
            "[[signatures]]\nenvironment = \"staging\"\nmin = 2\n",
            "signatures_min = 2\n[[signatures]]\nmin = 1\n",
            "signers_signatures_min = 4\n[[signatures]]\nrepo = \"site\"\nenvironment = \"staging\"\nmin = 5\n",
        ];
        let thresholds = |file: &HostFile| {
            let rules = file.signatures.clone();
            Thresholds::new(file.signatures_min, rules, file.signers_signatures_min).unwrap()
        };
        for (present, said) in files
            .iter()
            .flat_map(|one| files.iter().map(move |two| (one, two)))
        {
            let found = thresholds(&merge(present, said).host);
            let (present, said) = (thresholds(&host(present)), thresholds(&host(said)));
            for (repo, environment) in [
                ("site", "staging"),
                ("site", "production"),
                ("db", "staging"),
                ("db", "production"),
            ] {
                let of =
                    |it: &Thresholds| it.of(&repo.parse().unwrap(), &environment.parse().unwrap());
                assert!(
                    of(&found) >= of(&present).max(of(&said)),
                    "{present:?} {said:?}"
                );
            }
            let of = Thresholds::of_signers;
            assert!(
                of(&found) >= of(&present).max(of(&said)),
                "{present:?} {said:?}"
            );
        }
        for file in files {
            let found = merge(file, file);
            assert_eq!(text(&found.host), text(&host(file)), "the same again");
        }
    }

    #[test]
    fn origins_are_the_coordinators_unless_the_host_would_take_releases_from_more() {
        for (present, said, expected) in [
            (
                "origins = [\"a\"]",
                "origins = [\"b\"]",
                "origins = [\"b\"]",
            ),
            ("", "origins = [\"b\"]", "origins = [\"b\"]"),
            ("origins = [\"a\"]", "", "origins = [\"a\"]"),
            (
                "origins = [\"a\"]",
                "require_origin = false\norigins = [\"b\"]",
                "origins = [\"a\"]",
            ),
            (
                "require_origin = false",
                "origins = [\"b\"]",
                "require_origin = false",
            ),
            ("", "require_origin = false", "require_origin = false"),
        ] {
            let found = merge(present, said).host;
            let expected = host(expected);
            assert_eq!(
                (found.require_origin, found.origins),
                (expected.require_origin, expected.origins),
                "{present} {said}"
            );
        }
    }

    #[test]
    fn a_number_of_signers_goes_with_its_file() {
        let (earlier, later) = ("signers_number = 1\n", "signers_number = 2\n");
        let found = merge(earlier, later);
        assert_eq!((found.host.signers_number, found.keeps_signers), (2, false));
        let found = merge(later, earlier);
        assert_eq!((found.host.signers_number, found.keeps_signers), (2, true));
        let found = merged(host(earlier), &host(later), false);
        assert_eq!((found.host.signers_number, found.keeps_signers), (1, true));
    }
}
