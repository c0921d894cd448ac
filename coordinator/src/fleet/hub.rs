//! The control streams to all hosts: dialled, and dialled again when lost.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use scap_agent::{clock, error_chain, node::Node};
use scap_proto::{
    frame,
    id::NodeId,
    identity::{Identity, Trust},
    release::{Environment, RepoPath, Report},
    wire::{Envelope, Hello, Open, control::ControlMessage},
};
use tokio::{sync::mpsc, task::JoinSet};

use super::{Host, resolve};

/// Pause before a host is dialled again. Hosts that restart are back in a second or two.
const REDIAL_PAUSE: Duration = Duration::from_millis(500);

/// Most messages that wait to be sent to one host; a rollout has a handful.
const OUTBOX_MAX: usize = 64;

/// Most events of all hosts that wait for the rollout.
const EVENTS_MAX: usize = 1024;

/// What happens on the control streams.
#[derive(Debug)]
pub enum HubEvent {
    /// There is a control stream to a host, and its first report is on its way.
    Connected(NodeId),
    /// There is none, and why.
    Away {
        /// To which.
        host: NodeId,
        /// Why, as a chain of causes.
        reason: String,
    },
    /// A host's report, whose signature was checked.
    Report(Box<Report>),
}

/// The way to all hosts. Dropping it closes the streams.
#[derive(Debug)]
pub struct Hub {
    outboxes: BTreeMap<NodeId, mpsc::Sender<ControlMessage>>,
    /// What happens.
    pub events: mpsc::Receiver<HubEvent>,
    _tasks: JoinSet<()>,
}

struct Session {
    node: Node,
    host: Host,
    trust: Trust,
    about: (RepoPath, Environment),
    events: mpsc::Sender<HubEvent>,
}

impl Hub {
    /// Begins to dial all hosts and asks each where it stands with a repo.
    pub fn start(
        node: &Node,
        identity: &Arc<Identity>,
        hosts: &[Host],
        about: &(RepoPath, Environment),
    ) -> Self {
        let (events, inbox) = mpsc::channel(EVENTS_MAX);
        let mut outboxes = BTreeMap::new();
        let mut tasks = JoinSet::new();
        for host in hosts {
            let (outbox, messages) = mpsc::channel(OUTBOX_MAX);
            outboxes.insert(host.name.clone(), outbox);
            let session = Session {
                node: node.clone(),
                host: host.clone(),
                trust: identity.trust().clone(),
                about: about.clone(),
                events: events.clone(),
            };
            tasks.spawn(session.run(messages));
        }
        Self {
            outboxes,
            events: inbox,
            _tasks: tasks,
        }
    }

    /// Sends a message to a host, if there is a stream to it. What does not reach it is sent again by who
    /// hears that it is [`HubEvent::Connected`].
    pub fn send(&self, host: &NodeId, message: ControlMessage) {
        if let Some(outbox) = self.outboxes.get(host)
            && outbox.try_send(message).is_err()
        {
            tracing::warn!(%host, "the host does not read its orders");
        }
    }
}

impl Session {
    /// Keeps a control stream until the hub is dropped.
    async fn run(self, mut messages: mpsc::Receiver<ControlMessage>) {
        loop {
            let reason = match self.connect_and_serve(&mut messages).await {
                Ok(()) => return,
                Err(reason) => reason,
            };
            tracing::debug!(host = %self.host.name, reason, "no control stream");
            let host = self.host.name.clone();
            if self
                .events
                .send(HubEvent::Away { host, reason })
                .await
                .is_err()
            {
                return;
            }
            tokio::time::sleep(REDIAL_PAUSE).await;
            // Orders of before the loss are sent again by the rollout where they still count.
            while messages.try_recv().is_ok() {}
        }
    }

    async fn connect_and_serve(
        &self,
        messages: &mut mpsc::Receiver<ControlMessage>,
    ) -> Result<(), String> {
        let addresses = resolve(&self.host.addresses)
            .await
            .map_err(|error| format!("look up its address: {error}"))?;
        let link = self
            .node
            .dial(&self.host.name, &addresses)
            .await
            .map_err(|error| error_chain(&error))?;
        let (mut send, mut receive) = link.open_bi().await.map_err(|error| error_chain(&error))?;
        let open = Envelope::from(Open::Control(Hello::ours()));
        frame::write_message(&mut send, &open)
            .await
            .map_err(|error| error_chain(&error))?;
        let (repo, environment) = self.about.clone();
        let ask = Envelope::from(ControlMessage::Ask { repo, environment });
        frame::write_message(&mut send, &ask)
            .await
            .map_err(|error| error_chain(&error))?;
        match frame::read_message::<_, Envelope<Hello>>(&mut receive).await {
            Ok(Some(_)) => {}
            Ok(None) => return Err("the host closed the control stream".into()),
            Err(error) => return Err(error_chain(&error)),
        }
        let _ = self
            .events
            .send(HubEvent::Connected(self.host.name.clone()))
            .await;
        let write = async {
            while let Some(message) = messages.recv().await {
                let message = Envelope::from(message);
                frame::write_message(&mut send, &message)
                    .await
                    .map_err(|e| error_chain(&e))?;
            }
            // The hub is gone: tell the host in order, and be done.
            let _ = send.finish();
            let _ = send.stopped().await;
            Ok(())
        };
        let read = async {
            loop {
                match frame::read_message::<_, Envelope<ControlMessage>>(&mut receive).await {
                    Ok(Some(Envelope {
                        message: ControlMessage::Report(report),
                        ..
                    })) => {
                        let report = report
                            .verify(&self.trust, clock::now())
                            .map_err(|error| error_chain(&error))?;
                        if report.host != self.host.name {
                            return Err(format!("a report of {} came from it", report.host));
                        }
                        let _ = self.events.send(HubEvent::Report(Box::new(report))).await;
                    }
                    Ok(Some(_)) => return Err("the host sent an order".into()),
                    Ok(None) => return Err("the host closed the control stream".into()),
                    Err(error) => return Err(error_chain(&error)),
                }
            }
        };
        tokio::select! {
            result = write => result,
            result = read => result,
        }
    }
}
