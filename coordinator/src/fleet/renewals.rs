//! Renewals over a control tree: each host's report shows its certificate and that the host has its key, and what is due goes
//! down to it. So hosts that stand behind others are renewed too, and no host has to ask.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use scap_agent::{
    clock, error_chain,
    relay::{Command, Teller},
};
use scap_proto::{
    id::NodeId,
    identity::{Life, PUBLIC_KEY_BYTES, Validity},
    reason::{Because, Reason},
    release::{LeafSigned, UnixMillis},
    wire::control::ControlMessage,
};
use tokio::{sync::mpsc, task::JoinSet};

use crate::state::StateDirectory;

/// How long a host is given to show what it was sent, before it is sent another one.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Most renewals that wait to be made. Each takes a signature and two writes; what has no room is due again when its host
/// reports again.
const WAITING_MAX: usize = 1024;

/// Who makes renewals, and of which hosts.
#[derive(Debug, Clone)]
pub struct Renewer {
    /// With the authority, and the records of enrolments.
    pub state: StateDirectory,
    /// Of which hosts.
    pub which: Which,
}

/// Whose certificates are renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Nobody's: they are looked at.
    None,
    /// Those of which a third or less is left, or nothing.
    Due,
    /// All.
    All,
}

impl Which {
    /// Whether one is that is valid then.
    pub(super) fn includes(self, valid: Validity, now: UnixMillis) -> bool {
        match self {
            Self::None => false,
            Self::Due => valid.life(now.0) != Life::Good,
            Self::All => true,
        }
    }
}

/// What is known of the hosts' certificates, as their reports show them.
#[derive(Debug, Clone, Default)]
pub struct Certificates(Arc<Mutex<BTreeMap<NodeId, Known>>>);

/// What is known of one.
#[derive(Debug, Clone)]
pub struct Known {
    /// When it is valid.
    pub valid: Validity,
    /// Why it was not renewed.
    pub problem: Option<Because>,
    /// When it was to be renewed last.
    tried: Option<Instant>,
}

/// A renewal to be made.
struct Due {
    host: NodeId,
    key: [u8; PUBLIC_KEY_BYTES],
    valid: Validity,
}

/// Looks at certificates as they come by, and has them renewed. Dropping it ends that.
#[derive(Debug)]
pub(super) struct Renewals {
    renewer: Renewer,
    certificates: Certificates,
    due: mpsc::Sender<Due>,
    _making: JoinSet<()>,
}

impl Certificates {
    /// What is known of a host's.
    pub fn of(&self, host: &NodeId) -> Option<Known> {
        self.lock().get(host).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeId, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes when a host's certificate is valid. Whether it is to be renewed now.
    fn saw(&self, host: &NodeId, valid: Validity, now: UnixMillis, which: Which) -> bool {
        let mut known = self.lock();
        let is_first = !known.contains_key(host);
        let entry = known.entry(host.clone()).or_insert(Known {
            valid,
            problem: None,
            tried: None,
        });
        if entry.valid != valid {
            // What it was sent has come.
            *entry = Known {
                valid,
                problem: None,
                tried: entry.tried,
            };
            return false;
        }
        // Of all, each once.
        let is_due = which.includes(valid, now) && (which == Which::Due || is_first);
        let is_late = entry.tried.is_none_or(|at| at.elapsed() >= AGAIN_AFTER);
        if is_due && is_late {
            entry.tried = Some(Instant::now());
        }
        is_due && is_late
    }
}

impl Renewals {
    pub(super) fn start(renewer: Renewer, certificates: Certificates, teller: Teller) -> Self {
        let (due, waiting) = mpsc::channel(WAITING_MAX);
        let mut making = JoinSet::new();
        making.spawn(make(
            renewer.state.clone(),
            certificates.clone(),
            waiting,
            teller,
        ));
        Self {
            renewer,
            certificates,
            due,
            _making: making,
        }
    }

    /// A host signed this, as was checked.
    pub(super) fn saw(&self, host: &NodeId, signed: &LeafSigned) {
        let Some((key, valid)) = signed.certified() else {
            return;
        };
        let (which, now) = (self.renewer.which, clock::now());
        if self.certificates.saw(host, valid, now, which) {
            let host = host.clone();
            let _ = self.due.try_send(Due { host, key, valid });
        }
    }
}

/// Makes renewals, one at a time, and sends them down.
async fn make(
    state: StateDirectory,
    certificates: Certificates,
    mut waiting: mpsc::Receiver<Due>,
    teller: Teller,
) {
    while let Some(Due { host, key, valid }) = waiting.recv().await {
        let (state, name) = (state.clone(), host.clone());
        let making = move || state.renew_host(&name, &key, valid, clock::now());
        let made = tokio::task::spawn_blocking(making).await;
        match made.expect("renewing a host does not panic") {
            Ok(renewal) => {
                tracing::info!(%host, "sent its next certificate");
                let down = Command::Down(ControlMessage::Renewal(Box::new(renewal)));
                if !teller.tell(down).await {
                    return;
                }
            }
            Err(error) => {
                let code = error.code();
                let reason = error_chain(&error);
                tracing::warn!(%host, reason, "a host's certificate is not renewed");
                if let Some(known) = certificates.lock().get_mut(&host) {
                    known.problem = Some(code.because(reason));
                }
                if error.is_for_all() {
                    return;
                }
            }
        }
    }
}

impl Known {
    /// Why it is still the old one, where it was to be renewed.
    pub fn why_not(&self) -> Because {
        let silent = || {
            Reason::Failed.because("it was sent the next certificate and does not show it (hint: its log says why; older builds take none)")
        };
        self.problem.clone().unwrap_or_else(silent)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_once_when_it_is_due_and_one_that_is_not_only_when_all_are() {
        let now = UnixMillis(1_767_323_045_000);
        let (old, new) = (
            Validity::leaf(now.0 - 300 * 24 * 3600 * 1000),
            Validity::leaf(now.0),
        );
        let (web1, web2): (NodeId, NodeId) = ("web1".parse().unwrap(), "web2".parse().unwrap());
        let certificates = Certificates::default();
        assert!(certificates.saw(&web1, old, now, Which::Due));
        assert!(!certificates.saw(&web1, old, now, Which::Due));
        assert!(!certificates.saw(&web1, new, now, Which::Due));
        assert_eq!(certificates.of(&web1).unwrap().valid, new);
        assert!(!certificates.saw(&web2, new, now, Which::Due));

        let certificates = Certificates::default();
        assert!(certificates.saw(&web2, new, now, Which::All));
        assert!(!certificates.saw(&web2, new, now, Which::All));
    }
}
