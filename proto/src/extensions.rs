//! How formats grow: tagged bytes at the end of every top-level message and signed object.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::limits::{EXTENSION_BYTES_MAX, EXTENSIONS_MAX};

/// One extension: an even tag may be ignored by who does not know it, an odd one may not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extension {
    /// What the bytes are.
    pub tag: u16,
    /// Their meaning is the tag's.
    pub bytes: Bytes,
}

/// The extensions of one object, in strictly rising order of their tags.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Extension>", into = "Vec<Extension>")]
pub struct Extensions(Vec<Extension>);

impl Extensions {
    /// The bytes of `tag`, where it is present.
    pub fn get(&self, tag: u16) -> Option<&Bytes> {
        self.0
            .iter()
            .find(|extension| extension.tag == tag)
            .map(|extension| &extension.bytes)
    }

    /// The same with `tag` in it, in place of what was there under that tag.
    ///
    /// # Errors
    /// [`ExtensionError::TooMany`], [`ExtensionError::TooLong`].
    pub fn with(mut self, tag: u16, bytes: Bytes) -> Result<Self, ExtensionError> {
        self.0.retain(|extension| extension.tag != tag);
        let at = self.0.partition_point(|extension| extension.tag < tag);
        self.0.insert(at, Extension { tag, bytes });
        Self::try_from(self.0)
    }

    /// Refuses a required (odd) extension that is not among `known`.
    ///
    /// # Errors
    /// [`ExtensionError::Required`] with the first such tag.
    pub fn require_known(&self, known: &[u16]) -> Result<(), ExtensionError> {
        match self
            .0
            .iter()
            .find(|e| e.tag % 2 == 1 && !known.contains(&e.tag))
        {
            Some(unknown) => Err(ExtensionError::Required(unknown.tag)),
            None => Ok(()),
        }
    }
}

impl TryFrom<Vec<Extension>> for Extensions {
    type Error = ExtensionError;

    fn try_from(list: Vec<Extension>) -> Result<Self, ExtensionError> {
        if list.len() > EXTENSIONS_MAX {
            return Err(ExtensionError::TooMany(list.len()));
        }
        if let Some(long) = list.iter().find(|e| e.bytes.len() > EXTENSION_BYTES_MAX) {
            return Err(ExtensionError::TooLong {
                tag: long.tag,
                bytes: long.bytes.len(),
            });
        }
        if !list.is_sorted_by(|a, b| a.tag < b.tag) {
            return Err(ExtensionError::Unsorted);
        }
        Ok(Self(list))
    }
}

impl From<Extensions> for Vec<Extension> {
    fn from(extensions: Extensions) -> Self {
        extensions.0
    }
}

impl fmt::Debug for Extensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|extension| extension.tag))
            .finish()
    }
}

/// Why the extensions of an object are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExtensionError {
    /// This version does not know an extension that must be known.
    #[error("required extension {0} is unknown to this version; upgrade this side")]
    Required(u16),
    /// More than [`EXTENSIONS_MAX`].
    #[error("{0} extensions, at most {EXTENSIONS_MAX} are allowed")]
    TooMany(usize),
    /// Longer than [`EXTENSION_BYTES_MAX`].
    #[error("extension {tag} has {bytes} bytes, at most {EXTENSION_BYTES_MAX} are allowed")]
    TooLong {
        /// Which.
        tag: u16,
        /// How long it is.
        bytes: usize,
    },
    /// Not in strictly rising order of the tags.
    #[error("extensions are not in strictly rising order")]
    Unsorted,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn extensions(tags: &[u16]) -> Result<Extensions, ExtensionError> {
        let extension = |tag: &u16| Extension {
            tag: *tag,
            bytes: Bytes::from_static(b"x"),
        };
        Extensions::try_from(tags.iter().map(extension).collect::<Vec<_>>())
    }

    #[test]
    fn an_unknown_even_tag_is_ignored_and_an_unknown_odd_one_refused() {
        assert_eq!(extensions(&[2, 4]).unwrap().require_known(&[]), Ok(()));
        let with_odd = extensions(&[2, 7]).unwrap();
        assert_eq!(
            with_odd.require_known(&[]),
            Err(ExtensionError::Required(7))
        );
        assert_eq!(with_odd.require_known(&[7]), Ok(()));
        assert_eq!(with_odd.get(7).unwrap().as_ref(), b"x");
    }

    #[test]
    fn one_more_stands_in_its_place_or_takes_that_of_another() {
        let with = |tag| {
            let bytes = Bytes::from_static(b"new");
            extensions(&[2, 7]).unwrap().with(tag, bytes).unwrap()
        };
        assert_eq!(format!("{:?}", with(4)), "[2, 4, 7]");
        assert_eq!(format!("{:?}", with(7)), "[2, 7]");
        assert_eq!(with(7).get(7).unwrap().as_ref(), b"new");
        let long = Bytes::from(vec![0; EXTENSION_BYTES_MAX + 1]);
        assert!(extensions(&[2]).unwrap().with(4, long).is_err());
    }

    #[test]
    fn tags_are_unique_and_sorted_and_few() {
        assert_eq!(extensions(&[2, 2]), Err(ExtensionError::Unsorted));
        assert_eq!(extensions(&[4, 2]), Err(ExtensionError::Unsorted));
        let many: Vec<u16> = (0..17).collect();
        assert_eq!(extensions(&many), Err(ExtensionError::TooMany(17)));
    }
}
