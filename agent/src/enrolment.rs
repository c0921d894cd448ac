//! Becoming who a coordinator says that this host is: what it answered to a request, checked as a whole and installed.

use std::path::{Path, PathBuf};

use scap_proto::{
    identity::{
        Enrolment, FileError, Identity, PeerIdentity, Role, SecretKey,
        install::{InstallError, Staged, file_in},
    },
    release::UnixMillis,
};

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

/// Makes `enrolment` the identity in `directory`, for the key that is there or for `new_key`. What whoever runs this host wrote
/// into its `host.toml` stays: floors, and how many must sign.
///
/// # Errors
/// [`BecomeError`]: what was there stays. After a crash it is what was there, or the new one.
pub fn install(
    directory: &Path,
    enrolment: &Enrolment,
    new_key: Option<&SecretKey>,
    now: UnixMillis,
) -> Result<Identity, BecomeError> {
    let enrolment = Enrolment {
        host: enrolment
            .host
            .as_deref()
            .map(|said| merged(directory, said))
            .transpose()?
            .map(Into::into),
        ..enrolment.clone()
    };
    let staged = Staged::new(directory, &enrolment, new_key)?;
    let own = staged.identity().own();
    if own.role != Role::Agent {
        return Err(BecomeError::Role(own.clone()));
    }
    let trust = HostTrust::load(&staged.path(), now)?;
    trust.identity.check_time(now.0).map_err(TrustError::from)?;
    Ok(staged.commit()?)
}

/// The `host.toml` that came, with what the present one says and a coordinator does not know.
fn merged(directory: &Path, said: &[u8]) -> Result<String, BecomeError> {
    let path = file_in(directory, HOST_FILE);
    let parse = |text: &[u8]| -> Result<HostFile, BecomeError> {
        toml::from_slice(text).map_err(|error| BecomeError::Host {
            path: path.clone(),
            source: error.into(),
        })
    };
    let mut host = parse(said)?;
    let present = match std::fs::read(&path) {
        Ok(text) => parse(&text)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => HostFile::default(),
        Err(source) => {
            let error = FileError::Read { path, source };
            return Err(InstallError::from(error).into());
        }
    };
    host.signatures_min = host.signatures_min.max(present.signatures_min);
    if host.floors.is_empty() {
        host.floors = present.floors;
    }
    Ok(toml::to_string(&host).expect("names and numbers are TOML"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use bytes::Bytes;
    use scap_proto::{
        extensions::Extensions,
        identity::{CertificateAuthority, IdentityRequest, Validity, install},
    };

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_767_323_045_000);

    fn answer(directory: &Path, role: Role, host: &'static [u8]) -> Enrolment {
        let authority = CertificateAuthority::create(&"prod".parse().unwrap(), NOW.0).unwrap();
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
