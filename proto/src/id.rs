//! Names of things: digests as newtypes, and the names of hosts.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// Bytes in every digest of this protocol (BLAKE3).
pub const DIGEST_BYTES: usize = 32;

macro_rules! digest {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name([u8; DIGEST_BYTES]);

        impl $name {
            /// The BLAKE3 of `bytes`.
            pub fn of(bytes: &[u8]) -> Self {
                Self(*blake3::hash(bytes).as_bytes())
            }

            /// An id from the digest itself.
            pub const fn from_bytes(bytes: [u8; DIGEST_BYTES]) -> Self {
                Self(bytes)
            }

            /// The digest.
            pub const fn as_bytes(&self) -> &[u8; DIGEST_BYTES] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), hex::encode(&self.0[..4]))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_digest(text).map(Self)
            }
        }
    };
}

digest! {
    /// Identifies a chunk: the BLAKE3 of its plain bytes.
    ChunkId
}
digest! {
    /// Identifies the content of one file: the BLAKE3 of all its bytes.
    ContentHash
}
digest! {
    /// Identifies a snapshot: the BLAKE3 of its encoded descriptor, which makes the descriptor a chunk
    /// whose id this is.
    SnapshotId
}
digest! {
    /// Identifies a release: the BLAKE3 of its signed payload.
    ReleaseId
}
digest! {
    /// Identifies a plan: the BLAKE3 of its encoded bytes.
    PlanId
}

impl SnapshotId {
    /// The chunk that holds the descriptor.
    pub const fn descriptor_chunk(&self) -> ChunkId {
        ChunkId(self.0)
    }
}

impl ReleaseId {
    /// The first 8 hex digits, as shown to people and used in directory names.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..4])
    }
}

/// The git commit (or other object) id: 20 bytes of SHA-1 or 32 of SHA-256.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct GitOid(Vec<u8>);

impl GitOid {
    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<Vec<u8>> for GitOid {
    type Error = ParseIdError;

    fn try_from(bytes: Vec<u8>) -> Result<Self, ParseIdError> {
        match bytes.len() {
            20 | 32 => Ok(Self(bytes)),
            _ => Err(ParseIdError::GitOidLength),
        }
    }
}

impl From<GitOid> for Vec<u8> {
    fn from(oid: GitOid) -> Self {
        oid.0
    }
}

impl FromStr for GitOid {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        Self::try_from(parse_lower_hex(text)?)
    }
}

impl fmt::Display for GitOid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for GitOid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GitOid({})", hex::encode(&self.0[..4]))
    }
}

/// The name of a node in its fleet, as its certificate says it.
///
/// 1 to [`NodeId::BYTES_MAX`] bytes of ASCII letters, digits, `.`, `_` and `-`, starting with a
/// letter or a digit, so it is safe in a path, an argument and a terminal. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// Longest name, in bytes: the longest DNS name.
    pub const BYTES_MAX: usize = 253;

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        if is_plain_name(text, Self::BYTES_MAX) {
            Ok(Self(text.into()))
        } else {
            Err(ParseIdError::NodeName(
                text.escape_debug().take(64).collect(),
            ))
        }
    }
}

impl TryFrom<String> for NodeId {
    type Error = ParseIdError;

    fn try_from(text: String) -> Result<Self, ParseIdError> {
        text.parse()
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        id.0.as_ref().into()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is not the name of something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdError {
    /// Not 64 lower-case hex digits.
    #[error("a digest is {} lower-case hex digits", 2 * DIGEST_BYTES)]
    Digest,
    /// Neither 40 nor 64 hex digits.
    #[error("a git object id is 40 or 64 lower-case hex digits")]
    GitOidLength,
    /// Not hexadecimal.
    #[error("not lower-case hexadecimal")]
    NotHex,
    /// Not a node name.
    #[error(
        "`{0}` is not a host name: letters, digits, `.`, `_`, `-`, starting with a letter or a digit"
    )]
    NodeName(String),
}

/// Whether `text` is 1 to `bytes_max` ASCII letters, digits, `.`, `_`, `-`, and starts with a letter
/// or a digit: safe as a path component, an argument and on a terminal.
pub fn is_plain_name(text: &str, bytes_max: usize) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.len() <= bytes_max
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

fn parse_digest(text: &str) -> Result<[u8; DIGEST_BYTES], ParseIdError> {
    if text.len() != 2 * DIGEST_BYTES {
        return Err(ParseIdError::Digest);
    }
    parse_lower_hex(text)?
        .try_into()
        .map_err(|_| ParseIdError::Digest)
}

fn parse_lower_hex(text: &str) -> Result<Vec<u8>, ParseIdError> {
    if text.len() > 4 * DIGEST_BYTES || text.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(ParseIdError::NotHex);
    }
    hex::decode(text).map_err(|_| ParseIdError::NotHex)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_digest_parses_only_from_its_own_text() {
        let id = ChunkId::of(b"scap");
        assert_eq!(id.to_string().parse::<ChunkId>().unwrap(), id);
        for text in [
            "",
            "../../etc/passwd",
            &id.to_string().to_uppercase(),
            &"a".repeat(10_000),
        ] {
            assert!(text.parse::<ChunkId>().is_err(), "{text:.20}");
        }
    }

    #[test]
    fn a_node_name_is_safe_in_a_path_and_an_argument() {
        for good in ["web1", "web-1.example.org", "1", "a_b"] {
            assert_eq!(good.parse::<NodeId>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "-o",
            ".",
            "..",
            "a/b",
            "a b",
            "a\n",
            "<script>",
            &"a".repeat(254),
        ] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad:.20}");
        }
    }
}
