//! Enrolling one host over ssh: its agent makes the key there, and we certify what the fleet file says that the host is.

use jiff::Timestamp;
use scap_agent::clock;
use scap_proto::{
    id::NodeId,
    identity::{
        Certificate, IdentityRequest, PUBLIC_KEY_BYTES, Refusal, RequestError, Role,
        key_fingerprint,
    },
    reason::Reason,
    release::Environment,
};

use super::{
    client::{Said, Ssh, SshError},
    log::{HostKey, SshLog},
    target::Target,
};
use crate::{
    contained::Panicked,
    state::{Enrolled, How, StateDirectory, StateError, TrustError, revoked},
};

/// The agent on a host, and how it is run there.
#[derive(Debug, Clone)]
pub struct OnHost {
    /// The program: a name, or a path there.
    pub agent: String,
    /// The identity directory there; the agent's own default where it is not said.
    pub identity: Option<String>,
    /// Whose the identity directory is to be, where it is made; the agent's own default where it is not said.
    pub user: Option<String>,
    /// Run everything there by `sudo -n`.
    pub sudo: bool,
}

impl OnHost {
    fn exchange(&self) -> String {
        let agent = quoted(&self.agent);
        let mut command = format!("{}{agent} identity exchange", self.sudo());
        for (flag, value) in [("--identity", &self.identity), ("--user", &self.user)] {
            if let Some(value) = value {
                command.push_str(&format!(" {flag}={}", quoted(value)));
            }
        }
        command
    }

    fn start(&self) -> String {
        format!("{}systemctl enable --now {UNIT}", self.sudo())
    }

    fn sudo(&self) -> &'static str {
        if self.sudo { "sudo -n -- " } else { "" }
    }
}

/// How hosts are enrolled over ssh.
#[derive(Debug, Clone)]
pub struct SshEnrolment {
    /// Whose authority certifies them.
    pub state: StateDirectory,
    /// How they are reached.
    pub ssh: Ssh,
    /// What is run there.
    pub on_host: OnHost,
    /// Start the agent's unit, and have it start with the host.
    pub start: bool,
    /// Lift the revocation of hosts that are revoked; else they are refused.
    pub readmit: bool,
}

/// What a host has now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// Whether that is of now.
    pub outcome: Outcome,
    /// Its public key's fingerprint.
    pub key: String,
    /// The fingerprint of the key that it was enrolled with before, where that is another one.
    pub key_before: Option<String>,
    /// The environments that it is in.
    pub environments: Vec<Environment>,
    /// Until when its certificate is valid.
    pub valid_until: Timestamp,
    /// Whether it was revoked until now.
    pub is_readmitted: bool,
    /// Its ssh key.
    pub host_key: Option<HostKey>,
}

/// Whether a host was enrolled now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It has a new certificate.
    Enrolled,
    /// It had the one that we gave it last, for this name and these environments, and that is good.
    AlreadyEnrolled,
}

impl Outcome {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enrolled => "enrolled",
            Self::AlreadyEnrolled => "already-enrolled",
        }
    }
}

/// Why a host was not enrolled, or is and does not run.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// ssh.
    #[error(transparent)]
    Ssh(#[from] SshError),
    /// What it sent is no request.
    #[error("what its agent printed is {0}")]
    Request(#[from] RequestError),
    /// The work on it panicked.
    #[error(transparent)]
    Panicked(#[from] Panicked),
    /// Its agent asked for nothing.
    #[error("its agent printed no request")]
    NoRequest,
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// It has a good identity, of somebody else.
    #[error("it has the identity of {0} already")]
    Other(String),
    /// The agent there failed.
    #[error("its agent: {said} (exit code {code})")]
    Agent {
        /// Its exit code.
        code: i32,
        /// Its last word, escaped.
        said: String,
    },
    /// The agent's unit was not started.
    #[error("it is enrolled, and {UNIT} was not started: {said} (exit code {code})")]
    Start {
        /// The exit code of systemctl, or of sudo.
        code: i32,
        /// The last word there, escaped.
        said: String,
    },
}

impl EnrolError {
    /// Its code.
    pub fn code(&self) -> Reason {
        match self {
            Self::Ssh(error) => error.code(),
            Self::Request(_) | Self::NoRequest => Reason::BadRequest,
            Self::State(error) => error.code(),
            Self::Other(_) | Self::Agent { .. } => Reason::AgentFailed,
            Self::Panicked(_) => Reason::EnrollBroken,
            Self::Start { .. } => Reason::ServiceFailed,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Ssh(error) => error.hint(),
            Self::State(error) => error.hint(),
            Self::Other(_) => Some("move its identity directory away there first".into()),
            // What shells say of a program that is not there, or is none.
            Self::Agent {
                code: 126 | 127, ..
            } => Some("install scap-agent there, or say where it is with --agent".into()),
            _ => None,
        }
    }
}

/// A host that was not enrolled.
#[derive(Debug)]
pub struct Failed {
    /// Why.
    pub error: EnrolError,
    /// Its ssh key, where it came to that.
    pub host_key: Option<HostKey>,
}

/// What was decided of a request, before what it comes to is known.
struct Decision {
    outcome: Outcome,
    key: [u8; PUBLIC_KEY_BYTES],
    key_before: Option<String>,
    environments: Vec<Environment>,
    valid_until: Timestamp,
    is_readmitted: bool,
    host_key: Option<HostKey>,
    answer: Vec<u8>,
}

impl SshEnrolment {
    /// Enrols `host`, which is in `environments` and is reached as `target`. A host is left as it is where it shows the latest
    /// certificate that we gave it, by the authority that issues now, and more than a third of its life is left.
    ///
    /// Dropped, or where it fails, the host has what it had, or its new identity.
    ///
    /// # Errors
    /// [`Failed`].
    pub async fn enrol(
        &self,
        host: &NodeId,
        environments: &[Environment],
        target: &Target,
    ) -> Result<Done, Failed> {
        let mut seen = None;
        let done = self.exchange(host, environments, target, &mut seen).await;
        done.map_err(|error| Failed {
            error,
            host_key: seen,
        })
    }

    async fn exchange(
        &self,
        host: &NodeId,
        environments: &[Environment],
        target: &Target,
        seen: &mut Option<HostKey>,
    ) -> Result<Done, EnrolError> {
        let mut decided = None;
        let command = self.on_host.exchange();
        let answer = |printed: &str, log: &SshLog| -> Result<Vec<u8>, EnrolError> {
            seen.clone_from(&log.host_key);
            let mut decision = self.decide(host, environments, printed)?;
            decision.host_key.clone_from(&log.host_key);
            let answer = std::mem::take(&mut decision.answer);
            decided = Some(decision);
            Ok(answer)
        };
        let said = self.ssh.converse(target, &command, REQUEST_END, answer);
        let said = said.await?;
        if let Some((code, said)) = failure(&said) {
            return Err(EnrolError::Agent { code, said });
        }
        let decided = decided.ok_or(EnrolError::NoRequest)?;
        if self.start {
            self.start_agent(target).await?;
        }
        Ok(Done {
            outcome: decided.outcome,
            key: key_fingerprint(&decided.key),
            key_before: decided.key_before,
            environments: decided.environments,
            valid_until: decided.valid_until,
            is_readmitted: decided.is_readmitted,
            host_key: decided.host_key,
        })
    }

    async fn start_agent(&self, target: &Target) -> Result<(), EnrolError> {
        let nothing = |_: &str, _: &SshLog| -> Result<Vec<u8>, EnrolError> { Ok(Vec::new()) };
        let command = self.on_host.start();
        let said = self.ssh.converse(target, &command, "", nothing).await?;
        match failure(&said) {
            Some((code, said)) => Err(EnrolError::Start { code, said }),
            None => Ok(()),
        }
    }

    /// What the host's request comes to. Of all that it printed its key counts, and a certificate that we gave for that.
    fn decide(
        &self,
        host: &NodeId,
        environments: &[Environment],
        printed: &str,
    ) -> Result<Decision, EnrolError> {
        let begin = printed.rfind(REQUEST_BEGIN).ok_or(EnrolError::NoRequest)?;
        let (before, request) = printed.split_at(begin);
        let request = IdentityRequest::parse(request.as_bytes())?;
        let key = *request.public_key();
        let environments = match environments {
            [] => vec![Environment::default()],
            said => said.to_vec(),
        };
        let record = self.state.enrolment(host)?;
        let present = Certificate::from_pem(before).filter(|it| it.leaf_key() == Some(key));
        if let Some(present) = present {
            let is_good = self.check_own(host, &present)?;
            if let Some(record) = &record
                && is_good
                && record.is_of(&present.der)
                && record.environments == environments
            {
                return Ok(Decision {
                    outcome: Outcome::AlreadyEnrolled,
                    key,
                    key_before: None,
                    environments,
                    valid_until: record.valid_until,
                    is_readmitted: false,
                    host_key: None,
                    answer: Vec::new(),
                });
            }
        }
        let enrolled = Enrolled {
            host: host.clone(),
            environments: environments.clone(),
            how: How::Ssh,
            readmit: self.readmit,
        };
        let certified = self.state.certify(&enrolled, &key, clock::now())?;
        let given = self.state.enrolment(host)?.ok_or(EnrolError::NoRequest)?;
        let before = record.filter(|record| record.public_key != key);
        Ok(Decision {
            outcome: Outcome::Enrolled,
            key,
            key_before: before.map(|record| record.fingerprint()),
            environments,
            valid_until: given.valid_until,
            is_readmitted: certified.is_readmitted,
            host_key: None,
            answer: certified.enrolment.encode(),
        })
    }

    /// Refuses a host that is somebody else already, or has a key that is revoked. Says whether what it has is good for long
    /// enough, and of the authority that issues now.
    fn check_own(&self, host: &NodeId, present: &Certificate) -> Result<bool, EnrolError> {
        let identity = self.state.identity()?;
        let (trust, now) = (identity.trust(), clock::now().0);
        // First, whatever our clock says of it.
        if let Some(Refusal::Revoked { .. }) = trust.cut_off(&present.der) {
            return Err(StateError::from(TrustError::KeyRevoked(host.clone())).into());
        }
        match trust.check(&present.der, now) {
            Ok(peer) if peer.role == Role::Agent && peer.name == *host => {}
            Ok(peer) => return Err(EnrolError::Other(peer.to_string())),
            Err(Refusal::UnknownIssuer { claimed }) => {
                return Err(EnrolError::Other(claimed.to_string()));
            }
            // By our clock, or of an authority that is believed no more. A new one is what it needs.
            Err(_) => return Ok(false),
        }
        let authority = self.state.authority()?;
        let is_of_now = trust.issuer_of(&present.der) == Some(*authority.public_key());
        let is_young = present.leaf_validity().is_some_and(|validity| {
            let until = validity.not_after_unix_ms;
            let life = until.saturating_sub(validity.not_before_unix_ms);
            until.saturating_sub(now) > life / 3
        });
        Ok(is_of_now && is_young && !revoked(trust).contains_key(host))
    }
}

/// The host's ssh key, as it is shown.
pub fn fingerprint_line(key: &HostKey) -> String {
    let is_new = if key.is_new { ", now known" } else { "" };
    format!("{}{is_new}", key.fingerprint.escape_debug())
}

/// The agent's unit.
const UNIT: &str = "scap-agent.service";
const REQUEST_BEGIN: &str = "-----BEGIN CERTIFICATE REQUEST-----";
const REQUEST_END: &str = "-----END CERTIFICATE REQUEST-----";
/// Longest last word of a host that is shown, in characters: it names a file and a cause.
const SAID_CHARS_MAX: usize = 300;

/// How a command failed, and its last word.
fn failure(said: &Said) -> Option<(i32, String)> {
    let code = said.status.code().filter(|code| *code != 0)?;
    let word = said.last_error.as_deref().unwrap_or("it said nothing");
    let word = word.chars().take(SAID_CHARS_MAX).collect::<String>();
    Some((code, word.escape_debug().to_string()))
}

/// One word for the login shell of a host.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::{fs, time::Duration};

    use scap_proto::{
        identity::{Denial, Denied, Enrolment, SecretKey},
        release::UnixMillis,
    };
    use tempfile::TempDir;

    use super::*;

    const DAY: u64 = 24 * 3600 * 1000;

    /// A coordinator, and what one host has.
    struct World {
        folder: TempDir,
        enrolment: SshEnrolment,
        key: SecretKey,
        certificate: String,
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("st");
            // No certificate begins before its authority's.
            let made = UnixMillis(clock::now().0 - 300 * DAY);
            StateDirectory::init(&path, &"prod".parse().unwrap(), made).unwrap();
            let enrolment = SshEnrolment {
                state: StateDirectory::open(&path).unwrap(),
                ssh: Ssh {
                    config: None,
                    options: Vec::new(),
                    accept_new: false,
                    batch: true,
                    timeout: Duration::from_secs(1),
                },
                on_host: OnHost {
                    agent: "scap-agent".into(),
                    identity: None,
                    user: None,
                    sudo: false,
                },
                start: false,
                readmit: false,
            };
            Self {
                folder,
                enrolment,
                key: SecretKey::generate(),
                certificate: String::new(),
            }
        }

        /// What is decided of what the host prints; it installs what it is given.
        fn enrol(&mut self, environment: &str) -> Result<Outcome, EnrolError> {
            let decision = self.decide(environment)?;
            if decision.outcome == Outcome::Enrolled {
                let given = Enrolment::decode(&decision.answer).unwrap();
                self.certificate = given.certificate;
            }
            Ok(decision.outcome)
        }

        fn decide(&self, environment: &str) -> Result<Decision, EnrolError> {
            let request = IdentityRequest::create(&self.key);
            let printed = format!("{}{request}", self.certificate);
            let environments = [environment.parse().unwrap()];
            self.enrolment.decide(&host(), &environments, &printed)
        }

        fn certify(&mut self, now: UnixMillis) {
            let enrolled = Enrolled {
                host: host(),
                environments: vec!["production".parse().unwrap()],
                how: How::Ssh,
                readmit: false,
            };
            let state = &self.enrolment.state;
            let given = state.certify(&enrolled, self.key.public(), now).unwrap();
            self.certificate = given.enrolment.certificate;
        }

        fn revoke(&self) {
            let (state, now) = (&self.enrolment.state, clock::now());
            let identity = state.identity().unwrap();
            let denial = Denial {
                who: Denied::Node {
                    role: Role::Agent,
                    name: host(),
                    issued_until: now,
                },
                reason: "stolen".into(),
                since: now,
                is_enrolled_again: false,
            };
            let signed = state.sign_trust(identity.trust(), now, |trust| {
                trust.denials.push(denial.clone());
            });
            signed.unwrap();
        }
    }

    fn host() -> NodeId {
        "web1".parse().unwrap()
    }

    const ENROLLED: Outcome = Outcome::Enrolled;
    const ALREADY: Outcome = Outcome::AlreadyEnrolled;

    #[test]
    fn a_host_is_enrolled_already_only_with_the_latest_certificate_that_it_was_given() {
        let mut world = World::new();
        assert_eq!(world.enrol("staging").unwrap(), ENROLLED);
        assert_eq!(world.enrol("staging").unwrap(), ALREADY);
        // Recorded, and never installed.
        assert_eq!(world.decide("production").unwrap().outcome, ENROLLED);
        assert_eq!(world.enrol("production").unwrap(), ENROLLED);
        assert_eq!(world.enrol("production").unwrap(), ALREADY);
        // Of a build that did not record which it gave.
        let record = "st/enrolments/web1/certificate.toml";
        let record = world.folder.path().join(record);
        let text = fs::read_to_string(&record).unwrap();
        let lines = text.lines().filter(|it| !it.starts_with("certificate ="));
        fs::write(&record, lines.collect::<Vec<_>>().join("\n")).unwrap();
        assert_eq!(world.enrol("production").unwrap(), ENROLLED);
        assert_eq!(world.enrol("production").unwrap(), ALREADY);
    }

    #[test]
    fn a_certificate_that_is_old_or_of_an_authority_before_is_no_good_one() {
        let mut world = World::new();
        let ago = |days: u64| UnixMillis(clock::now().0 - days * DAY);
        world.certify(ago(240));
        assert_eq!(world.enrol("production").unwrap(), ALREADY);
        for days in [250, 290] {
            world.certify(ago(days));
            assert_eq!(world.enrol("production").unwrap(), ENROLLED, "{days} days");
        }
        let (state, now) = (world.enrolment.state.clone(), clock::now());
        let identity = || state.identity().unwrap();
        state.begin_rotation(identity().trust(), now).unwrap();
        assert_eq!(world.enrol("production").unwrap(), ALREADY);
        state.switch_authority(&identity(), now).unwrap();
        let old = world.certificate.clone();
        assert_eq!(world.enrol("production").unwrap(), ENROLLED);
        assert_eq!(world.enrol("production").unwrap(), ALREADY);
        state.finish_rotation(identity().trust(), now).unwrap();
        assert_eq!(world.enrol("production").unwrap(), ALREADY);
        world.certificate = old;
        assert_eq!(world.enrol("production").unwrap(), ENROLLED);
    }

    #[test]
    fn a_revoked_host_is_back_with_a_new_key_where_somebody_says_so() {
        let mut world = World::new();
        world.enrol("production").unwrap();
        world.revoke();
        world.enrolment.readmit = true;
        let assert_key_refused = |world: &mut World| {
            let error = world.enrol("production").unwrap_err();
            assert_eq!(error.code(), Reason::Revoked, "{error}");
            let hint = error.hint().unwrap();
            assert!(hint.contains("makes a new key"), "{hint}");
        };
        assert_key_refused(&mut world);
        // By what it shows, where nothing is recorded here.
        fs::remove_dir_all(world.folder.path().join("st/enrolments")).unwrap();
        assert_key_refused(&mut world);

        world.key = SecretKey::generate();
        world.certificate.clear();
        world.enrolment.readmit = false;
        let error = world.enrol("production").unwrap_err();
        assert_eq!(error.code(), Reason::Revoked, "{error}");
        assert!(error.hint().unwrap().contains("--readmit"));
        world.enrolment.readmit = true;
        let decision = world.decide("production").unwrap();
        assert!(decision.is_readmitted);
        let decision = world.decide("production").unwrap();
        assert!(!decision.is_readmitted);
    }

    #[test]
    fn what_is_run_on_a_host_is_one_word_each_for_its_shell() {
        let mut on_host = OnHost {
            agent: "scap-agent".into(),
            identity: None,
            user: None,
            sudo: false,
        };
        assert_eq!(on_host.exchange(), "'scap-agent' identity exchange");
        assert_eq!(on_host.start(), "systemctl enable --now scap-agent.service");
        on_host.agent = "/opt/it's; id/scap-agent".into();
        on_host.identity = Some("/etc/$(id)".into());
        on_host.user = Some("-x".into());
        on_host.sudo = true;
        let expected = r"sudo -n -- '/opt/it'\''s; id/scap-agent' identity exchange --identity='/etc/$(id)' --user='-x'";
        assert_eq!(on_host.exchange(), expected);
    }
}
