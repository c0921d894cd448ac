//! Becoming who a coordinator says that this host is: what it answered to a request, checked as a whole and installed.

mod merge;

use std::path::{Path, PathBuf};

use scap_proto::{
    identity::{
        Certificate, Enrolment, FileError, Identity, PeerIdentity, Role,
        install::{Expected, InstallError, Staged, file_in},
    },
    release::UnixMillis,
};

use self::merge::merged;
use crate::trust::{HOST_FILE, HostFile, HostTrust, TrustError};

/// Why what came is not this host's identity.
#[derive(Debug, thiserror::Error)]
pub enum BecomeError {
    /// It could not be installed.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// The host could not run with it.
    #[error("check what came")]
    Trust(#[from] TrustError),
    /// It is not an agent's.
    #[error("what came is the identity of {0}, which is no agent")]
    Role(PeerIdentity),
    /// What it or this host says of its environments.
    #[error("parse {path}")]
    Host {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
}

impl BecomeError {
    /// Whether what came is of others than it was expected from: who gave it is no coordinator of the fleet, whatever it showed.
    pub fn is_strangers(&self) -> bool {
        let Self::Install(error) = self else {
            return false;
        };
        matches!(
            error,
            InstallError::OtherFleet { .. } | InstallError::OtherAuthority { .. }
        )
    }
}

/// A host that has become who a coordinator says that it is.
#[derive(Debug)]
pub struct Installed {
    /// Who it is.
    pub identity: Identity,
    /// What its `host.toml` goes on saying otherwise than the coordinator does, by name.
    pub kept: Vec<&'static str>,
}

/// Makes `enrolment` the identity in `directory`, for the key that is there, where it is of the fleet and authority that are
/// `expected`. The policy that is in its `host.toml` may become stricter by what came, and not weaker; and a later signers file
/// than the one that came stays.
///
/// # Errors
/// [`BecomeError`]: what was there stays. After a crash it is what was there, or the new one.
pub fn install(
    directory: &Path,
    enrolment: &Enrolment,
    expected: Option<&Expected>,
    now: UnixMillis,
) -> Result<Installed, BecomeError> {
    let (enrolment, kept) = with_own_policy(directory, enrolment)?;
    let staged = Staged::new(directory, &enrolment, None)?;
    if let Some(expected) = expected {
        staged.check(expected)?;
    }
    let own = staged.identity().own();
    if own.role != Role::Agent {
        return Err(BecomeError::Role(own.clone()));
    }
    let trust = HostTrust::load(&staged.path(), now)?;
    trust.identity.check_time(now.0).map_err(TrustError::from)?;
    let identity = staged.commit()?;
    Ok(Installed { identity, kept })
}

/// What came, as far as the policy that is there lets it, and what that keeps.
fn with_own_policy(
    directory: &Path,
    enrolment: &Enrolment,
) -> Result<(Enrolment, Vec<&'static str>), BecomeError> {
    let mut enrolment = enrolment.clone();
    let path = file_in(directory, HOST_FILE);
    let parse = |text: &[u8]| -> Result<HostFile, BecomeError> {
        toml::from_slice(text).map_err(|error| BecomeError::Host {
            path: path.clone(),
            source: error.into(),
        })
    };
    let said = enrolment.host.as_deref().map(parse).transpose()?;
    let mut present = match std::fs::read(&path) {
        Ok(text) => parse(&text)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok((enrolment, Vec::new()));
        }
        Err(source) => {
            let error = FileError::Read { path, source };
            return Err(InstallError::from(error).into());
        }
    };
    // Of a file that comes without a number it is not known to be a later one.
    let said = said.unwrap_or_else(|| HostFile {
        signers_number: 0,
        ..present.clone()
    });
    if enrolment.allowed_signers.is_some() && is_of_another_authority(directory, &enrolment) {
        present.signers_number = 0;
    }
    let merged = merged(present, &said, enrolment.allowed_signers.is_some());
    if merged.keeps_signers {
        enrolment.allowed_signers = None;
    }
    if enrolment.host.is_some() {
        let host = toml::to_string(&merged.host).expect("names and numbers are TOML");
        enrolment.host = Some(host.into());
    }
    Ok((enrolment, merged.kept))
}

/// Whether none of the authorities that the present identity came with issued what came: then the fleet began anew, and its signers
/// files are counted anew, or moved on without this host.
fn is_of_another_authority(directory: &Path, enrolment: &Enrolment) -> bool {
    let (Ok(present), Some(came)) = (
        Identity::load(directory),
        Certificate::from_pem(&enrolment.certificate),
    ) else {
        return false;
    };
    present.trust().issuer_of(&came.der).is_none()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use bytes::Bytes;
    use scap_proto::{
        extensions::Extensions,
        identity::{AuthorityPin, CertificateAuthority, IdentityRequest, Validity, install},
    };

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_767_323_045_000);

    fn authority(fleet: &str) -> CertificateAuthority {
        CertificateAuthority::create(&fleet.parse().unwrap(), NOW.0).unwrap()
    }

    fn answer(directory: &Path, role: Role, host: &'static [u8]) -> Enrolment {
        answer_of(&authority("prod"), directory, role, host)
    }

    fn answer_of(
        authority: &CertificateAuthority,
        directory: &Path,
        role: Role,
        host: &'static [u8],
    ) -> Enrolment {
        let asked = install::request(directory).unwrap();
        let asked = IdentityRequest::parse(asked.as_bytes()).unwrap();
        let node = authority.node(role, "web1".parse().unwrap());
        let issued = authority.issue(&node, asked.public_key(), Validity::leaf(NOW.0));
        Enrolment {
            certificate: issued.unwrap().pem,
            authorities: authority.certificate().pem.clone(),
            allowed_signers: Some(Bytes::new()),
            host: Some(Bytes::from_static(host)),
            membership: None,
            extensions: Extensions::default(),
        }
    }

    #[test]
    fn a_host_keeps_its_floors_and_its_threshold_when_it_is_enrolled_again() {
        let folder = tempfile::tempdir().unwrap();
        let text = "signatures_min = 2\n[[floor]]\nrepo = \"site\"\nsequence = 7\n";
        let path = folder.path().join(HOST_FILE);
        std::fs::write(&path, text).unwrap();
        let came = answer(
            folder.path(),
            Role::Agent,
            b"environments = [\"staging\"]\n",
        );
        install(folder.path(), &came, None, NOW).unwrap();
        let kept: HostFile = toml::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(kept.signatures_min.get(), 2);
        assert_eq!(kept.floors[0].sequence, 7);
        assert_eq!(kept.environments, ["staging".parse().unwrap()]);
    }

    #[test]
    fn an_earlier_signers_file_does_not_take_the_place_of_a_later_one() {
        let folder = tempfile::tempdir().unwrap();
        let signers = |came: &mut Enrolment, text: &'static str| {
            came.allowed_signers = Some(Bytes::from_static(text.as_bytes()));
        };
        let (ours, anew) = (authority("prod"), authority("prod"));
        let install_of = |authority, text: &'static str, host: Option<&'static [u8]>| {
            let mut came = answer_of(authority, folder.path(), Role::Agent, b"");
            came.host = host.map(Bytes::from_static);
            signers(&mut came, text);
            install(folder.path(), &came, None, NOW).unwrap().kept
        };
        let install = |text, host| install_of(&ours, text, host);
        let read = || std::fs::read_to_string(folder.path().join("allowed_signers")).unwrap();
        let number = |number: &'static str| Some(number.as_bytes());
        assert!(install("# 2\n", number("signers_number = 2\n")).is_empty());
        let named = ["signers_number and allowed_signers"];
        for host in [number("signers_number = 1\n"), number(""), None] {
            assert_eq!(install("# 1\n", host), named);
            assert_eq!(read(), "# 2\n");
            let trust = HostTrust::load(folder.path(), NOW).unwrap();
            assert_eq!(trust.signers_number(), 2);
        }
        assert!(install("# 3\n", number("signers_number = 3\n")).is_empty());
        assert_eq!(read(), "# 3\n");
        // Of a fleet that began anew the files are others, and those before may be a thief's.
        assert!(install_of(&anew, "# anew\n", number("")).is_empty());
        assert_eq!(read(), "# anew\n");
    }

    #[test]
    fn what_is_not_of_the_expected_fleet_and_authority_is_not_installed() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, evil) = (authority("prod"), authority("prod"));
        let expected = Expected {
            fleet: "prod".parse().unwrap(),
            pin: AuthorityPin::of(&ours.certificate().der),
        };
        let came = |authority: &CertificateAuthority| {
            answer_of(authority, folder.path(), Role::Agent, b"")
        };
        let install = |came: &Enrolment| install(folder.path(), came, Some(&expected), NOW);
        // That the pinned one is shown too does not help.
        let mut with_ours = came(&evil);
        with_ours.authorities.push_str(&ours.certificate().pem);
        for refused in [came(&evil), with_ours, came(&authority("other"))] {
            let refused = install(&refused).unwrap_err();
            assert!(refused.is_strangers(), "{refused}");
            assert!(!folder.path().join("node.crt").exists());
        }
        install(&came(&ours)).unwrap();
    }

    #[test]
    fn what_a_host_could_not_run_with_is_not_installed() {
        let folder = tempfile::tempdir().unwrap();
        let refuse = |came: &Enrolment, now| {
            let refused = install(folder.path(), came, None, now).unwrap_err();
            assert!(!folder.path().join("node.crt").exists());
            refused
        };
        let came = answer(folder.path(), Role::Coordinator, b"");
        assert!(matches!(refuse(&came, NOW), BecomeError::Role(_)));
        let came = answer(folder.path(), Role::Agent, b"unknown = 1\n");
        assert!(matches!(refuse(&came, NOW), BecomeError::Host { .. }));
        let mut came = answer(folder.path(), Role::Agent, b"");
        let early = UnixMillis(NOW.0 - 7 * 24 * 3600 * 1000);
        let refused = refuse(&came, early);
        assert!(matches!(refused, BecomeError::Trust(TrustError::Time(_))));
        came.allowed_signers = None;
        assert!(matches!(refuse(&came, NOW), BecomeError::Trust(_)));
    }
}
