//! Whose certificates count: a node holds its links to it, and tells those that know less.
//!
//! Each side of a session says which fleet trust it holds to, as the session begins. Who holds to a later one hands it over,
//! and whoever comes to hold to one hands it on: so it reaches every host that has a link to one that has it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use quinn::{RecvStream, SendStream};
use scap_proto::{
    frame,
    id::NodeId,
    identity::{KeepError, Offered, Refusal, RefusalKind, SignedFleetTrust, Trust, TrustMark},
    limits::{FLEET_TRUST_BYTES_MAX, TRUST_CHAIN_MAX},
    transport::{DialError, Link},
    wire::{Envelope, Hello, Open, close, peer::PeerMessage},
};

use super::{Node, NodeEvent, Shared, driver::Driver, event::Event, session::SessionError};
use crate::swarm::PeerId;

/// Longest that an exchange on a link of its own may take: a round trip, and a frame of 640 KiB for each that is handed over.
const VISIT_TIME_MAX: Duration = Duration::from_secs(5);

/// How many a peer may hand over on a link that change nothing here, until something does: each peer tells each change that it hears
/// of, and it may hear later than we of some dozens in a row.
const IDLE_MAX: usize = 64;

/// Most bytes of those: a few of the longest, or all of the usual length.
const IDLE_BYTES_MAX: usize = 8 * FLEET_TRUST_BYTES_MAX;

/// What a peer handed over for nothing.
#[derive(Debug, Default)]
struct Idle {
    /// What counted here then.
    at: TrustMark,
    count: usize,
    bytes: usize,
}

impl Idle {
    /// Counts one of so many bytes, where `mark` counts here; whether that is too much.
    fn is_too_much(&mut self, mark: TrustMark, bytes: usize) -> bool {
        if mark != self.at {
            *self = Self {
                at: mark,
                ..Self::default()
            };
        }
        self.count += 1;
        self.bytes += bytes;
        self.count > IDLE_MAX || self.bytes > IDLE_BYTES_MAX
    }
}

/// What came of what one peer handed over.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// How many no authority signed that is believed here, since one of this peer's was taken.
    refused: usize,
    /// All that were not taken.
    idle: Idle,
    /// Whether it was told already that it has another one of the same number.
    is_conflict_told: bool,
}

impl Taken {
    /// Believes what a peer hands over, if it is to be believed.
    ///
    /// # Errors
    /// [`SessionError::Trust`] where it handed over more that is not signed than anybody's way to the latest is long. One
    /// alone may be a step of a way that began elsewhere. [`SessionError::TrustAgain`] where it goes on with what changes nothing.
    pub(super) async fn take(
        &mut self,
        shared: &Arc<Shared>,
        from: &NodeId,
        signed: SignedFleetTrust,
    ) -> Result<(), SessionError> {
        let mark = shared.trust.mark();
        let bytes = signed.0.payload.len();
        // Nobody verifies again what is believed, however often it comes.
        if shared.trust.has(&signed) {
            return self.spend(from, mark, bytes);
        }
        // In a task of its own: whoever handed it over may end the link meanwhile, and with it this future; and what counts
        // is to be followed by everything that follows from it.
        let offering = tokio::spawn(offer(shared.clone(), from.clone(), signed));
        match offering
            .await
            .expect("what is offered is no reason to panic")
        {
            Ok(Offered::Believed) => {
                self.refused = 0;
                return Ok(());
            }
            Ok(Offered::Known) => {}
            Ok(Offered::Conflict) if self.is_conflict_told => {}
            Ok(Offered::Conflict) => {
                self.is_conflict_told = true;
                let number = shared.trust.mark().number;
                tracing::warn!(%from, number, "two fleet trusts have one number; the first that came counts, and the next one settles it");
            }
            Err(KeepError::Refused(error)) => {
                self.refused += 1;
                let told = crate::error_chain(&error);
                tracing::info!(%from, error = told, "a fleet trust is not believed");
                if self.refused >= TRUST_CHAIN_MAX {
                    tracing::warn!(%from, error = told, "it hands over fleet trusts that nobody signed; link closed");
                    return Err(SessionError::Trust(error));
                }
            }
            Err(error) => {
                let error = crate::error_chain(&error);
                tracing::error!(%from, error, "a fleet trust cannot be kept, and does not count");
            }
        }
        self.spend(from, mark, bytes)
    }

    fn spend(&mut self, from: &NodeId, mark: TrustMark, bytes: usize) -> Result<(), SessionError> {
        if !self.idle.is_too_much(mark, bytes) {
            return Ok(());
        }
        tracing::warn!(%from, count = self.idle.count, "it hands over fleet trusts again and again; link closed");
        Err(SessionError::TrustAgain)
    }
}

async fn offer(
    shared: Arc<Shared>,
    from: NodeId,
    signed: SignedFleetTrust,
) -> Result<Offered, KeepError> {
    let trust = shared.trust.clone();
    let offering = tokio::task::spawn_blocking(move || trust.offer(signed));
    let offered = offering
        .await
        .expect("what is offered is no reason to panic")?;
    if offered == Offered::Believed {
        let number = shared.trust.mark().number;
        tracing::info!(%from, number, "another fleet trust counts from now on");
        let carried = shared.trust.carried();
        if carried > 0 {
            tracing::warn!(%from, number, carried, "the fleet trust leaves out who is revoked and does not say that it is lifted: they stay so here. Was it signed from an older copy of the authority's directory?");
        }
        shared.tell(Event::TrustChanged).await;
    }
    Ok(offered)
}

impl Driver {
    /// A peer said which fleet trust it holds to.
    pub(super) fn peer_trusts(&mut self, peer: PeerId, mark: TrustMark) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.trust = Some(mark);
            self.hand_over(peer);
        }
    }

    /// Another fleet trust counts: who is cut off by it is, and the others are told.
    pub(super) async fn trust_changed(&mut self) {
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            let link = self.peers.get(&peer).map(|known| known.link.clone());
            let Some(link) = link else { continue };
            match close_if_cut_off(&link, &self.shared.trust) {
                Some(refusal) => self.unlinked(peer, &SessionError::CutOff(refusal)),
                None => self.hand_over(peer),
            }
        }
        self.say_event(NodeEvent::TrustChanged).await;
    }

    /// Hands over what a peer does not have, once.
    fn hand_over(&mut self, peer: PeerId) {
        let trust = self.shared.trust.clone();
        let ours = trust.mark();
        let Some(known) = self.peers.get_mut(&peer) else {
            return;
        };
        // Who does not say what it holds to is of a build that would not know what this is.
        let Some(theirs) = known.trust.filter(|theirs| is_for(*theirs, ours)) else {
            return;
        };
        known.trust = Some(ours);
        for signed in handed_over(&trust, theirs) {
            self.say(peer, PeerMessage::Trust(Box::new(signed)));
        }
    }
}

/// Closes a link whose peer is not let in any more, with the reason.
pub(super) fn close_if_cut_off(link: &Link, trust: &Trust) -> Option<Refusal> {
    let refusal = link.cut_off(trust)?;
    let (code, words) = match refusal.kind() {
        RefusalKind::Revoked => (close::REVOKED, "revoked"),
        _ => (close::OLD_AUTHORITY, "old authority"),
    };
    let reason = crate::error_chain(&refusal);
    tracing::warn!(peer = %link.peer().name, code = words, reason, "link closed");
    link.close(code, words);
    Some(refusal)
}

/// Whether who holds to `theirs` is to be told of `ours`: it is later, or another one of the same number.
fn is_for(theirs: TrustMark, ours: TrustMark) -> bool {
    ours.number > theirs.number || ours.number == theirs.number && ours != theirs
}

/// What leads from `theirs` to ours.
fn handed_over(trust: &Trust, theirs: TrustMark) -> Vec<SignedFleetTrust> {
    let number = match trust.mark().number == theirs.number {
        true => theirs.number.saturating_sub(1),
        false => theirs.number,
    };
    trust.chain_after(number)
}

impl Node {
    /// Whom it believes.
    pub fn trust(&self) -> &Trust {
        &self.shared.trust
    }

    /// Makes it known to a host which fleet trust counts, or learns it from it, on a link of its own; nothing where there is a
    /// link, on which that is known.
    ///
    /// # Errors
    /// [`DialError`]. A host that is reached and does not answer is none.
    pub async fn exchange_trust(
        &self,
        name: &NodeId,
        addresses: &[SocketAddr],
    ) -> Result<(), DialError> {
        if self.link(name).await.is_some() {
            return Ok(());
        }
        let link = self.shared.dial(name, addresses).await?;
        if let Some(visit) = Visit::begin(&self.shared, &link).await {
            visit.end().await;
        }
        link.close(close::DONE, "said which fleet trust counts");
        Ok(())
    }
}

/// A session in which nothing but that is said.
pub(super) struct Visit {
    send: SendStream,
    receive: RecvStream,
    /// Whether the peer was handed something over.
    has_told: bool,
}

impl Visit {
    /// Opens it, and hands over what the peer lacks, or takes what we do; `None` where the peer does not answer in time. Until
    /// it is dropped the link lasts.
    pub(super) async fn begin(shared: &Arc<Shared>, link: &Link) -> Option<Self> {
        let visit = tokio::time::timeout(VISIT_TIME_MAX, Self::exchange(shared, link));
        match visit.await {
            Ok(Ok(visit)) => Some(visit),
            Ok(Err(error)) => {
                let error = crate::error_chain(&error);
                tracing::debug!(peer = %link.peer().name, error, "no word of the fleet trust");
                None
            }
            Err(_) => None,
        }
    }

    async fn exchange(shared: &Arc<Shared>, link: &Link) -> Result<Self, SessionError> {
        let (mut send, mut receive) = link.open_bi().await?;
        let ours = shared.trust.mark();
        let open = Envelope::from(Open::Session(Hello::ours())).trusting(ours);
        frame::write_message(&mut send, &open).await?;
        let hello = frame::read_message::<_, Envelope<Hello>>(&mut receive).await?;
        let theirs = hello.ok_or(SessionError::Ended)?.trust();
        let has_told = theirs.is_some_and(|theirs| is_for(theirs, ours));
        if let Some(theirs) = theirs {
            if has_told {
                for signed in handed_over(&shared.trust, theirs) {
                    let message = PeerMessage::Trust(Box::new(signed));
                    frame::write_message(&mut send, &Envelope::from(message)).await?;
                }
            }
            let mut taken = Taken::default();
            while shared.trust.mark().number < theirs.number {
                let message = frame::read_message::<_, Envelope<PeerMessage>>(&mut receive).await?;
                if let PeerMessage::Trust(signed) = message.ok_or(SessionError::Ended)?.message {
                    taken.take(shared, &link.peer().name, *signed).await?;
                }
            }
        }
        Ok(Self {
            send,
            receive,
            has_told,
        })
    }

    /// Ends it once the peer has read what it was told: then it ends the session, too.
    pub(super) async fn end(mut self) {
        let _ = self.send.finish();
        if self.has_told {
            let reading = async { while let Ok(Some(_)) = frame::read(&mut self.receive).await {} };
            let _ = tokio::time::timeout(VISIT_TIME_MAX, reading).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(number: u64) -> TrustMark {
        TrustMark {
            number,
            ..TrustMark::default()
        }
    }

    #[test]
    fn a_peer_that_repeats_itself_is_heard_for_a_while_and_again_once_something_changed() {
        let mut idle = Idle::default();
        let too_much: Vec<bool> = (0..=IDLE_MAX)
            .map(|_| idle.is_too_much(mark(1), 100))
            .collect();
        assert_eq!(too_much.iter().position(|it| *it), Some(IDLE_MAX));
        assert!(!idle.is_too_much(mark(2), 100));
        // A few of the longest are as much.
        let times = IDLE_BYTES_MAX / FLEET_TRUST_BYTES_MAX;
        for _ in 0..times {
            assert!(!idle.is_too_much(mark(3), FLEET_TRUST_BYTES_MAX));
        }
        assert!(idle.is_too_much(mark(3), FLEET_TRUST_BYTES_MAX));
    }
}
