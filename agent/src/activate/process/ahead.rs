//! A release written ahead, as the activator is asked for it: while the connection lasts, and told when chunks came.
//!
//! It has the repo's turn, also while it waits for chunks, and gives it up at once to whoever wants it. What it needs of
//! authority is what the order itself needs, asked again each time that it has the turn; nothing of it is recorded.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use bytes::Bytes;
use scap_proto::{
    frame::{self, FrameError},
    id::ChunkId,
    wire::{Envelope, control::Order},
};
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

use super::{Activator, Answer};
use crate::{
    activate::{
        ActivateError, Ahead, ChunkSource, SourceError, Target, authorise, background::Turn,
    },
    clock,
    store::StoreReader,
    trust::VerifiedOrder,
};

/// What the activator is told after [`super::Request::Ahead`], on its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum News {
    /// Chunks are in the store that were not.
    Stored,
    /// All are: what is not there will not come.
    Complete,
}

/// What was written ahead, in plain bytes of chunks read for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenAhead {
    /// Before it was told that all chunks are there.
    pub bytes_early: u64,
    /// In all.
    pub bytes: u64,
    /// Whether nothing is left to be written.
    pub is_whole: bool,
}

/// Who writes ahead, and who hears of news about it.
struct Writer {
    activator: Arc<Activator>,
    turn: Arc<Turn>,
    /// Which of the repo's it is: a later one takes its place.
    number: u64,
    order: VerifiedOrder,
    is_complete: AtomicBool,
    is_over: AtomicBool,
    bytes_early: AtomicU64,
    bytes: AtomicU64,
}

/// Writes ahead what `order` is about, as long as the connection lasts and chunks come.
pub(super) async fn serve(
    activator: Arc<Activator>,
    order: Order,
    mut stream: UnixStream,
) -> Result<(), FrameError> {
    let cancel = activator.cancel.clone();
    let verify = {
        let activator = activator.clone();
        move || activator.trust.verify_order(order, clock::now())
    };
    let verified = tokio::task::spawn_blocking(verify).await;
    let order = match verified.expect("to check an order does not panic") {
        Ok(order) => order,
        Err(error) => {
            let refused = Answer::Refused(error.code().because(crate::error_chain(&error)));
            return frame::write_message(&mut stream, &Envelope::from(refused)).await;
        }
    };
    let turn = activator.turns.of(&order.release.release().repo);
    let writer = Arc::new(Writer {
        number: turn.begin_ahead(),
        turn,
        activator,
        order,
        is_complete: AtomicBool::default(),
        is_over: AtomicBool::default(),
        bytes_early: AtomicU64::default(),
        bytes: AtomicU64::default(),
    });
    let mut writing = {
        let writer = writer.clone();
        tokio::task::spawn_blocking(move || writer.write())
    };
    let (mut news, mut answers) = stream.split();
    let written = loop {
        tokio::select! {
            written = &mut writing => break written,
            told = frame::read_message::<_, Envelope<News>>(&mut news) => match told {
                Ok(Some(Envelope { message: News::Stored, .. })) => writer.turn.tell(),
                Ok(Some(Envelope { message: News::Complete, .. })) => writer.tell(&writer.is_complete),
                // Who asked is gone, or of another build.
                Ok(None) | Err(_) => {
                    writer.tell(&writer.is_over);
                    break writing.await;
                }
            },
            () = cancel.cancelled() => {
                writer.tell(&writer.is_over);
                break writing.await;
            }
        }
    };
    let is_whole = written.unwrap_or_else(|panic| {
        tracing::error!(%panic, "the activator panicked");
        false
    });
    let answer = Answer::Ahead(WrittenAhead {
        bytes_early: writer.bytes_early.load(Ordering::SeqCst),
        bytes: writer.bytes.load(Ordering::SeqCst),
        is_whole,
    });
    frame::write_message(&mut answers, &Envelope::from(answer)).await
}

impl Writer {
    fn tell(&self, what: &AtomicBool) {
        what.store(true, Ordering::SeqCst);
        self.turn.tell();
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst) || self.turn.ahead() != self.number
    }

    fn is_complete(&self) -> bool {
        self.is_complete.load(Ordering::SeqCst)
    }

    /// Returns whether all is written.
    fn write(&self) -> bool {
        let about = self.order.release.release();
        loop {
            let _turn = self.turn.take_after_others();
            let written = self.write_in_turn();
            match written {
                // A later one goes on with what is there, or removes it.
                _ if self.turn.ahead() != self.number => return false,
                Ok(Some(Ahead::Whole)) => return true,
                Ok(Some(Ahead::Stopped)) if !self.is_over() && !self.is_complete() => {}
                Ok(Some(Ahead::Stopped) | None) => break,
                Err(error) => {
                    // Whoever makes the directory finds the same and says so.
                    let error = crate::error_chain(&error);
                    tracing::info!(repo = %about.repo, error, "nothing is written ahead");
                    break;
                }
            }
        }
        // So that the background makes a spare again where one was taken and nothing comes of it.
        self.activator.wanted.add(about.repo.clone());
        false
    }

    /// With the repo's turn. `None` where nothing is to be written ahead.
    fn write_in_turn(&self) -> Result<Option<Ahead>, ActivateError> {
        let activator = &self.activator;
        let (about, order) = (self.order.release.release(), &self.order);
        // To check a commit takes all chunks, and what was not checked is not written.
        let rule = activator.trust.commit_rule(&about.repo, &about.environment);
        let mut deployment = activator.open(&about.repo)?;
        if self.is_over() {
            deployment.drop_ahead()?;
            return Ok(None);
        }
        let us = &activator.trust.addressee;
        let granted = authorise::would_accept(&deployment, us, order, clock::now())?;
        if rule.is_some() || granted.is_err() {
            deployment.drop_ahead()?;
            return Ok(None);
        }
        let target = Target {
            release: order.release.id(),
            sequence: about.sequence,
            commit: about.commit.clone(),
            snapshot: about.snapshot,
            config: about.config,
        };
        let gives_way = || self.turn.is_awaited() || self.is_over();
        let coming = Coming {
            writer: self,
            store: &activator.store,
        };
        let made = deployment.write_ahead(&target, &coming, &activator.store, &gives_way)?;
        if self.is_over() && self.turn.ahead() == self.number {
            deployment.drop_ahead()?;
        }
        Ok(Some(made))
    }
}

/// The chunks that come: one that is not there is waited for, until something else is to be done.
struct Coming<'a> {
    writer: &'a Writer,
    store: &'a StoreReader,
}

impl Coming<'_> {
    fn await_chunk(
        &self,
        id: &ChunkId,
        read: impl Fn() -> Result<Bytes, SourceError>,
    ) -> Result<Bytes, SourceError> {
        let writer = self.writer;
        loop {
            // Before all that is looked at, so that what changes meanwhile is news.
            let seen = writer.turn.news();
            let is_complete = writer.is_complete();
            if writer.turn.is_awaited() || writer.is_over() {
                return Err(SourceError::Missing(*id));
            }
            match read() {
                Err(SourceError::Missing(_)) if !is_complete => writer.turn.wait_for_news(seen),
                Ok(plain) => {
                    let bytes = plain.len() as u64;
                    writer.bytes.fetch_add(bytes, Ordering::SeqCst);
                    if !is_complete {
                        writer.bytes_early.fetch_add(bytes, Ordering::SeqCst);
                    }
                    return Ok(plain);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl ChunkSource for Coming<'_> {
    fn plain(&self, id: &ChunkId) -> Result<Bytes, SourceError> {
        self.await_chunk(id, || ChunkSource::plain(self.store, id))
    }

    fn unproved(&self, id: &ChunkId) -> Result<Bytes, SourceError> {
        self.await_chunk(id, || ChunkSource::unproved(self.store, id))
    }
}
