//! What a node believes at one time: the authorities of its fleet, and who is cut off.

use std::collections::{BTreeMap, BTreeSet};

use rustls::{RootCertStore, pki_types::CertificateDer};

use super::{
    fleet::Role,
    fleet_trust::{Denial, Denied, FleetTrust, SignedFleetTrust, TrustMark},
    key::PUBLIC_KEY_BYTES,
    peer::{AuthorityCertificate, Leaf},
};
use crate::{id::NodeId, limits::DENIALS_MAX};

/// Replaced whole, never changed.
#[derive(Debug)]
pub(super) struct Believed {
    /// Which fleet trust says so; none at first, where only the identity's own authorities are believed.
    pub(super) mark: TrustMark,
    /// With the denials that it left out without lifting them.
    pub(super) trust: Option<FleetTrust>,
    /// Those, the last of its denials.
    pub(super) carried: Vec<Denied>,
    pub(super) anchors: RootCertStore,
    /// Of authorities that are believed no more.
    pub(super) retired: RootCertStore,
    pub(super) authorities: Vec<BelievedAuthority>,
    /// Places of denials by whom they mean, as each handshake asks.
    by_node: BTreeMap<(Role, NodeId), Vec<usize>>,
    by_key: BTreeMap<[u8; PUBLIC_KEY_BYTES], usize>,
}

#[derive(Debug, Clone)]
pub(super) struct BelievedAuthority {
    pub(super) der: CertificateDer<'static>,
    pub(super) key: [u8; PUBLIC_KEY_BYTES],
}

impl Believed {
    /// These authorities alone; or the index of the first that is no certificate of one.
    pub(super) fn only(authorities: &[CertificateDer<'static>]) -> Result<Self, usize> {
        let mut believed = Self::nobody(TrustMark::default());
        for (index, der) in authorities.iter().enumerate() {
            believed.believe(der).map_err(|()| index)?;
        }
        Ok(believed)
    }

    /// What a fleet trust says that was verified and follows on this: who is denied by it, and who was and is not said to be no
    /// more. Whoever signed it may have done so from an older copy, and not know of them.
    pub(super) fn followed_by(
        &self,
        mut trust: FleetTrust,
        signed: &SignedFleetTrust,
    ) -> Result<Self, ()> {
        let mut believed = Self::nobody(signed.mark(trust.number));
        let before = self.trust.iter().flat_map(|it| &it.denials);
        let left_out: Vec<Denial> = before
            .filter(|it| !trust.has_or_lifts(&it.who))
            .take(DENIALS_MAX)
            .cloned()
            .collect();
        believed.carried = left_out.iter().map(|it| it.who.clone()).collect();
        trust.denials.extend(left_out);
        for der in &trust.authorities {
            believed.believe(&CertificateDer::from(der.to_vec()))?;
        }
        for der in &trust.retired {
            let der = CertificateDer::from(der.to_vec());
            believed.retired.add(der).map_err(|_| ())?;
        }
        for (place, denial) in trust.denials.iter().enumerate() {
            match &denial.who {
                Denied::Key(key) => {
                    believed.by_key.insert(*key, place);
                }
                Denied::Node { role, name, .. } => {
                    let of_node = believed.by_node.entry((*role, name.clone()));
                    of_node.or_default().push(place);
                }
            }
        }
        believed.trust = Some(trust);
        Ok(believed)
    }

    fn nobody(mark: TrustMark) -> Self {
        Self {
            mark,
            trust: None,
            carried: Vec::new(),
            anchors: RootCertStore::empty(),
            retired: RootCertStore::empty(),
            authorities: Vec::new(),
            by_node: BTreeMap::new(),
            by_key: BTreeMap::new(),
        }
    }

    fn believe(&mut self, der: &CertificateDer<'static>) -> Result<(), ()> {
        self.anchors.add(der.clone()).map_err(|_| ())?;
        let key = AuthorityCertificate::parse(der).map_err(|_| ())?.public_key;
        let der = der.clone();
        self.authorities.push(BelievedAuthority { der, key });
        Ok(())
    }

    /// Why a certificate does not count, where somebody said so.
    pub(super) fn denial(&self, leaf: &Leaf) -> Option<&Denial> {
        let denials = &self.trust.as_ref()?.denials;
        let node = (leaf.identity.role, leaf.identity.name.clone());
        let of_node = self.by_node.get(&node).into_iter().flatten();
        let mut places = of_node.chain(self.by_key.get(&leaf.public_key));
        let denial = places.find(|place| denials[**place].who.means(leaf))?;
        Some(&denials[*denial])
    }

    /// The first bytes of the keys of the authorities.
    pub(super) fn authority_marks(&self) -> BTreeSet<[u8; 8]> {
        let keys = self.authorities.iter().map(|it| it.key);
        keys.filter_map(|key| key.first_chunk().copied()).collect()
    }

    /// Whether they are the same, in the same order.
    pub(super) fn has_authorities_of(&self, other: &FleetTrust) -> bool {
        let ours = self.authorities.iter().map(|it| it.der.as_ref());
        ours.eq(other.authorities.iter().map(AsRef::as_ref))
    }
}
