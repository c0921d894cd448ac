//! From one fleet trust to the next: what is believed after it, and what of the way is kept.

use std::sync::Arc;

use super::KeepError;
use crate::{
    identity::{
        believed::Believed,
        fleet::FleetName,
        fleet_trust::{Denied, FleetTrust, FleetTrustError, SignedFleetTrust},
        key::PUBLIC_KEY_BYTES,
        peer::AuthorityCertificate,
    },
    limits::TRUST_CHAIN_MAX,
    release::signed::SignedObject,
};

/// A fleet trust on the way to the one that is believed.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) signed: SignedFleetTrust,
    pub(super) number: u64,
    /// Whether it has other authorities than the one before it, or is the first.
    is_turn: bool,
}

/// A fleet trust that was signed by whom we believe or by whom a step before names, and is not believed.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) signed: SignedFleetTrust,
    pub(super) number: u64,
    /// Of the authorities that it names.
    pub(super) keys: Vec<[u8; PUBLIC_KEY_BYTES]>,
}

impl Step {
    pub(super) fn new(trust: &FleetTrust, signed: SignedFleetTrust) -> Self {
        let parsed = trust
            .authorities
            .iter()
            .filter_map(|der| AuthorityCertificate::parse(der).ok());
        Self {
            signed,
            number: trust.number,
            keys: parsed.map(|it| it.public_key).collect(),
        }
    }
}

/// What is believed, and why.
#[derive(Debug)]
pub(super) struct Way {
    /// The latest last.
    pub(super) chain: Vec<Link>,
    pub(super) believed: Arc<Believed>,
}

impl Way {
    /// The way to a fleet trust, over those of these steps that are on it.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub(super) fn by_steps(
        &self,
        steps: &[Step],
        fleet: &FleetName,
        signed: &SignedFleetTrust,
    ) -> Result<Self, KeepError> {
        let mut way = Self {
            chain: self.chain.clone(),
            believed: self.believed.clone(),
        };
        for step in steps {
            if step.number > way.believed.mark.number
                && let Ok(next) = way.step(fleet, &step.signed)
            {
                way = next;
            }
        }
        way.step(fleet, signed)
    }

    /// The way to a fleet trust of a higher number, which one of the authorities that are believed here signed.
    ///
    /// # Errors
    /// [`KeepError::Refused`].
    pub(super) fn step(
        &self,
        fleet: &FleetName,
        signed: &SignedFleetTrust,
    ) -> Result<Self, KeepError> {
        let keys = self.believed.authorities.iter().map(|it| &it.key);
        let trust = signed.verify(keys, fleet)?;
        let is_turn = self.chain.is_empty() || !self.believed.has_authorities_of(&trust);
        let number = trust.number;
        let believed = self
            .believed
            .followed_by(trust, signed)
            .map_err(|()| FleetTrustError::Authority("it is not usable as one"))?;
        let mut chain = self.chain.clone();
        chain.retain(|link| link.is_turn || link.denies_one_of(&believed.carried));
        chain.push(Link {
            signed: signed.clone(),
            number,
            is_turn,
        });
        if chain.len() > TRUST_CHAIN_MAX {
            chain.remove(0);
        }
        let believed = Arc::new(believed);
        Ok(Self { chain, believed })
    }
}

impl Link {
    /// Whether it is why one of these is denied.
    fn denies_one_of(&self, carried: &[Denied]) -> bool {
        if carried.is_empty() {
            return false;
        }
        let trust = FleetTrust::from_payload(&self.signed.0.payload);
        trust.is_ok_and(|trust| trust.denials.iter().any(|it| carried.contains(&it.who)))
    }
}
