//! What reads bytes that others wrote, as functions of bytes that panic where something does not hold.
//!
//! Each [`Target`] feeds its input to the real decoder and checks what must be true of whatever comes out: no panic,
//! limits kept, the same again after encoding. `tests/fuzz` has them as targets of cargo-fuzz, which finds inputs by
//! coverage; [`campaign`] replays the corpora that are committed there, and mutates them for a short time, as part of
//! the tests.

pub mod campaign;
pub mod content;
pub mod files;
pub mod folder;
pub mod insider;
pub mod messages;
pub mod mutate;
pub mod objects;
pub mod trust;

use std::fmt::Debug;

use scap_proto::codec::{self, CodecError, Extensible};
use serde::{Serialize, de::DeserializeOwned};

/// A way for bytes of others into the program.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// What cargo-fuzz calls it, and the folder of its corpus.
    pub name: &'static str,
    /// Reads an input; panics where it finds a fault.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target("frames", messages::frames),
    target("open", messages::open),
    target("peer", messages::peer),
    target("control", messages::control),
    target("answers", messages::answers),
    target("chunk_headers", messages::chunk_headers),
    target("availability", messages::availability),
    target("descriptor", content::descriptor),
    target("entries", content::entries),
    target("names", content::names),
    target("chunk", content::chunk),
    target("delta", content::delta),
    target("release", objects::release),
    target("signature", objects::signature),
    target("allowed_signers", objects::allowed_signers),
    target("leaf", objects::leaf),
    target("objects", objects::objects),
    target("plan", objects::plan),
    target("fleet_trust", trust::fleet_trust),
    target("signers", trust::signers),
    target("enrolment", trust::enrolment),
    target("host_config", objects::host_config),
    target("scap_cfg", folder::scap_cfg),
    target("scap_toml", folder::scap_toml),
    target("checks", folder::checks),
    target("config_files", folder::config_files),
    target("host_list", folder::host_list),
    target("yaml", files::yaml),
    target("fleet", files::fleet),
    target("agent_toml", files::agent_toml),
    target("state", files::state),
    target("ids", files::ids),
];

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

/// The target of that name.
///
/// # Panics
/// Where there is none.
pub fn named(name: &str) -> &'static Target {
    let found = TARGETS.iter().find(|target| target.name == name);
    found.unwrap_or_else(|| panic!("no fuzz target is called {name}"))
}

/// Reads a message, which may come in more than one encoding; ours is the shortest, and says the same.
fn message<T>(bytes: &[u8]) -> Option<T>
where
    T: Serialize + DeserializeOwned + Extensible + PartialEq + Debug,
{
    same_again(bytes, codec::decode_message)
}

/// Reads what is part of a message.
fn value<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) -> Option<T> {
    same_again(bytes, codec::decode)
}

fn same_again<T: Serialize + PartialEq + Debug>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, CodecError>,
) -> Option<T> {
    let value = decode(bytes).map_err(shown).ok()?;
    let ours = codec::encode(&value);
    assert!(
        ours.len() <= bytes.len(),
        "{} bytes came in, {} go out: {value:?}",
        bytes.len(),
        ours.len()
    );
    let again = decode(&ours).expect("what we encode, we decode");
    assert_eq!(value, again, "it says something else when it is sent on");
    Some(value)
}

/// Makes all of an error's text, as people would see it.
fn shown(error: impl std::error::Error + 'static) -> String {
    scap_agent::error_chain(&error)
}

/// Splits an input into parts: each is after its length, two bytes, little-endian. The last may be shorter than it says.
fn parts(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (part, rest) = rest.split_at(length);
        parts.push(part);
        bytes = rest;
    }
    parts
}

/// An input of these parts, each at most 65,535 bytes long.
///
/// # Panics
/// Where one is longer.
pub fn joined(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        let length = u16::try_from(part.len()).expect("parts are short");
        bytes.extend(length.to_le_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_of_parts_is_split_where_it_was_joined_and_a_length_that_lies_takes_what_there_is() {
        let all: [&[u8]; 3] = [b"one", b"", b"three"];
        assert_eq!(parts(&joined(&all)), all);
        assert_eq!(parts(&[255, 255, 7]), [[7]]);
        assert!(parts(&[1]).is_empty());
    }
}
