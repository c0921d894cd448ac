//! What a node shows of itself.

use std::sync::{Arc, PoisonError, RwLock};

use scap_proto::release::SignedMembership;

/// The membership that a node shows to those that it has links to. All clones are one: a renewal changes what is shown
/// from the next link on.
#[derive(Debug, Clone, Default)]
pub struct OwnMembership(Arc<RwLock<Option<SignedMembership>>>);

impl OwnMembership {
    /// Shows this.
    pub fn new(membership: Option<SignedMembership>) -> Self {
        Self(Arc::new(RwLock::new(membership)))
    }

    /// What is shown; hosts of earlier enrolments and coordinators have nothing to show.
    pub fn get(&self) -> Option<SignedMembership> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn set(&self, membership: SignedMembership) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(membership);
    }
}
