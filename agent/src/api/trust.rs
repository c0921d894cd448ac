//! What the local API shows of the fleet trust.

use scap_proto::{
    id::NodeId,
    identity::{Denial, Denied, Refusal, Role, Trust},
    reason::Reason,
};
use serde::Serialize;

/// Whose certificates count here.
#[derive(Debug, Clone, Serialize)]
pub struct TrustView {
    /// The number of the fleet trust; 0 where none was ever heard of.
    pub number: u64,
    /// How many authorities are believed.
    pub authorities: usize,
    /// Who is cut off.
    pub revoked: Vec<RevokedView>,
    /// The number of what was kept here and is lost, until it is learnt again.
    pub lost: Option<u64>,
    /// Why this host itself is refused by the others, where it is.
    pub cut_off: Option<String>,
    /// The code of what is wrong, the worst first.
    pub code: Option<Reason>,
}

/// Somebody who is cut off.
#[derive(Debug, Clone, Serialize)]
pub struct RevokedView {
    /// `agent`, `coordinator`, or `key` where it is a key and not a name.
    pub kind: &'static str,
    /// Its name; of a key its hex digits.
    pub name: String,
    /// Why.
    pub reason: String,
    /// Since when, in milliseconds since 1970.
    pub since_unix_ms: u64,
}

impl TrustView {
    pub(crate) fn new(trust: &Trust, own: Option<Refusal>) -> Self {
        let lost = trust.lost();
        let denials = trust.fleet_trust().map(|it| it.denials);
        let revoked = denials.unwrap_or_default();
        let code = own.as_ref().and_then(Refusal::code);
        Self {
            number: trust.mark().number,
            authorities: trust.authorities().len(),
            revoked: revoked
                .iter()
                .filter(|denial| !denial.is_enrolled_again)
                .map(RevokedView::new)
                .collect(),
            lost,
            cut_off: own.map(|refusal| refusal.to_string()),
            code: code.or(lost.map(|_| Reason::TrustLost)),
        }
    }
}

impl RevokedView {
    /// How a denial is shown.
    pub fn new(denial: &Denial) -> Self {
        let node = |role: Role, name: &NodeId| (role.as_str(), name.to_string());
        let (kind, name) = match &denial.who {
            Denied::Node { role, name, .. } => node(*role, name),
            Denied::Key(key) => ("key", hex::encode(key)),
        };
        Self {
            kind,
            name,
            reason: denial.reason.clone(),
            since_unix_ms: denial.since.0,
        }
    }
}
