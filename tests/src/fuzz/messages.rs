//! What comes over a connection from whoever holds a certificate of the fleet: frames, and the messages in them.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use scap_proto::{
    codec,
    frame::{self, FrameError},
    limits::{ENCODED_CHUNK_BYTES_MAX, FRAME_BYTES_MAX, SNAPSHOT_CHUNKS_MAX},
    wire::{
        Envelope, Open,
        chunk::{PushHeader, ReplyHeader},
        config::ConfigAnswer,
        control::{ControlMessage, Finalize, Order},
        peer::{ChunkSet, PeerMessage},
    },
};

use super::{message, shown, value};

/// A stream: frame after frame, the first of which says what the stream is for.
pub fn frames(bytes: &[u8]) {
    let mut stream = bytes;
    let mut is_first = true;
    while let Some(body) = read_frame(&mut stream) {
        assert!(body.len() <= FRAME_BYTES_MAX as usize, "{}", body.len());
        if is_first {
            open(&body);
        } else {
            peer(&body);
            control(&body);
        }
        is_first = false;
    }
}

fn read_frame(stream: &mut &[u8]) -> Option<bytes::Bytes> {
    let before = stream.len();
    let read = {
        let mut reading = pin!(frame::read(stream));
        match reading
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(read) => read,
            Poll::Pending => panic!("bytes in memory are there at once"),
        }
    };
    match read {
        Ok(Some(body)) => {
            assert_eq!(before - stream.len(), 4 + body.len(), "a frame and no more");
            Some(body)
        }
        Ok(None) => {
            assert_eq!(before, 0, "a clean end is where nothing came");
            None
        }
        Err(FrameError::TooLong(length)) => {
            assert!(length > u64::from(FRAME_BYTES_MAX), "{length}");
            None
        }
        Err(error) => {
            shown(error);
            None
        }
    }
}

/// The first message of a stream.
pub fn open(bytes: &[u8]) {
    message::<Envelope<Open>>(bytes);
}

/// A message of a session between peers.
pub fn peer(bytes: &[u8]) {
    let Some(envelope) = message::<Envelope<PeerMessage>>(bytes) else {
        return;
    };
    envelope.trust();
    let message = envelope.message;
    match message {
        PeerMessage::Have { chunks: set, .. } | PeerMessage::Follow { held: set, .. } => {
            check_set(&set, bytes.len());
        }
        PeerMessage::Open { .. } | PeerMessage::Close { .. } | PeerMessage::Trust(_) => {}
    }
}

/// Which chunks somebody says to have.
pub fn availability(bytes: &[u8]) {
    if let Some(set) = value::<ChunkSet>(bytes) {
        check_set(&set, bytes.len());
    }
}

/// A set that came in `bytes` bytes holds nothing that no snapshot has, and no more than so many bytes can say.
fn check_set(set: &ChunkSet, bytes: usize) {
    let Some(indexes) = set.indexes() else {
        return;
    };
    assert!(
        indexes.len() <= 8 * bytes,
        "{} of {bytes} bytes",
        indexes.len()
    );
    let beyond = indexes.iter().find(|index| **index >= SNAPSHOT_CHUNKS_MAX);
    assert_eq!(beyond, None, "a chunk that no snapshot has");
    if indexes.is_sorted_by(|a, b| a < b) {
        let ours = ChunkSet::from_sorted(&indexes);
        assert_eq!(ours.indexes(), Some(indexes), "{ours:?}");
    }
}

/// A message of a control stream, with what is read of orders before anything is verified.
pub fn control(bytes: &[u8]) {
    let Some(Envelope { message, .. }) = message::<Envelope<ControlMessage>>(bytes) else {
        return;
    };
    match message {
        ControlMessage::Order(order) => check_order(&order),
        ControlMessage::Finalize(finalize) | ControlMessage::FinalizeAt { finalize, .. } => {
            check_finalize(&finalize);
        }
        ControlMessage::Lease(lease) => {
            lease.relay_unverified();
        }
        _ => {}
    }
}

fn check_order(order: &Order) {
    let release = order.release.read_unverified();
    if let Ok(release) = release {
        release.priority();
        assert!(!release.namespace().is_empty());
    }
    let directive = order.directive.read_unverified();
    let targets = order.directive.targets_unverified();
    assert_eq!(
        directive.map(|directive| directive.targets),
        targets,
        "whom a relay passes it to is whom it is for"
    );
}

fn check_finalize(finalize: &Finalize) {
    let reach = finalize.finalization.reach_unverified();
    assert_eq!(reach.is_ok_and(|reach| reach.is_open()), finalize.is_open());
}

/// The messages that are all of an answer: which releases are stable, and what config files would change.
pub fn answers(bytes: &[u8]) {
    if let Some(Envelope { message, .. }) = message::<Envelope<Finalize>>(bytes) {
        check_finalize(&message);
    }
    message::<Envelope<ConfigAnswer>>(bytes);
}

/// What stands before the bytes of a chunk, asked for or pushed.
pub fn chunk_headers(bytes: &[u8]) {
    if let Some((header, _)) = bytes.split_first_chunk::<{ ReplyHeader::BYTES }>()
        && let Ok(reply) = ReplyHeader::decode(*header).map_err(shown)
    {
        if let ReplyHeader::Found(length) = reply {
            assert!((1..=ENCODED_CHUNK_BYTES_MAX).contains(&length), "{length}");
        }
        assert_eq!(ReplyHeader::decode(reply.encode()), Ok(reply));
    }
    if let Some((header, _)) = bytes.split_first_chunk::<{ PushHeader::BYTES }>()
        && let Ok(push) = PushHeader::decode(*header).map_err(shown)
    {
        let length = push.length;
        assert!((1..=ENCODED_CHUNK_BYTES_MAX).contains(&length), "{length}");
        assert_eq!(push.encode(), *header, "there is one encoding");
    }
    // A handle and an index, as they are asked for.
    let request: Result<scap_proto::wire::chunk::ChunkRequest, _> = codec::decode(bytes);
    if let Ok(request) = request.map_err(shown) {
        assert_eq!(codec::decode(&codec::encode(&request)).ok(), Some(request));
    }
}
