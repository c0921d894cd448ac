//! Why a connection is closed or a stream reset: application error codes.

/// The work is done, or the node is going down in order.
pub const DONE: u32 = 0;
/// The other side broke the protocol.
pub const PROTOCOL: u32 = 1;
/// The other side sent a chunk that is not what it should be.
pub const WRONG_BYTES: u32 = 2;
/// The other side was too slow for too long.
pub const SLOW: u32 = 3;
/// There is no room for another connection or stream now.
pub const BUSY: u32 = 4;
/// Another connection to the same node takes the place of this one.
pub const REPLACED: u32 = 5;
/// The chunk is not wanted any more.
pub const CANCELLED: u32 = 6;
/// Something failed on this side that is not the other's fault.
pub const INTERNAL: u32 = 7;
/// The other side is revoked.
pub const REVOKED: u32 = 12;
/// The other side's certificate is of an authority that the fleet has moved away from.
pub const OLD_AUTHORITY: u32 = 13;

/// The meaning of a code, for people.
pub fn describe(code: u64) -> &'static str {
    match u32::try_from(code) {
        Ok(DONE) => "the other side was done",
        Ok(PROTOCOL) => "the other side says that we broke the protocol",
        Ok(WRONG_BYTES) => "the other side says that we sent wrong bytes",
        Ok(SLOW) => "the other side says that we were too slow",
        Ok(BUSY) => "the other side is busy",
        Ok(REPLACED) => "another connection took its place",
        Ok(CANCELLED) => "not wanted any more",
        Ok(INTERNAL) => "the other side had a failure of its own",
        Ok(REVOKED) => "the other side says that we are revoked",
        Ok(OLD_AUTHORITY) => "the other side says that our certificate is of an old authority",
        _ => "a reason that this version does not know",
    }
}
