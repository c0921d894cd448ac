//! One control stream: messages in, reports out.

use std::collections::BTreeMap;

use scap_proto::{
    frame,
    id::NodeId,
    identity::Role,
    reason::Reason,
    release::{Branch, Membership, TreeId, UnixMillis},
    wire::{Envelope, Hello, control::ControlMessage},
};
use tokio::sync::mpsc;

use super::RepoKey;
use crate::{
    node::{ControlStream, Readers},
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
    /// What we relay for it, once it said so.
    pub(super) part: Option<Part>,
    /// Until when the grants hold whose orders it brought, by the repo that they are about.
    leads_until: BTreeMap<RepoKey, UnixMillis>,
}

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
    pub(super) fn new(from: NodeId, reader: Reader, outbox: mpsc::Sender<ControlMessage>) -> Self {
        Self {
            from,
            reader,
            outbox,
            part: None,
            leads_until: BTreeMap::new(),
        }
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
    /// those who are in what it is for.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn admit(
        &self,
        key: &RepoKey,
        readers: &Readers,
        is_unknown: bool,
        now: UnixMillis,
    ) -> Result<(), Reason> {
        match &self.reader {
            Reader::Coordinator => Ok(()),
            Reader::Host(_) if self.leads(Some(key), now) => Ok(()),
            Reader::Host(shown) => readers.admit_to_reports(shown.as_ref(), is_unknown),
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

/// Whether who is above us says what only goes up: it is of another mind than we.
fn goes_up(message: &ControlMessage) -> bool {
    use ControlMessage::{Beat, News, Report, Reports};
    matches!(message, Report(_) | Reports(_) | News(_) | Beat)
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
        while let Some(Envelope { message, .. }) = frame::read_message(&mut receive).await? {
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
        let mut above = Above::new("relay1".parse().unwrap(), Reader::Host(None), outbox);
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
