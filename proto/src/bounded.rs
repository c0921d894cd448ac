//! Lists that are read only as far as they may be long.
//!
//! A list of the shortest items takes some forty times more memory than it has bytes in a frame. So one that says to be longer than
//! it may be is refused by its length, before its first item is read.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};

/// A list of at most `MAX` items: to be named in `#[serde(deserialize_with)]`.
///
/// # Errors
/// Of the deserializer; and where the list is longer.
pub(crate) fn list<'de, D, T, const MAX: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    deserializer.deserialize_seq(Bounded::<T, MAX>(PhantomData))
}

struct Bounded<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Bounded<T, MAX> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
        let said = items.size_hint().unwrap_or(0);
        if said > MAX {
            return Err(A::Error::invalid_length(said, &self));
        }
        let mut list = Vec::with_capacity(said);
        while let Some(item) = items.next_element()? {
            if list.len() == MAX {
                return Err(A::Error::invalid_length(MAX + 1, &self));
            }
            list.push(item);
        }
        Ok(list)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde::{Deserialize, Serialize};

    use crate::codec;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Short(#[serde(deserialize_with = "super::list::<_, _, 3>")] Vec<u8>);

    #[test]
    fn a_list_is_as_long_as_it_may_be_and_no_longer() {
        for length in 0..=3 {
            let short = Short(vec![7; length]);
            assert_eq!(
                codec::decode::<Short>(&codec::encode(&short)).unwrap(),
                short
            );
        }
        for length in [4, 100_000_000] {
            // No item of it is there.
            let bytes = codec::encode(&length);
            let error = codec::decode::<Short>(&bytes).unwrap_err();
            let error = std::error::Error::source(&error).unwrap().to_string();
            assert!(error.contains("a list of at most 3"), "{error}");
        }
    }
}
