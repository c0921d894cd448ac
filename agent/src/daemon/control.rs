//! One control stream: messages in, reports out.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use scap_proto::{
    frame,
    id::NodeId,
    identity::Role,
    reason::Reason,
    release::{Branch, Membership, TreeId, UnixMillis},
    wire::{Envelope, Hello, control::ControlMessage},
};
use tokio::sync::mpsc;

use super::{CONTROL_MAX, Daemon, RepoKey};
use crate::{
    node::{
        ControlStream, Readers,
        budget::{Bucket, CONTROL_MESSAGES, CONTROLS_PER_PEER_MAX},
        contain::contained,
    },
    relay::BEAT,
};

/// A control stream of this daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ControlId(pub(super) u64);

/// What of us somebody above us may hear.
#[derive(Debug)]
pub(super) enum Reader {
    /// All: it enrolled us.
    Coordinator,
    /// A host that relays, or says so: what it is in, where it showed that.
    Host(Option<Membership>),
}

impl Reader {
    /// Who opened a stream.
    pub(super) fn of(stream: &ControlStream) -> Self {
        match stream.link.peer().role {
            Role::Coordinator => Self::Coordinator,
            Role::Agent => Self::Host(stream.membership.clone()),
        }
    }
}

/// Who is above us, as the daemon keeps it.
#[derive(Debug)]
pub(super) struct Above {
    /// Who it is.
    pub(super) from: NodeId,
    pub(super) reader: Reader,
    /// What it is told.
    pub(super) outbox: mpsc::Sender<ControlMessage>,
    /// How many messages it may send; a coordinator as many as it likes.
    pub(super) messages: Option<Arc<Bucket>>,
    /// What we relay for it, once it said so.
    pub(super) part: Option<Part>,
    /// Until when the grants hold whose orders it brought, by the repo that they are about.
    leads_until: BTreeMap<RepoKey, UnixMillis>,
    /// What it asked about, the latest last.
    pub(super) asked: Vec<RepoKey>,
}

/// Most things that are remembered for having been asked about by one that is above us: as many as are asked of who is new.
const ASKED_MAX: usize = 8;

/// What we relay for one that is above us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// In which tree.
    pub(super) tree: TreeId,
    /// Higher than of any that was given before.
    pub(super) number: u64,
    /// Whom.
    pub(super) branches: Vec<Branch>,
}

impl Above {
    pub(super) fn new(
        from: NodeId,
        reader: Reader,
        outbox: mpsc::Sender<ControlMessage>,
        messages: Option<Arc<Bucket>>,
    ) -> Self {
        Self {
            from,
            reader,
            outbox,
            messages,
            part: None,
            leads_until: BTreeMap::new(),
            asked: Vec::new(),
        }
    }

    /// It asked where we stand with a repo.
    pub(super) fn was_asked(&mut self, key: &RepoKey) {
        self.asked.retain(|it| it != key);
        if self.asked.len() == ASKED_MAX {
            self.asked.remove(0);
        }
        self.asked.push(key.clone());
    }

    /// It brought an order about `key` that is one, by a grant that ends at `expires`.
    ///
    /// Whoever is enrolled can open a control stream, and relays bring what others signed: so it is not who holds the
    /// stream that leads a host, but what came by it.
    pub(super) fn brought(&mut self, key: RepoKey, expires: UnixMillis) {
        let until = self.leads_until.entry(key).or_insert(expires);
        *until = expires.max(*until);
    }

    /// Whether it leads what is done about `key`, or with `None` about any repo.
    pub(super) fn leads(&self, key: Option<&RepoKey>, now: UnixMillis) -> bool {
        let mut led = self.leads_until.iter();
        led.any(|(of, until)| key.is_none_or(|key| key == of) && now <= *until)
    }

    /// Whether it may hear where we stand with `key`: a coordinator may, and who brought an order about it by a grant that holds, and
    /// those who are in all that it is for.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn admit(
        &self,
        key: &RepoKey,
        readers: &[Readers],
        is_unknown: bool,
        now: UnixMillis,
    ) -> Result<(), Reason> {
        match &self.reader {
            Reader::Coordinator => Ok(()),
            Reader::Host(_) if self.leads(Some(key), now) => Ok(()),
            Reader::Host(shown) => readers
                .iter()
                .try_for_each(|of| of.admit_to_reports(shown.as_ref(), is_unknown)),
        }
    }

    /// In which tree it is above us.
    pub(super) fn tree(&self) -> Option<TreeId> {
        self.part.as_ref().map(|part| part.tree)
    }
}

/// A message, and on which stream it came.
pub(super) struct FromControl {
    pub(super) id: ControlId,
    pub(super) message: ControlMessage,
}

impl Daemon {
    /// Somebody opened a control stream to us.
    pub(super) fn control_opened(&mut self, stream: ControlStream) {
        let id = ControlId(self.next_control);
        self.next_control += 1;
        let from = stream.link.peer().name.clone();
        let mut of_peer = self.controls.values().filter(|above| above.from == from);
        // All of an agent's share one; a coordinator's word is what we are here for.
        let is_agent = stream.link.peer().role == Role::Agent;
        let shared = of_peer.clone().find_map(|above| above.messages.clone());
        let make = || is_agent.then(|| Arc::new(Bucket::new(CONTROL_MESSAGES, Instant::now())));
        let messages_left = shared.or_else(make);
        if of_peer.nth(CONTROLS_PER_PEER_MAX - 1).is_some() {
            return tracing::warn!(%from, "too many control streams; one more not taken");
        }
        tracing::info!(%from, "control stream opened");
        let (outbox, messages) = mpsc::channel(CONTROL_MAX);
        let reader = Reader::of(&stream);
        let above = Above::new(from.clone(), reader, outbox, messages_left.clone());
        self.controls.insert(id, above);
        let out = self.control_out.clone();
        let running = run(id, stream, messages, out, messages_left);
        let running = contained("a control stream", from, running);
        self.control_tasks.spawn(async move {
            running.await;
            id
        });
    }
}

/// Whether who is above us says what only goes up: it is of another mind than we.
fn goes_up(message: &ControlMessage) -> bool {
    use ControlMessage::{Beat, News, Report, Reports};
    matches!(message, Report(_) | Reports(_) | News(_) | Beat)
}

/// Runs until either side ends the stream.
async fn run(
    id: ControlId,
    stream: ControlStream,
    mut outbox: mpsc::Receiver<ControlMessage>,
    out: mpsc::Sender<FromControl>,
    messages_left: Option<Arc<Bucket>>,
) {
    let ControlStream {
        link,
        mut send,
        mut receive,
        frames,
        membership: _,
    } = stream;
    let write = async move {
        frame::write_message(&mut send, &Envelope::from(Hello::ours())).await?;
        loop {
            let message = match tokio::time::timeout(BEAT, outbox.recv()).await {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(()),
                Err(_) => ControlMessage::Beat,
            };
            frame::write_message(&mut send, &Envelope::from(message)).await?;
        }
    };
    let read = async move {
        while let Some(Envelope { message, .. }) =
            frame::read_message_in(&mut receive, &frames).await?
        {
            if let Some(left) = &messages_left {
                left.take(1).await;
            }
            if goes_up(&message) {
                tracing::warn!("a report came down; the control stream is not read any more");
                break;
            }
            if out.send(FromControl { id, message }).await.is_err() {
                break;
            }
        }
        Ok::<(), frame::FrameError>(())
    };
    let result = tokio::select! {
        result = write => result,
        result = read => result,
    };
    let from = &link.peer().name;
    match result {
        Ok(()) => tracing::info!(%from, "control stream closed"),
        Err(error) => {
            tracing::info!(%from, error = crate::error_chain(&error), "control stream lost");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn who_holds_a_stream_leads_by_what_it_brought_about_that_repo_and_as_long_as_the_grant_holds()
    {
        let (outbox, _messages) = mpsc::channel(1);
        let mut above = Above::new("relay1".parse().unwrap(), Reader::Host(None), outbox, None);
        let key = |repo: &str| (repo.parse().unwrap(), "production".parse().unwrap());
        let (site, other) = (key("site"), key("other"));
        assert!(!above.leads(None, UnixMillis(0)));
        above.brought(site.clone(), UnixMillis(10));
        // Of two grants the one that holds longer counts, whichever came last.
        above.brought(site.clone(), UnixMillis(5));
        for (of, at, leads) in [
            (Some(&site), 10, true),
            (Some(&site), 11, false),
            (Some(&other), 10, false),
            (None, 10, true),
            (None, 11, false),
        ] {
            assert_eq!(above.leads(of, UnixMillis(at)), leads, "{of:?} at {at}");
        }
    }

    /// Else who is in one audience would learn which repos of another one are here: of those it would hear nothing.
    #[test]
    fn a12_of_a_repo_that_is_not_here_hears_only_who_is_in_all_that_the_host_is_in() {
        let readers = |audiences: &[&str]| -> Vec<Readers> {
            let of = |audience: &&str| Readers {
                environment: Default::default(),
                audience: audience.parse().unwrap(),
            };
            audiences.iter().map(of).collect()
        };
        let (here_for_edge, here_for_all) = (readers(&["edge"]), readers(&["all"]));
        let not_here = readers(&["all", "edge"]);
        let key = ("site".parse().unwrap(), Default::default());
        for (audiences, expected) in [
            (&["all"][..], [true, false, false]),
            (&["edge"], [false, true, false]),
            (&["all", "edge"], [true, true, true]),
            (&["other"], [false, false, false]),
        ] {
            let membership = Membership {
                host: "relay1".parse().unwrap(),
                environments: vec![Default::default()],
                audiences: audiences.iter().map(|it| it.parse().unwrap()).collect(),
                extensions: Default::default(),
            };
            let (outbox, _messages) = mpsc::channel(1);
            let reader = Reader::Host(Some(membership));
            let above = Above::new("relay1".parse().unwrap(), reader, outbox, None);
            let hears = [&here_for_all, &here_for_edge, &not_here]
                .map(|readers| above.admit(&key, readers, false, UnixMillis(0)).is_ok());
            assert_eq!(hears, expected, "{audiences:?}");
        }
    }
}
