//! How a node comes to believe another fleet trust, and keeps it over restarts.
//!
//! What is believed is on disk before anything is done about it. Kept is a chain: the first fleet trust of each set of
//! authorities, each of which an authority of the set before signed, and the latest. By it a node goes from the
//! authorities of its own identity to those of now, after any restart and without anybody's word.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::{
    believed::Believed,
    file,
    fleet_trust::{FleetTrust, FleetTrustError, SignedFleetTrust, TrustMark},
    trust::Trust,
};
use crate::{codec, limits::TRUST_CHAIN_MAX};

/// Where a node keeps what it believes.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    /// The chain, the latest last.
    chain: Vec<Link>,
    path: Option<PathBuf>,
    /// Nothing of a lower number is believed: it was lost, and who offers it may lie.
    least: u64,
    /// One that was offered and has the number of what is believed.
    conflict: Option<FleetTrust>,
}

#[derive(Debug, Clone)]
struct Link {
    signed: SignedFleetTrust,
    number: u64,
    /// Whether it has other authorities than the one before it, or is the first.
    is_turn: bool,
}

/// What became of a fleet trust that somebody offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// It is believed, and on disk.
    Believed,
    /// It, or a later one, was believed already.
    Known,
    /// Another one of the same number was believed before: two signed without knowing of each other. The next one settles it.
    Conflict,
}

/// What was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Nothing: none was ever believed here.
    Nothing,
    /// What is believed now.
    Fleet(TrustMark),
    /// Something that is gone or damaged, though one of this number had been kept. What is of a lower number is not believed.
    Lost {
        /// The number.
        number: u64,
    },
}

/// Why what is believed cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// It is not the trust of our fleet.
    #[error(transparent)]
    Refused(#[from] FleetTrustError),
    /// A file cannot be read or written.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// With which.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl Trust {
    /// Keeps what is believed in the file at `path` from now on, beside a file `<path>.number` that tells its loss, and
    /// believes what is kept there. It blocks.
    ///
    /// # Errors
    /// [`KeepError::Io`].
    pub fn keep_in(&self, path: &Path) -> Result<Kept, KeepError> {
        let mut keeping = self.keeping();
        let least = read_number(path)?;
        self.follow_file(&mut keeping, path)?;
        keeping.path = Some(path.to_owned());
        let mark = self.mark();
        if mark.number < least {
            keeping.least = least;
            return Ok(Kept::Lost { number: least });
        }
        Ok(match mark.number {
            0 => Kept::Nothing,
            _ => Kept::Fleet(mark),
        })
    }

    /// Believes what a file says that another node kept, as far as it follows from what is believed. It blocks.
    ///
    /// # Errors
    /// [`KeepError::Io`].
    pub fn learn_from(&self, path: &Path) -> Result<(), KeepError> {
        let mut keeping = self.keeping();
        let _lock = lock(&keeping)?;
        self.follow_file(&mut keeping, path)
    }

    /// Believes a fleet trust from now on, if an authority that is believed signed it and it is newer than what is: durably,
    /// before anything is done about it. All that share this trust follow. It blocks.
    ///
    /// # Errors
    /// [`KeepError`]; then nothing has changed.
    pub fn offer(&self, signed: SignedFleetTrust) -> Result<Offered, KeepError> {
        let mut keeping = self.keeping();
        let (trust, offered) = self.examine(&keeping, &signed)?;
        if offered == Offered::Conflict {
            keeping.conflict = Some(trust);
        }
        if offered != Offered::Believed {
            return Ok(offered);
        }
        // Another process of the same directory may have gone on meanwhile.
        let _lock = lock(&keeping)?;
        let before = self.mark();
        if let Some(path) = keeping.path.clone() {
            self.follow_file(&mut keeping, &path)?;
        }
        let offered = self.follow(&mut keeping, signed)?;
        Ok(match self.mark() == before {
            true => offered,
            false => Offered::Believed,
        })
    }

    /// What is believed and why, the latest last, for who holds to that of `number`, or to none (0): without what it has.
    pub fn chain_after(&self, number: u64) -> Vec<SignedFleetTrust> {
        let keeping = self.keeping();
        let links = keeping.chain.iter().filter(|link| link.number > number);
        links.map(|link| link.signed.clone()).collect()
    }

    /// Another fleet trust with the number of the one that is believed, which an authority signed too.
    pub fn conflict(&self) -> Option<FleetTrust> {
        self.keeping().conflict.clone()
    }

    /// The number of what was kept and is lost, until something as late is believed.
    pub fn lost(&self) -> Option<u64> {
        let least = self.keeping().least;
        (self.mark().number < least).then_some(least)
    }

    fn follow_file(&self, keeping: &mut Keeping, path: &Path) -> Result<(), KeepError> {
        for signed in read_chain(path)? {
            match self.follow(keeping, signed) {
                // One that does not follow from our authorities is of an identity before this one.
                Ok(_) | Err(KeepError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What a fleet trust says, and whether it is to be believed.
    fn examine(
        &self,
        keeping: &Keeping,
        signed: &SignedFleetTrust,
    ) -> Result<(FleetTrust, Offered), KeepError> {
        let believed = self.believed();
        let keys = believed.authorities.iter().map(|it| &it.key);
        let trust = signed.verify(keys, self.fleet())?;
        let least = believed.mark.number.max(keeping.least);
        let offered = match trust.number {
            number if number < least => Offered::Known,
            number if number > believed.mark.number => Offered::Believed,
            number if signed.mark(number) == believed.mark => Offered::Known,
            _ => Offered::Conflict,
        };
        Ok((trust, offered))
    }

    fn follow(
        &self,
        keeping: &mut Keeping,
        signed: SignedFleetTrust,
    ) -> Result<Offered, KeepError> {
        let (trust, offered) = self.examine(keeping, &signed)?;
        if offered != Offered::Believed {
            return Ok(offered);
        }
        let is_first = keeping.chain.is_empty();
        let is_turn = is_first || !self.believed().has_authorities_of(&trust);
        let number = trust.number;
        let next = Believed::of(trust, &signed)
            .map_err(|()| FleetTrustError::Authority("it is not usable as one"))?;
        let mut chain = keeping.chain.clone();
        if chain.last().is_some_and(|link| !link.is_turn) {
            chain.pop();
        }
        chain.push(Link {
            signed,
            number,
            is_turn,
        });
        if chain.len() > TRUST_CHAIN_MAX {
            chain.remove(0);
        }
        if let Some(path) = &keeping.path {
            write_chain(path, &chain, number)?;
        }
        keeping.chain = chain;
        keeping.least = 0;
        keeping.conflict = None;
        self.replace(next);
        Ok(Offered::Believed)
    }
}

/// The first bytes of the file: kind and version. Then the BLAKE3 of the rest, and the rest.
const MAGIC: &[u8] = b"scap-trust-chain/1\n";

/// What is kept in a file; nothing where it is absent or damaged, which its number tells.
fn read_chain(path: &Path) -> Result<Vec<SignedFleetTrust>, KeepError> {
    let bytes = read(path)?.unwrap_or_default();
    let body = bytes.strip_prefix(MAGIC).and_then(|rest| {
        let (checksum, body) = rest.split_at_checked(blake3::OUT_LEN)?;
        (blake3::hash(body).as_bytes() == checksum).then_some(body)
    });
    let chain = body.and_then(|body| codec::decode(body).ok());
    Ok(chain.unwrap_or_default())
}

/// The number of what was kept last; 0 where none ever was. One that cannot be read counts as 1: something was kept.
fn read_number(path: &Path) -> Result<u64, KeepError> {
    let text = read(&number_path(path))?;
    let number = |text: Vec<u8>| String::from_utf8(text).ok()?.trim().parse().ok();
    Ok(text.map_or(0, |text| number(text).unwrap_or(1)))
}

/// Waits until no other process changes the same file, for as long as a few syncs take; where it is kept in none, nobody else
/// does. The kernel gives the lock back when we die.
fn lock(keeping: &Keeping) -> Result<Option<File>, KeepError> {
    let Some(kept) = &keeping.path else {
        return Ok(None);
    };
    let path = kept.with_extension("lock");
    let locked = file::lock_file(&path).map_err(|source| KeepError::Io {
        doing: "lock",
        path: path.clone(),
        source,
    });
    locked.map(Some)
}

fn number_path(path: &Path) -> PathBuf {
    path.with_extension("number")
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, KeepError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(KeepError::Io {
            doing: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

fn write_chain(path: &Path, chain: &[Link], number: u64) -> Result<(), KeepError> {
    let chain: Vec<&SignedFleetTrust> = chain.iter().map(|link| &link.signed).collect();
    let body = codec::encode(&chain);
    let bytes = [MAGIC, blake3::hash(&body).as_bytes(), &body].concat();
    replace(path, &bytes)?;
    // Last: a number without what it is of would be taken for a loss.
    replace(&number_path(path), format!("{number}\n").as_bytes())
}

fn replace(path: &Path, bytes: &[u8]) -> Result<(), KeepError> {
    file::replace_file(path, bytes).map_err(|source| KeepError::Io {
        doing: "replace",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
