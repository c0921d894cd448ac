//! Values to bytes and back; the one file that names bincode.
//!
//! Little-endian, variable-width integers. Decoding claims at most
//! [`DECODE_CLAIM_BYTES_MAX`] and takes all of its input or none.

use bincode::{
    config::{self, Configuration, Limit, LittleEndian, Varint},
    error::DecodeError,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    extensions::{ExtensionError, Extensions},
    limits::DECODE_CLAIM_BYTES_MAX,
};

/// A top-level message: it can grow by extensions.
pub trait Extensible {
    /// The odd tags that this version understands.
    const EXTENSIONS_KNOWN: &'static [u16] = &[];

    /// What the message carries beyond its fields.
    fn extensions(&self) -> &Extensions;
}

/// Why bytes are not a value.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Not the encoding of such a value, or one that claims more than is allowed.
    #[error("malformed bytes")]
    Malformed(#[source] DecodeError),
    /// Bytes left over after the value.
    #[error("{0} bytes after the end of the value")]
    Trailing(usize),
    /// Bytes that another encoder would write differently, where equal content must mean equal bytes.
    #[error("not the canonical encoding")]
    NotCanonical,
    /// The object's first bytes are not those of any version that this side reads.
    #[error("not a {expected} of a version that this side reads")]
    Magic {
        /// The magic that was looked for, which names kind and version.
        expected: &'static str,
    },
    /// An extension is refused.
    #[error(transparent)]
    Extension(#[from] ExtensionError),
}

/// Encodes `value`.
///
/// # Panics
/// Where a type of ours has no encoding, which a round-trip test of that type shows.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, CONFIG).expect("protocol types have an encoding")
}

/// Decodes all of `bytes`.
///
/// # Errors
/// [`CodecError::Malformed`] and [`CodecError::Trailing`].
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let (value, consumed) =
        bincode::serde::decode_from_slice(bytes, CONFIG).map_err(CodecError::Malformed)?;
    match bytes.len() - consumed {
        0 => Ok(value),
        left => Err(CodecError::Trailing(left)),
    }
}

/// Decodes a content-addressed object, of which each value has exactly one encoding.
///
/// # Errors
/// As [`decode`], and [`CodecError::NotCanonical`].
pub fn decode_canonical<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let value = decode::<T>(bytes)?;
    if encode(&value) == bytes {
        Ok(value)
    } else {
        Err(CodecError::NotCanonical)
    }
}

/// Decodes a message and refuses extensions that it requires and this version does not know.
///
/// # Errors
/// As [`decode`], and [`CodecError::Extension`].
pub fn decode_message<T: DeserializeOwned + Extensible>(bytes: &[u8]) -> Result<T, CodecError> {
    let message = decode::<T>(bytes)?;
    message.extensions().require_known(T::EXTENSIONS_KNOWN)?;
    Ok(message)
}

type Config = Configuration<LittleEndian, Varint, Limit<DECODE_CLAIM_BYTES_MAX>>;
const CONFIG: Config = config::standard().with_limit::<DECODE_CLAIM_BYTES_MAX>();

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_length_that_lies_is_an_error_and_no_allocation() {
        // A Vec<u8> that claims 2^64-1 elements.
        let lie = [253, 255, 255, 255, 255, 255, 255, 255, 255];
        assert!(matches!(
            decode::<Vec<u8>>(&lie),
            Err(CodecError::Malformed(_))
        ));
    }

    #[test]
    fn trailing_bytes_and_second_encodings_are_refused() {
        assert!(matches!(
            decode::<u32>(&[3, 0]),
            Err(CodecError::Trailing(1))
        ));
        assert_eq!(decode::<u32>(&[251, 3, 0]).unwrap(), 3);
        assert!(matches!(
            decode_canonical::<u32>(&[251, 3, 0]),
            Err(CodecError::NotCanonical)
        ));
    }
}
