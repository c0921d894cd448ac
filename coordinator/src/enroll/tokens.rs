//! The tokens that were handed out: a file each in the state directory, in which the secret is not.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use scap_agent::store::durable;
use scap_proto::{
    enroll::{Token, TokenHash, TokenId, TokenSecret},
    id::NodeId,
    identity::{AuthorityPin, Enrolment, PUBLIC_KEY_BYTES, lock_file},
    reason::Reason,
    release::{Environment, UnixMillis},
};
use serde::{Deserialize, Serialize};

use crate::state::Certified;

/// Most tokens that are kept: as many as a plan has hosts. What has been over for a quarter of a year goes with the next that is made.
pub const TOKENS_MAX: usize = 16_384;

/// How long it is kept what became of a token, after it was over: long enough to ask who was enrolled in the last quarter.
const KEPT_MILLIS: u64 = 90 * 24 * 3600 * 1000;

/// How long after its use the same key may ask again, in any case: the answer was lost, or we died before it was sent, and the
/// host tries once more.
const AGAIN_MILLIS: u64 = 3600 * 1000;

/// What is kept of one token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRecord {
    /// The hash of its secret.
    #[serde(with = "text")]
    pub hash: TokenHash,
    /// The host that it is for.
    pub host: NodeId,
    /// The environments that the host is to be in; the usual one where none is said.
    pub environments: Vec<Environment>,
    /// The authority that it pins.
    #[serde(with = "text")]
    pub authority: AuthorityPin,
    /// When it was made.
    pub made: UnixMillis,
    /// Until when it is good.
    pub expires: UnixMillis,
    /// When it was taken back.
    pub revoked: Option<UnixMillis>,
    /// By whom it was used.
    pub used: Option<Use>,
}

/// The use of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Use {
    /// When.
    pub at: UnixMillis,
    /// The public key that is certified, in hex.
    pub key: String,
    /// When the host said that it has its identity.
    pub confirmed: Option<UnixMillis>,
}

/// What a token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenState {
    /// A host may be enrolled with it.
    Pending,
    /// A host was.
    Used,
    /// Its time is over.
    Expired,
    /// It was taken back.
    Revoked,
}

impl TokenState {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Used => "used",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl TokenRecord {
    /// How people call it.
    pub fn id(&self) -> TokenId {
        self.hash.id()
    }

    /// What it is good for now.
    pub fn state(&self, now: UnixMillis) -> TokenState {
        if self.revoked.is_some() {
            TokenState::Revoked
        } else if self.used.is_some() {
            TokenState::Used
        } else if now > self.expires {
            TokenState::Expired
        } else {
            TokenState::Pending
        }
    }

    /// Whether its host is still to come: it was not there yet, or may not have got what it was given.
    pub fn is_awaited(&self, now: UnixMillis) -> bool {
        match (&self.used, self.state(now)) {
            (_, TokenState::Pending) => true,
            (Some(used), TokenState::Used) => {
                used.confirmed.is_none() && now <= self.again_until(used)
            }
            _ => false,
        }
    }

    fn again_until(&self, used: &Use) -> UnixMillis {
        let again = UnixMillis(used.at.0.saturating_add(AGAIN_MILLIS));
        self.expires.max(again)
    }

    /// Whether a host with this key may be given an identity for it.
    fn check(
        &self,
        key: &str,
        awaited: Option<&BTreeSet<NodeId>>,
        denied: DeniedHost,
        now: UnixMillis,
    ) -> Result<(), TokenRefusal> {
        if self.revoked.is_some() {
            return Err(TokenRefusal::Revoked);
        }
        if denied.until.is_some_and(|until| self.made <= until) {
            return Err(TokenRefusal::HostRevoked);
        }
        if awaited.is_some_and(|hosts| !hosts.contains(&self.host)) {
            return Err(TokenRefusal::OtherHost);
        }
        match &self.used {
            Some(used) => match used.key == key && now <= self.again_until(used) {
                true => {}
                false => return Err(TokenRefusal::Used),
            },
            None if now > self.expires => return Err(TokenRefusal::Expired),
            None => {}
        }
        match denied.has_key {
            true => Err(TokenRefusal::KeyRevoked),
            false => Ok(()),
        }
    }

    /// When it came to be of no use, where it is.
    fn over_since(&self) -> UnixMillis {
        let used = self.used.as_ref().map(|used| used.at);
        self.revoked.or(used).unwrap_or(self.expires)
    }
}

/// Why a token is not taken. The host is told none of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// Nobody handed it out.
    #[error("no such token was handed out")]
    Unknown,
    /// A host was enrolled with it, which has another key, or long ago.
    #[error("the token was used already")]
    Used,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// It was taken back.
    #[error("the token was revoked")]
    Revoked,
    /// Its host was, after it was made: whoever took the host has this token too.
    #[error("the host was revoked after the token was made")]
    HostRevoked,
    /// It is for another host than the one that was dialled, or than those that are waited for.
    #[error("the token is for another host")]
    OtherHost,
    /// The host has the key that it had when it was revoked. The token is not used up.
    #[error("the host's key is revoked; it is to make a new one")]
    KeyRevoked,
}

impl TokenRefusal {
    /// Its code.
    pub fn code(self) -> Reason {
        match self {
            Self::Unknown => Reason::TokenUnknown,
            Self::Used => Reason::TokenUsed,
            Self::Expired => Reason::TokenExpired,
            Self::Revoked | Self::HostRevoked => Reason::TokenRevoked,
            Self::OtherHost => Reason::TokenOtherHost,
            Self::KeyRevoked => Reason::Revoked,
        }
    }
}

/// What is believed against a host that shows a token.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeniedHost {
    /// Until when it was revoked, also if it was enrolled again since.
    pub until: Option<UnixMillis>,
    /// Whether the key that it has now is not certified any more.
    pub has_key: bool,
}

/// A token that is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Untaken {
    /// Why.
    pub refusal: TokenRefusal,
    /// The host that it is for, where there is such a token.
    pub host: Option<NodeId>,
}

/// What a token gave.
#[derive(Debug)]
pub struct Redeemed {
    /// The token, as it is now.
    pub record: TokenRecord,
    /// What to give to its host.
    pub enrolment: Enrolment,
    /// Whether the same was given before.
    pub is_again: bool,
    /// Whether its host was revoked until now.
    pub is_readmitted: bool,
}

/// Why the tokens cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// A file.
    #[error("{doing} {path}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file that says something else than it can.
    #[error("read the token in {path}")]
    Parse {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Box<toml::de::Error>,
    },
    /// Too many.
    #[error("{TOKENS_MAX} tokens are kept already: revoke some")]
    TooMany,
    /// None of this name.
    #[error("there is no pending token {0}")]
    None(String),
}

/// The tokens of one fleet: a folder of the state directory.
#[derive(Debug, Clone)]
pub struct Tokens {
    folder: PathBuf,
    failpoint: Option<String>,
}

impl Tokens {
    /// Those in `folder`, which is made with the first.
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            failpoint: None,
        }
    }

    /// For tests: the process dies at the place of this name: `token-checked`, `token-used`, `token-certified`.
    #[must_use]
    pub fn dying_at(self, failpoint: Option<String>) -> Self {
        Self { failpoint, ..self }
    }

    /// Keeps a token, durably. `life_millis` from `now` on it is good.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn add(
        &self,
        token: &Token,
        host: &NodeId,
        environments: &[Environment],
        now: UnixMillis,
        life_millis: u64,
    ) -> Result<TokenRecord, TokenError> {
        let _lock = self.lock()?;
        let all = self.read_all()?;
        let is_old = |it: &&TokenRecord| {
            it.state(now) != TokenState::Pending
                && it.over_since().0.saturating_add(KEPT_MILLIS) < now.0
        };
        let old: Vec<_> = all.iter().filter(is_old).collect();
        if all.len() - old.len() >= TOKENS_MAX {
            return Err(TokenError::TooMany);
        }
        for record in old {
            let path = self.path(record.id());
            fs::remove_file(&path).map_err(|source| io_error("remove", &path, source))?;
        }
        let record = TokenRecord {
            hash: token.secret().hash(),
            host: host.clone(),
            environments: environments.to_vec(),
            authority: token.pin(),
            made: now,
            expires: UnixMillis(now.0.saturating_add(life_millis)),
            revoked: None,
            used: None,
        };
        self.save(&record)?;
        Ok(record)
    }

    /// All of them, by host and time.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn list(&self) -> Result<Vec<TokenRecord>, TokenError> {
        let mut all = self.read_all()?;
        all.sort_by(|a, b| (&a.host, a.made).cmp(&(&b.host, b.made)));
        Ok(all)
    }

    /// Takes back the pending token of this id, or all of this host.
    ///
    /// # Errors
    /// [`TokenError::None`] where there is none; and the others.
    pub fn revoke(&self, which: &str, now: UnixMillis) -> Result<Vec<TokenRecord>, TokenError> {
        let _lock = self.lock()?;
        let mut revoked = Vec::new();
        for mut record in self.read_all()? {
            let is_it = record.id().to_string() == which || record.host.as_str() == which;
            if is_it && record.state(now) == TokenState::Pending {
                record.revoked = Some(now);
                self.save(&record)?;
                revoked.push(record);
            }
        }
        match revoked.is_empty() {
            true => Err(TokenError::None(which.to_owned())),
            false => Ok(revoked),
        }
    }

    /// Uses a token up for the host with this key. It is on disk that the token is used before `certify` is asked for the host's
    /// identity, so a crash leaves the token as it was, or used by that key. Who asks again with the same key is certified again, as the
    /// same host. `awaited` are the hosts that may come: the one that was dialled, or any where there is no list. `denied` says
    /// until when a host was revoked: no token made before that brings it back, and none a key that it had then.
    ///
    /// # Errors
    /// `E`, from `denied`, `certify` and for what fails here; in the result, why the token is not taken.
    pub fn redeem<E: From<TokenError>>(
        &self,
        secret: &TokenSecret,
        key: &[u8; PUBLIC_KEY_BYTES],
        awaited: Option<&BTreeSet<NodeId>>,
        now: UnixMillis,
        denied: impl FnOnce(&NodeId) -> Result<DeniedHost, E>,
        certify: impl FnOnce(&TokenRecord) -> Result<Certified, E>,
    ) -> Result<Result<Redeemed, Untaken>, E> {
        let hash = secret.hash();
        let unknown = Untaken {
            refusal: TokenRefusal::Unknown,
            host: None,
        };
        // Guesses make no folder.
        if !self.folder.exists() {
            return Ok(Err(unknown));
        }
        let _lock = self.lock()?;
        let found = self.read_one(hash.id())?;
        let Some(mut record) = found.filter(|record| record.hash.is(&hash)) else {
            return Ok(Err(unknown));
        };
        let key = hex::encode(key);
        let denied = denied(&record.host)?;
        if let Err(refusal) = record.check(&key, awaited, denied, now) {
            let host = Some(record.host);
            return Ok(Err(Untaken { refusal, host }));
        }
        self.die_at("token-checked");
        let is_again = record.used.is_some();
        if !is_again {
            record.used = Some(Use {
                at: now,
                key,
                confirmed: None,
            });
            self.save(&record)?;
        }
        self.die_at("token-used");
        let certified = certify(&record)?;
        self.die_at("token-certified");
        Ok(Ok(Redeemed {
            record,
            enrolment: certified.enrolment,
            is_again,
            is_readmitted: certified.is_readmitted,
        }))
    }

    /// The host of a token that was used has said that it has its identity.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn confirm(&self, id: TokenId, now: UnixMillis) -> Result<(), TokenError> {
        let _lock = self.lock()?;
        let Some(mut record) = self.read_one(id)? else {
            return Ok(());
        };
        if let Some(used) = &mut record.used {
            used.confirmed = Some(now);
            self.save(&record)?;
        }
        Ok(())
    }

    fn die_at(&self, place: &str) {
        if self.failpoint.as_deref() == Some(place) {
            std::process::abort();
        }
    }

    fn path(&self, id: TokenId) -> PathBuf {
        self.folder.join(format!("{id}{EXTENSION}"))
    }

    /// Waits until nobody else changes tokens: another process of the same state directory, for as long as a sync takes.
    /// The kernel gives the lock back when we die.
    fn lock(&self) -> Result<File, TokenError> {
        let path = self.folder.join(LOCK);
        let locked = || {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&self.folder)?;
            lock_file(&path)
        };
        locked().map_err(|source| io_error("lock", &path, source))
    }

    fn save(&self, record: &TokenRecord) -> Result<(), TokenError> {
        let path = self.path(record.id());
        let text = toml::to_string(record).expect("a record of names and numbers is TOML");
        durable::replace_file(&path, text.as_bytes())
            .map_err(|source| io_error("write", &path, source))
    }

    fn read_one(&self, id: TokenId) -> Result<Option<TokenRecord>, TokenError> {
        let path = self.path(id);
        match fs::read_to_string(&path) {
            Ok(text) => parse(&path, &text).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(io_error("read", &path, source)),
        }
    }

    fn read_all(&self) -> Result<Vec<TokenRecord>, TokenError> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(io_error("list", &self.folder, source)),
        };
        let mut all = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|source| io_error("list", &self.folder, source))?;
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(EXTENSION));
            if let Some(id) = id.and_then(|id| id.parse().ok()) {
                all.extend(self.read_one(id)?);
            }
        }
        Ok(all)
    }
}

const EXTENSION: &str = ".toml";
const LOCK: &str = "lock";

fn parse(path: &Path, text: &str) -> Result<TokenRecord, TokenError> {
    toml::from_str(text).map_err(|error| TokenError::Parse {
        path: path.to_owned(),
        source: error.into(),
    })
}

fn io_error(doing: &'static str, path: &Path, source: io::Error) -> TokenError {
    TokenError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}

/// What has a text, as that text.
mod text {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<T: Display, S: Serializer>(it: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(it)
    }

    pub(super) fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
