//! Peers that are found out, by the names in their certificates, whatever link they come back on.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use scap_proto::{id::NodeId, identity::Role, reason::Reason, transport::Link, wire::close};

use super::{
    NodeEvent,
    budget::{Bucket, DIALS},
    driver::Driver,
};
use crate::{
    clock,
    swarm::{DropReason, Input, Link as PeerLink, PeerId},
};

/// How long such a peer is shunned: longer than a rollout takes, and not for ever, since a host with bad memory gets
/// repaired.
const SHUNNED: Duration = Duration::from_secs(600);

/// What may happen to an honest peer counts so often within [`SHUNNED`].
const STRIKES: u32 = 3;

/// Most peers that are remembered: more than a node has links with, at some 200 bytes each. Beyond them, whoever would be forgiven first is.
const REMEMBERED_MAX: usize = 4096;

/// A peer that is shunned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shun {
    /// Who.
    pub peer: NodeId,
    /// Why.
    pub code: Reason,
    /// For how much longer.
    pub left: Duration,
    /// Whether no link is taken from it either.
    pub is_barred: bool,
}

/// Who, why and until when. Not kept over a restart: what a peer does again is found out again in seconds, and who wants a peer
/// forgiven can so have it.
#[derive(Debug, Default)]
pub(crate) struct Shunned {
    peers: Mutex<BTreeMap<NodeId, Record>>,
    /// Links that agents made of late.
    dials: Mutex<BTreeMap<NodeId, Bucket>>,
}

#[derive(Debug)]
struct Record {
    code: Reason,
    /// Since the first of them that counts.
    strikes: u32,
    first_at: Instant,
    last_at: Instant,
    /// Set once there are enough of them.
    is_shunned: bool,
}

impl Record {
    fn end(&self) -> Instant {
        self.last_at + SHUNNED
    }
}

/// Whether nobody honest does that: once is enough.
fn is_grave(code: Reason) -> bool {
    use Reason::{AsksTooMuch, BrokenPromises, WrongBytes};
    matches!(code, WrongBytes | BrokenPromises | AsksTooMuch)
}

/// Whether it takes from us what others need: no link is taken from who does. Others are only asked no more; they may fetch what
/// they lack.
fn bars(code: Reason) -> bool {
    use Reason::{AsksTooMuch, BrokeProtocol, DialsTooOften, ReadsNothing};
    matches!(
        code,
        AsksTooMuch | BrokeProtocol | DialsTooOften | ReadsNothing
    )
}

impl Shunned {
    /// A peer did that. Whether it is shunned for it from now on, and was not before.
    pub(crate) fn add(&self, peer: &NodeId, code: Reason, now: Instant) -> bool {
        let mut peers = self.lock();
        peers.retain(|_, record| now < record.end());
        if peers.len() >= REMEMBERED_MAX && !peers.contains_key(peer) {
            let first = peers.iter().min_by_key(|(_, record)| record.end());
            if let Some(first) = first.map(|(name, _)| name.clone()) {
                peers.remove(&first);
            }
        }
        let record = peers.entry(peer.clone()).or_insert(Record {
            code,
            strikes: 0,
            first_at: now,
            last_at: now,
            is_shunned: false,
        });
        if !record.is_shunned && now.duration_since(record.first_at) >= SHUNNED {
            (record.strikes, record.first_at) = (0, now);
        }
        record.last_at = now;
        record.strikes += 1;
        let was_shunned = record.is_shunned;
        record.is_shunned |= is_grave(code) || record.strikes >= STRIKES;
        // What bars it stands over what does not.
        if !was_shunned || bars(code) {
            record.code = code;
        }
        record.is_shunned && !was_shunned
    }

    /// Whether it is neither dialled nor asked.
    pub(crate) fn contains(&self, peer: &NodeId, now: Instant) -> bool {
        self.code(peer, now).is_some()
    }

    /// Why no link is taken from it, where that is so.
    pub(crate) fn barred(&self, peer: &NodeId, now: Instant) -> Option<Reason> {
        self.code(peer, now).filter(|code| bars(*code))
    }

    /// All that are shunned, by name.
    pub(crate) fn list(&self, now: Instant) -> Vec<Shun> {
        let peers = self.lock();
        let shunned = peers
            .iter()
            .filter(|(_, it)| it.is_shunned && now < it.end());
        let list = shunned.map(|(peer, record)| Shun {
            peer: peer.clone(),
            code: record.code,
            left: record.end() - now,
            is_barred: bars(record.code),
        });
        list.collect()
    }

    /// When the next is forgiven.
    pub(crate) fn next_end(&self) -> Option<Instant> {
        let peers = self.lock();
        let shunned = peers.values().filter(|it| it.is_shunned);
        shunned.map(Record::end).min()
    }

    /// Takes out those that are forgiven by now.
    pub(crate) fn take_forgiven(&self, now: Instant) -> Vec<NodeId> {
        let mut peers = self.lock();
        let over = peers
            .iter()
            .filter(|(_, it)| it.is_shunned && it.end() <= now);
        let over: Vec<NodeId> = over.map(|(peer, _)| peer.clone()).collect();
        for peer in &over {
            peers.remove(peer);
        }
        over
    }

    /// Whether an agent that made a link may have made it now.
    pub(crate) fn may_dial(&self, peer: &NodeId, now: Instant) -> bool {
        let mut dials = self.dials.lock().unwrap_or_else(PoisonError::into_inner);
        if dials.len() >= REMEMBERED_MAX {
            dials.retain(|_, bucket| !bucket.is_full(now));
        }
        let bucket = dials.entry(peer.clone());
        bucket
            .or_insert_with(|| Bucket::new(DIALS, now))
            .try_take(now)
    }

    fn code(&self, peer: &NodeId, now: Instant) -> Option<Reason> {
        let peers = self.lock();
        let record = peers.get(peer).filter(|it| it.is_shunned && now < it.end());
        record.map(|record| record.code)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Record>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Driver {
    /// A peer is asked no more on its link.
    pub(super) async fn dropped(&mut self, peer: PeerId, reason: DropReason) {
        let Some(known) = self.peers.get(&peer) else {
            return;
        };
        if reason.is_misbehaviour() {
            known.link.close(close::WRONG_BYTES, "wrong bytes");
            let (code, name) = (reason.code(), &known.link.peer().name);
            self.shared.sightings().note(code, Some(name), clock::now());
        }
        self.found_out(peer, reason.code(), reason.describe()).await;
    }

    /// A peer did what it should not.
    pub(super) async fn found_out(&mut self, peer: PeerId, code: Reason, what: String) {
        let Some(known) = self.peers.get(&peer) else {
            return;
        };
        let who = known.link.peer();
        let (name, role) = (who.name.clone(), who.role);
        // Without the seed there may be no way to go on, and whoever has a coordinator's key has other means.
        let is_new = role == Role::Agent && self.shared.shunned.add(&name, code, Instant::now());
        if bars(code) {
            let link_code = match code {
                Reason::ReadsNothing => close::SLOW,
                _ => close::PROTOCOL,
            };
            known.link.close(link_code, code.as_str());
        }
        if is_new {
            tracing::warn!(peer = %name, %code, what, "peer is shunned");
        } else {
            tracing::warn!(peer = %name, %code, what, "peer misbehaved");
        }
        let reason = code.because(what);
        let event = NodeEvent::PeerDropped { peer: name, reason };
        let _ = self.out.send(event).await;
    }

    /// Whether a link that was made is not to be; it is closed then.
    pub(super) async fn turned_away(&mut self, link: &Link, dialled: bool) -> bool {
        let who = link.peer();
        if who.role != Role::Agent || dialled {
            return false;
        }
        let now = Instant::now();
        if let Some(code) = self.shared.shunned.barred(&who.name, now) {
            link.close(close::BUSY, code.as_str());
            return true;
        }
        if self.shared.shunned.may_dial(&who.name, now) {
            return false;
        }
        let code = Reason::DialsTooOften;
        link.close(close::BUSY, code.as_str());
        if self.shared.shunned.add(&who.name, code, now) {
            let peer = who.name.clone();
            tracing::warn!(%peer, %code, "peer is shunned");
            let reason = code.because("made links faster than anybody needs them");
            let event = NodeEvent::PeerDropped { peer, reason };
            let _ = self.out.send(event).await;
        }
        true
    }

    /// Those whose time is over are dialled and asked again.
    pub(super) fn forgive(&mut self) {
        let forgiven = self.shared.shunned.take_forgiven(Instant::now());
        for name in &forgiven {
            tracing::info!(peer = %name, "peer is shunned no more");
            for peer in self.links_to(name) {
                self.introduce(peer);
                for transfer in self.transfers.keys().copied().collect::<Vec<_>>() {
                    self.open(peer, transfer);
                }
            }
        }
        if !forgiven.is_empty() {
            self.dial_missing();
        }
    }

    /// Whether a peer that is linked to us is to be forgiven what it was dropped for: not who is shunned by its name.
    pub(super) fn greet(&mut self, peer: PeerId, link: PeerLink) {
        let Some(known) = self.peers.get_mut(&peer) else {
            return;
        };
        let was_greeted = std::mem::replace(&mut known.is_greeted, true);
        let name = &known.link.peer().name;
        if was_greeted && self.shared.shunned.contains(name, Instant::now()) {
            return;
        }
        self.input(Input::PeerConnected { peer, link });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn names() -> [NodeId; 2] {
        ["evil", "good"].map(|name| name.parse().unwrap())
    }

    #[test]
    fn a_peer_is_shunned_for_ten_minutes_after_the_last_time() {
        let [evil, good] = names();
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let shunned = Shunned::default();
        assert!(!shunned.contains(&evil, at(1)));
        assert!(shunned.add(&evil, Reason::WrongBytes, at(1)));
        assert!(!shunned.add(&evil, Reason::WrongBytes, at(100)));
        assert!(shunned.contains(&evil, at(699)));
        assert!(!shunned.contains(&evil, at(700)));
        assert!(!shunned.contains(&good, at(100)));
        assert_eq!(shunned.next_end(), Some(at(700)));
        assert!(shunned.take_forgiven(at(699)).is_empty());
        assert_eq!(shunned.take_forgiven(at(700)), [evil]);
        assert_eq!(shunned.next_end(), None);
    }

    #[test]
    fn what_happens_to_honest_peers_counts_from_the_third_time_in_ten_minutes() {
        let [slow, _] = names();
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let shunned = Shunned::default();
        for secs in [0, 500, 650] {
            // The third is more than ten minutes after the first.
            assert!(!shunned.add(&slow, Reason::SlowPeer, at(secs)), "{secs}");
        }
        assert!(!shunned.add(&slow, Reason::SlowPeer, at(700)));
        assert!(shunned.add(&slow, Reason::SlowPeer, at(800)));
        // It is asked no more, and still served.
        assert_eq!(shunned.barred(&slow, at(801)), None);
        let [shun] = <[Shun; 1]>::try_from(shunned.list(at(801))).unwrap();
        assert_eq!((shun.code, shun.is_barred), (Reason::SlowPeer, false));
        assert_eq!(shun.left, Duration::from_secs(599));
    }

    #[test]
    fn who_takes_what_others_need_is_barred_also_where_it_was_shunned_before() {
        let [evil, _] = names();
        let now = Instant::now();
        let shunned = Shunned::default();
        shunned.add(&evil, Reason::WrongBytes, now);
        assert_eq!(shunned.barred(&evil, now), None);
        shunned.add(&evil, Reason::AsksTooMuch, now);
        shunned.add(&evil, Reason::SlowPeer, now);
        assert_eq!(shunned.barred(&evil, now), Some(Reason::AsksTooMuch));
    }

    #[test]
    fn however_many_misbehave_no_more_are_remembered_than_there_is_room_for() {
        let shunned = Shunned::default();
        let start = Instant::now();
        let millis = (0..).map(Duration::from_millis);
        for (number, after) in (0..REMEMBERED_MAX + 10).zip(millis) {
            let name = format!("evil{number}").parse().unwrap();
            let at = start + after;
            shunned.add(&name, Reason::WrongBytes, at);
        }
        let list = shunned.list(start + Duration::from_secs(10));
        assert_eq!(list.len(), REMEMBERED_MAX);
        let first: NodeId = "evil0".parse().unwrap();
        assert!(!shunned.contains(&first, start + Duration::from_secs(10)));
    }

    #[test]
    fn a_host_that_is_restarted_every_second_may_dial_and_one_that_dials_all_the_time_may_not() {
        let shunned = Shunned::default();
        let [evil, good] = names();
        let start = Instant::now();
        let mut taken = 0;
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            assert!(shunned.may_dial(&good, now));
            let dials = (0..10).filter(|_| shunned.may_dial(&evil, now));
            taken += dials.count();
        }
        let most = (DIALS.burst + 600 * DIALS.per_sec) as usize;
        assert!((most - 10..=most).contains(&taken), "{taken}");
    }
}
