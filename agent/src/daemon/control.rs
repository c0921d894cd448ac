//! One control stream: messages in, reports out.

use std::collections::BTreeMap;

use scap_proto::{
    frame,
    id::NodeId,
    release::{Branch, TreeId, UnixMillis},
    wire::{Envelope, Hello, control::ControlMessage},
};
use tokio::sync::mpsc;

use super::RepoKey;
use crate::{node::ControlStream, relay::BEAT};

/// A control stream of this daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ControlId(pub(super) u64);

/// Who is above us, as the daemon keeps it.
#[derive(Debug)]
pub(super) struct Above {
    /// Who it is.
    pub(super) from: NodeId,
    /// What it is told.
    pub(super) outbox: mpsc::Sender<ControlMessage>,
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
    pub(super) fn new(from: NodeId, outbox: mpsc::Sender<ControlMessage>) -> Self {
        Self {
            from,
            outbox,
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

/// Runs until either side ends the stream.
pub(super) async fn run(
    id: ControlId,
    stream: ControlStream,
    mut outbox: mpsc::Receiver<ControlMessage>,
    out: mpsc::Sender<FromControl>,
) -> ControlId {
    let ControlStream {
        link,
        mut send,
        mut receive,
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
        while let Some(Envelope { message, .. }) = frame::read_message(&mut receive).await? {
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
    id
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn who_holds_a_stream_leads_by_what_it_brought_about_that_repo_and_as_long_as_the_grant_holds()
    {
        let (outbox, _messages) = mpsc::channel(1);
        let mut above = Above::new("relay1".parse().unwrap(), outbox);
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
}
