//! How a node comes to believe another fleet trust, and keeps it over restarts.
//!
//! What is believed is on disk before anything is done about it. Kept is a chain: the first fleet trust of each set of
//! authorities, each of which an authority of the set before signed, those that denied somebody whom later ones left out
//! without a word, and the latest. By it a node goes from the authorities of its own identity to those of now, after any
//! restart and without anybody's word.

mod number;
mod way;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use self::{
    number::KeptNumber,
    way::{Link, Step, Way},
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
    /// What was offered of lower numbers meanwhile, the lowest first: steps of the way to something that is believed.
    steps: Vec<Step>,
    /// The authorities that were believed before anything was kept, by the first bytes of their keys.
    own: BTreeSet<[u8; 8]>,
    /// One that was offered and has the number of what is believed.
    conflict: Option<FleetTrust>,
}

/// What became of a fleet trust that somebody offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// It is believed, and on disk.
    Believed,
    /// It, or a later one, was believed already; or it is older than what was lost here, and shows the way at most.
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
    /// That of another fleet, or of this one before it was begun anew: no authority of it is one of ours, so its number says
    /// nothing about what is to come.
    Other {
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
    /// Keeps what is believed in the file at `path` from now on, beside a file `<path>.number` that tells its loss and whose it
    /// was, and believes what is kept there. It blocks.
    ///
    /// # Errors
    /// [`KeepError::Io`].
    pub fn keep_in(&self, path: &Path) -> Result<Kept, KeepError> {
        let mut keeping = self.keeping();
        let own = self.believed().authority_marks();
        let kept = KeptNumber::read(path)?;
        let chain = read_chain(path)?;
        let is_ours = kept.is_of(&own, &chain);
        self.follow_all(&mut keeping, chain)?;
        keeping.path = Some(path.to_owned());
        keeping.own = own;
        let mark = self.mark();
        let number = kept.number;
        if mark.number < number && is_ours {
            keeping.least = number;
            return Ok(Kept::Lost { number });
        }
        if mark.number == 0 && number > 0 {
            return Ok(Kept::Other { number });
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
        self.follow_all(&mut keeping, read_chain(path)?)
    }

    /// The same of what such a file has.
    ///
    /// # Errors
    /// [`KeepError::Io`].
    pub fn learn(&self, kept: &[u8]) -> Result<(), KeepError> {
        let mut keeping = self.keeping();
        let _lock = lock(&keeping)?;
        self.follow_all(&mut keeping, parse_chain(kept))
    }

    /// Believes a fleet trust from now on, if an authority that is believed signed it and it is newer than what is: durably,
    /// before anything is done about it. All that share this trust follow. It blocks.
    ///
    /// # Errors
    /// [`KeepError`]; then nothing has changed.
    pub fn offer(&self, signed: SignedFleetTrust) -> Result<Offered, KeepError> {
        let mut keeping = self.keeping();
        if keeping.has(&signed) {
            return Ok(Offered::Known);
        }
        let (trust, offered) = self.examine(&keeping, &signed)?;
        match offered {
            Offered::Believed => {}
            Offered::Known => {
                keeping.remember(&self.believed(), &trust, signed);
                return Ok(offered);
            }
            Offered::Conflict => {
                keeping.conflict = Some(trust);
                return Ok(offered);
            }
        }
        // Another process of the same directory may have gone on meanwhile.
        let _lock = lock(&keeping)?;
        let before = self.mark();
        if let Some(path) = keeping.path.clone() {
            self.follow_all(&mut keeping, read_chain(&path)?)?;
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

    /// Whether this very one is believed, or is on the way to what is: nobody need verify it again.
    pub fn has(&self, signed: &SignedFleetTrust) -> bool {
        self.keeping().has(signed)
    }

    /// How many are denied that what is believed leaves out and does not lift: whoever signed it did not know of them.
    pub fn carried(&self) -> usize {
        self.believed().carried.len()
    }

    fn follow_all(
        &self,
        keeping: &mut Keeping,
        chain: Vec<SignedFleetTrust>,
    ) -> Result<(), KeepError> {
        for signed in chain {
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
        let steps = keeping.steps.iter().flat_map(|it| &it.keys);
        let trust = signed.verify(keys.chain(steps), self.fleet())?;
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
        if keeping.has(&signed) {
            return Ok(Offered::Known);
        }
        let (trust, offered) = self.examine(keeping, &signed)?;
        if offered == Offered::Known {
            keeping.remember(&self.believed(), &trust, signed);
            return Ok(offered);
        }
        if offered != Offered::Believed {
            return Ok(offered);
        }
        let here = Way {
            chain: keeping.chain.clone(),
            believed: self.believed(),
        };
        let way = match here.by_steps(&keeping.steps, self.fleet(), &signed) {
            Ok(way) => way,
            // Of a step that leads elsewhere somebody may have told who lies.
            Err(_) => here.step(self.fleet(), &signed)?,
        };
        if let Some(path) = &keeping.path {
            write_chain(path, &way.chain, &keeping.own)?;
        }
        *keeping = Keeping {
            chain: way.chain,
            path: keeping.path.take(),
            own: std::mem::take(&mut keeping.own),
            ..Keeping::default()
        };
        self.replace(way.believed);
        Ok(Offered::Believed)
    }
}

impl Keeping {
    fn has(&self, signed: &SignedFleetTrust) -> bool {
        self.chain.iter().any(|link| link.signed == *signed)
    }

    /// Notes a step below the number of what was lost, where it names an authority that is not known yet: by that it may be one of the way
    /// to something as late. All others lead nowhere, and who repeats them keeps no room from those that do.
    fn remember(&mut self, believed: &Believed, trust: &FleetTrust, signed: SignedFleetTrust) {
        let is_below = believed.mark.number < trust.number && trust.number < self.least;
        if !is_below || self.steps.len() >= TRUST_CHAIN_MAX {
            return;
        }
        let step = Step::new(trust, signed);
        let known = believed.authorities.iter().map(|it| &it.key);
        let known: BTreeSet<_> = known
            .chain(self.steps.iter().flat_map(|it| &it.keys))
            .collect();
        if step.keys.iter().any(|key| !known.contains(key)) {
            self.steps.push(step);
            self.steps.sort_by_key(|it| it.number);
        }
    }
}

/// The first bytes of the file: kind and version. Then the BLAKE3 of the rest, and the rest.
const MAGIC: &[u8] = b"scap-trust-chain/1\n";

/// What is kept in a file; nothing where it is absent or damaged, which its number tells.
fn read_chain(path: &Path) -> Result<Vec<SignedFleetTrust>, KeepError> {
    Ok(parse_chain(&read(path)?.unwrap_or_default()))
}

fn parse_chain(bytes: &[u8]) -> Vec<SignedFleetTrust> {
    let body = bytes.strip_prefix(MAGIC).and_then(|rest| {
        let (checksum, body) = rest.split_at_checked(blake3::OUT_LEN)?;
        (blake3::hash(body).as_bytes() == checksum).then_some(body)
    });
    let chain = body.and_then(|body| codec::decode(body).ok());
    chain.unwrap_or_default()
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

fn write_chain(path: &Path, chain: &[Link], own: &BTreeSet<[u8; 8]>) -> Result<(), KeepError> {
    let signed: Vec<&SignedFleetTrust> = chain.iter().map(|link| &link.signed).collect();
    let body = codec::encode(&signed);
    let bytes = [MAGIC, blake3::hash(&body).as_bytes(), &body].concat();
    replace(path, &bytes)?;
    // Last: a number without what it is of would be taken for a loss.
    KeptNumber::of(chain, own).write(path)
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
