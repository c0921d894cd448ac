//! The fleet trust as its authority's holder changes it: who is cut off, and which authorities count.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use scap_agent::store::durable;
use scap_proto::{
    extensions::Extensions,
    id::NodeId,
    identity::{
        CertificateAuthority, Denial, Denied, Enrolment, FleetTrust, Identity, KeepError, Kept,
        PUBLIC_KEY_BYTES, Role, SignedFleetTrust, Trust, Validity, VouchedSigners, install::Staged,
        lock_file,
    },
    limits::AUTHORITIES_MAX,
    reason::Reason,
    release::UnixMillis,
};

use super::{
    StateDirectory, StateError,
    directory::{AUTHORITY, COORDINATOR},
};

const TRUST: &str = "trust";
/// Held while a fleet trust is made and signed.
const TRUST_LOCK: &str = "trust.signing";
const NEXT_AUTHORITY: &str = "ca-next";
const OLD_AUTHORITY: &str = "ca-old";
const RETIRED_AUTHORITIES: &str = "ca-retired";
const NEXT_COORDINATOR: &str = "coordinator-next";
const OLD_COORDINATOR: &str = "coordinator-old";
/// Name of the trusted authorities in a node's directory.
const AUTHORITIES_FILE: &str = "ca.crt";
/// Mode of a file that all may read.
const PUBLIC: u32 = 0o644;

/// Why the fleet trust cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// It cannot be kept or read.
    #[error("keep whose certificates count")]
    Keep(#[from] KeepError),
    /// What was kept here is gone, and the next one would not have what that said.
    #[error("the fleet trust #{number} that was kept here is lost")]
    Lost {
        /// Its number.
        number: u64,
    },
    /// Two were signed at once, with other authorities each.
    #[error("another fleet trust #{number} was signed elsewhere, with other authorities")]
    Conflict {
        /// The number of both.
        number: u64,
    },
    /// A host that is revoked does not get another certificate but by being enrolled again.
    #[error("{0} is revoked, and its certificate is not renewed")]
    Revoked(NodeId),
    /// A host that is revoked is not brought back by the way, where many are enrolled.
    #[error("{0} is revoked")]
    NotReadmitted(NodeId),
    /// Whoever took the host has this key too.
    #[error("the key of {0} is revoked, and is not certified again")]
    KeyRevoked(NodeId),
    /// Another one was believed while ours was signed.
    #[error("another fleet trust than ours was signed at the same time, #{number}")]
    Overtaken {
        /// The number of ours.
        number: u64,
    },
    /// A step of a rotation whose step before was not done.
    #[error("{0}")]
    Step(&'static str),
}

impl TrustError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Lost { .. } => Some(
                "`scap-coordinator ca status --fleet FILE` learns it again from any host".into(),
            ),
            Self::Step(_) => Some("`scap-coordinator ca status` says where the rotation is".into()),
            Self::Revoked(_) => Some("enrol it again if it is to be back".into()),
            Self::NotReadmitted(_) => Some(
                "if it is mended and has a new key, --readmit enrols it again; `unrevoke`, if it was a mistake".into(),
            ),
            Self::KeyRevoked(_) => Some(
                "move its identity directory away there, so that it makes a new key; or `unrevoke`, if it was a mistake".into(),
            ),
            Self::Overtaken { .. } => Some("the same again".into()),
            Self::Keep(_) | Self::Conflict { .. } => None,
        }
    }

    /// Its code, where there is one.
    pub fn code(&self) -> Option<Reason> {
        match self {
            Self::Lost { .. } => Some(Reason::TrustLost),
            Self::Revoked(_) | Self::NotReadmitted(_) | Self::KeyRevoked(_) => {
                Some(Reason::Revoked)
            }
            _ => None,
        }
    }
}

/// Where a move to a new authority is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// None is under way.
    None,
    /// A new authority is made, and hosts are told to believe it too.
    Begun,
    /// It issues what is issued, and the old one is believed still.
    Switched,
}

impl Rotation {
    /// In a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Begun => "begun",
            Self::Switched => "switched",
        }
    }
}

impl StateDirectory {
    /// Believes what is kept here, and keeps what is learnt from now on.
    pub(super) fn keep_trust(&self, trust: &Trust) -> Result<(), StateError> {
        let kept = trust.keep_in(&self.path(TRUST)).map_err(TrustError::from)?;
        if let Kept::Lost { number } = kept {
            tracing::warn!(
                number,
                "the fleet trust that was kept here is lost; hosts hand it over again"
            );
        }
        let carried = trust.carried();
        if carried > 0 {
            tracing::warn!(
                carried,
                "another copy of this state signed a fleet trust that leaves out who is revoked: they stay so, and the next one says it"
            );
        }
        Ok(())
    }

    /// Who is cut off and was not enrolled again since, with why; by name.
    ///
    /// # Errors
    /// [`StateError::Identity`], [`StateError::Trust`].
    pub fn revoked(&self) -> Result<BTreeMap<NodeId, Denial>, StateError> {
        Ok(revoked(self.identity()?.trust()))
    }

    /// Signs what `change` makes of the fleet trust, with the next number, and believes it. Where somebody signed another one
    /// at the same time, who is cut off by either is. It waits for another process of this state directory that does the same.
    ///
    /// # Errors
    /// [`StateError::Authority`], [`StateError::Trust`], [`StateError::Io`]; [`TrustError::Overtaken`] where another one came to be
    /// believed meanwhile.
    pub fn sign_trust(
        &self,
        trust: &Trust,
        now: UnixMillis,
        change: impl Fn(&mut FleetTrust),
    ) -> Result<FleetTrust, StateError> {
        let lock = self.lock_trust()?;
        self.sign_trust_locked(&lock, trust, now, change)
    }

    fn sign_trust_locked(
        &self,
        _lock: &File,
        trust: &Trust,
        now: UnixMillis,
        change: impl Fn(&mut FleetTrust),
    ) -> Result<FleetTrust, StateError> {
        // What another process signed is changed, and not signed away.
        trust
            .learn_from(&self.path(TRUST))
            .map_err(TrustError::from)?;
        refuse_lost(trust)?;
        let authority = self.authority()?;
        let mut next = trust.fleet_trust().unwrap_or_else(|| FleetTrust {
            fleet: trust.fleet().clone(),
            number: 0,
            issued: now,
            authorities: trust.authorities(),
            retired: Vec::new(),
            denials: Vec::new(),
            extensions: Extensions::default(),
        });
        if let Some(other) = trust.conflict() {
            if other.authorities != next.authorities {
                let number = other.number;
                return Err(TrustError::Conflict { number }.into());
            }
            let is_new = |denial: &Denial| !next.denials.iter().any(|it| it.who == denial.who);
            let more: Vec<Denial> = other.denials.into_iter().filter(is_new).collect();
            next.denials.extend(more);
        }
        let before = next.denials.clone();
        change(&mut next);
        let next_denials = next.denials.clone();
        let is_lifted = |it: &&Denial| !next_denials.iter().any(|next| next.who.covers(&it.who));
        // Whoever is left out is denied on by hosts that know of it, unless that is meant.
        let mut next = next.lifting(before.iter().filter(is_lifted).map(|it| &it.who));
        next = self.vouching(next);
        next.number += 1;
        next.issued = now;
        next.check()
            .map_err(|e| TrustError::from(KeepError::from(e)))?;
        let signed = SignedFleetTrust::sign(&next, &authority);
        trust.offer(signed.clone()).map_err(TrustError::from)?;
        let number = next.number;
        match trust.mark() == signed.mark(number) {
            true => Ok(next),
            false => Err(TrustError::Overtaken { number }.into()),
        }
    }

    /// The same with what of before still counts: the signers file in force, and the grants by which what is stable was made so. Where
    /// that cannot be read it says what it said: somebody is to be cut off all the same.
    fn vouching(&self, mut next: FleetTrust) -> FleetTrust {
        let warn = |error: &(dyn std::error::Error + 'static)| {
            let error = scap_agent::error_chain(error);
            tracing::warn!(error, "what of before still counts is not known here");
        };
        match self.signers_chain() {
            Ok(chain) if chain.in_force.number() > 0 => {
                next = next.with_signers(VouchedSigners {
                    number: chain.in_force.number(),
                    hash: chain.in_force.hash(),
                });
            }
            Ok(_) => {}
            Err(error) => warn(&error),
        }
        match self.stable_grants() {
            Ok(grants) => next.with_grants(grants.into_iter()),
            Err(error) => {
                warn(&error);
                next
            }
        }
    }

    /// Waits until nobody else changes the fleet trust or certifies, for as long as a few syncs take. The kernel gives the lock back
    /// when we die.
    pub(super) fn lock_trust(&self) -> Result<File, StateError> {
        let path = self.path(TRUST_LOCK);
        lock_file(&path).map_err(io("lock", path.clone()))
    }

    /// The authority that issues now.
    ///
    /// # Errors
    /// [`StateError::Authority`], [`StateError::Io`].
    pub fn authority(&self) -> Result<CertificateAuthority, StateError> {
        let (now, next) = (self.path(AUTHORITY), self.path(NEXT_AUTHORITY));
        // A switch was cut short between its two renames.
        if !now.exists() && next.exists() && self.path(OLD_AUTHORITY).exists() {
            rename(&next, &now)?;
        }
        Ok(CertificateAuthority::load(&now)?)
    }

    /// Since when a certificate of a node is to be issued, so that it counts though one before is revoked: `now`, or the
    /// second after that.
    ///
    /// # Errors
    /// [`StateError::Identity`], [`StateError::Trust`].
    pub fn issued_from(
        &self,
        role: Role,
        name: &NodeId,
        now: UnixMillis,
    ) -> Result<UnixMillis, StateError> {
        let until = self.denied_until(role, name)?;
        // Certificates say whole seconds.
        let least = until.map_or(0, |until| (until.0 / 1000 + 1) * 1000);
        Ok(UnixMillis(now.0.max(least)))
    }

    /// Until when nothing that a node was given counts, where it was revoked, also if it was enrolled again since.
    ///
    /// # Errors
    /// [`StateError::Identity`]; [`StateError::Trust`], also where it is lost who is revoked.
    pub fn denied_until(
        &self,
        role: Role,
        name: &NodeId,
    ) -> Result<Option<UnixMillis>, StateError> {
        let denials = self.denials()?;
        let until = denials.iter().filter_map(|denial| match &denial.who {
            Denied::Node {
                role: of,
                name: denied,
                issued_until,
            } if *of == role && denied == name => Some(*issued_until),
            _ => None,
        });
        Ok(until.max())
    }

    /// Whether a key is denied, whosever it is.
    ///
    /// # Errors
    /// As [`Self::denied_until`].
    pub(super) fn is_key_denied(&self, key: &[u8; PUBLIC_KEY_BYTES]) -> Result<bool, StateError> {
        let denials = self.denials()?;
        Ok(denials
            .iter()
            .any(|denial| matches!(&denial.who, Denied::Key(denied) if denied == key)))
    }

    fn denials(&self) -> Result<Vec<Denial>, StateError> {
        let identity = self.identity()?;
        refuse_lost(identity.trust())?;
        let trust = identity.trust().fleet_trust();
        Ok(trust.map(|it| it.denials).unwrap_or_default())
    }

    /// Notes that a host which is revoked was enrolled again: its new certificate counts, those before still do not, and it
    /// takes part in deployments. Every way of enrolling a host calls it, with the time that its certificate says: a revocation
    /// that came after that stays. Says whether it was revoked.
    ///
    /// # Errors
    /// As [`Self::sign_trust`].
    pub fn note_enrolled(&self, name: &NodeId, issued: UnixMillis) -> Result<bool, StateError> {
        let lock = self.lock_trust()?;
        self.note_enrolled_locked(&lock, name, issued)
    }

    pub(super) fn note_enrolled_locked(
        &self,
        lock: &File,
        name: &NodeId,
        issued: UnixMillis,
    ) -> Result<bool, StateError> {
        let identity = self.identity()?;
        let trust = identity.trust();
        let is_lifted = |denial: &Denial| {
            let until = match &denial.who {
                Denied::Node { issued_until, .. } if is_of_host(denial, name) => issued_until,
                _ => return false,
            };
            // Certificates say whole seconds.
            until.0 / 1000 < issued.0 / 1000
        };
        if !revoked(trust).get(name).is_some_and(is_lifted) {
            return Ok(false);
        }
        self.sign_trust_locked(lock, trust, issued, |next| {
            for denial in &mut next.denials {
                denial.is_enrolled_again |= is_lifted(denial);
            }
        })?;
        Ok(true)
    }

    /// Writes into a new identity's directory what makes it believe what the fleet believes now, from its start on.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn give_trust(&self, out: &Path) -> Result<(), StateError> {
        match self.kept_trust()? {
            Some(kept) => write_public(&out.join(scap_agent::daemon::ENROLLED_FILE), &kept),
            None => Ok(()),
        }
    }

    /// What is believed, as it is kept; none where that was never changed.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn kept_trust(&self) -> Result<Option<Vec<u8>>, StateError> {
        match fs::read(self.path(TRUST)) {
            Ok(kept) => Ok(Some(kept)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(io("read", self.path(TRUST))(source)),
        }
    }

    /// The certificates of the authorities that are believed, the one that issues first.
    pub(super) fn authorities_pem(&self, trust: &Trust) -> Result<String, StateError> {
        let believed = trust.authorities();
        let mut bundle = String::new();
        for name in [AUTHORITY, NEXT_AUTHORITY, OLD_AUTHORITY] {
            let path = self.path(name);
            if !path.exists() {
                continue;
            }
            let authority = CertificateAuthority::load(&path)?;
            let certificate = authority.certificate();
            if believed.iter().any(|der| **der == *certificate.der) {
                bundle.push_str(&certificate.pem);
            }
        }
        Ok(bundle)
    }

    /// Where a move to a new authority is.
    pub fn rotation(&self) -> Rotation {
        let is_there = |name| self.path(name).exists();
        match (is_there(NEXT_AUTHORITY), is_there(OLD_AUTHORITY)) {
            (_, true) => Rotation::Switched,
            (true, false) => Rotation::Begun,
            (false, false) => Rotation::None,
        }
    }

    /// Makes the next authority beside the one of now, where there is none yet, and signs that both are believed.
    ///
    /// # Errors
    /// [`StateError::Authority`], [`StateError::Trust`].
    pub fn begin_rotation(&self, trust: &Trust, now: UnixMillis) -> Result<(), StateError> {
        if self.rotation() == Rotation::Switched {
            return Err(TrustError::Step("a rotation is under way, and has switched").into());
        }
        let path = self.path(NEXT_AUTHORITY);
        if !path.exists() {
            CertificateAuthority::create(trust.fleet(), now.0)?.save(&path)?;
        }
        let next = CertificateAuthority::load(&path)?;
        let next = Bytes::copy_from_slice(&next.certificate().der);
        if !trust.authorities().contains(&next) {
            self.sign_trust(trust, now, |trust| trust.authorities.push(next.clone()))?;
        }
        Ok(())
    }

    /// From now on the next authority issues, first this coordinator's own certificate. It is the same when it is done again, and
    /// a crash leaves the coordinator's identity of before, or the new one.
    ///
    /// # Errors
    /// [`StateError::Authority`], [`StateError::Io`], [`StateError::Trust`], [`StateError::Install`].
    pub fn switch_authority(&self, identity: &Identity, now: UnixMillis) -> Result<(), StateError> {
        match self.rotation() {
            Rotation::None => {
                return Err(TrustError::Step("there is no new authority to switch to").into());
            }
            Rotation::Begun => {
                let next = CertificateAuthority::load(&self.path(NEXT_AUTHORITY))?;
                let next = &next.certificate().der;
                let believed = identity.trust().authorities();
                if !believed.iter().any(|it| it[..] == next[..]) {
                    return Err(TrustError::Step(
                        "the new authority is not believed yet: --begin again",
                    )
                    .into());
                }
                rename(&self.path(AUTHORITY), &self.path(OLD_AUTHORITY))?;
                rename(&self.path(NEXT_AUTHORITY), &self.path(AUTHORITY))?;
            }
            Rotation::Switched => {}
        }
        let authority = self.authority()?;
        let own = identity.own();
        let issued = self.issued_from(own.role, &own.name, now)?;
        let certificate = authority.issue(own, identity.public_key(), Validity::leaf(issued.0))?;
        let enrolment = Enrolment {
            certificate: certificate.pem,
            authorities: self.authorities_pem(identity.trust())?,
            allowed_signers: None,
            host: None,
            membership: None,
            extensions: Extensions::default(),
        };
        Staged::new(&self.path(COORDINATOR), &enrolment, None)?.commit()?;
        Ok(())
    }

    /// Gives this coordinator a new key and a certificate that counts though those before do not. A crash leaves the old or
    /// the new identity.
    ///
    /// # Errors
    /// [`StateError::Authority`], [`StateError::Io`], [`StateError::Identity`].
    pub fn renew_coordinator(&self, now: UnixMillis) -> Result<(), StateError> {
        let before = self.identity()?;
        let own = before.own();
        let issued = self.issued_from(own.role, &own.name, now)?;
        let (path, next) = (self.path(COORDINATOR), self.path(NEXT_COORDINATOR));
        if next.exists() {
            fs::remove_dir_all(&next).map_err(io("remove", next.clone()))?;
        }
        Identity::create(&next, &self.authority()?, own, Validity::leaf(issued.0))?;
        let bundle = self.authorities_pem(before.trust())?;
        write_public(&next.join(AUTHORITIES_FILE), bundle.as_bytes())?;
        let old = self.path(OLD_COORDINATOR);
        if old.exists() {
            fs::remove_dir_all(&old).map_err(io("remove", old.clone()))?;
        }
        rename(&path, &old)?;
        rename(&next, &path)?;
        fs::remove_dir_all(&old).map_err(io("remove", old))
    }

    /// Goes on with [`Self::renew_coordinator`] where that was cut short.
    pub(super) fn recover_coordinator(&self) -> Result<(), StateError> {
        let (path, next) = (self.path(COORDINATOR), self.path(NEXT_COORDINATOR));
        match next.exists() && !path.exists() {
            true => rename(&next, &path),
            false => Ok(()),
        }
    }

    /// Signs that the authority of now alone is believed, and puts the old one's directory away.
    ///
    /// # Errors
    /// [`StateError::Authority`], [`StateError::Io`], [`StateError::Trust`].
    pub fn finish_rotation(&self, trust: &Trust, now: UnixMillis) -> Result<PathBuf, StateError> {
        if self.rotation() != Rotation::Switched {
            return Err(TrustError::Step("no rotation has switched to a new authority").into());
        }
        let authority = self.authority()?;
        let only = Bytes::copy_from_slice(&authority.certificate().der);
        let next = self.sign_trust(trust, now, |next| {
            let old = std::mem::replace(&mut next.authorities, vec![only.clone()]);
            let old = old.into_iter().filter(|der| *der != only);
            let mut retired: Vec<Bytes> = next.retired.drain(..).chain(old).collect();
            let too_many = retired.len().saturating_sub(AUTHORITIES_MAX);
            next.retired = retired.split_off(too_many);
        })?;
        let retired = self.path(RETIRED_AUTHORITIES);
        fs::create_dir_all(&retired).map_err(io("make", retired.clone()))?;
        let retired = retired.join(next.number.to_string());
        rename(&self.path(OLD_AUTHORITY), &retired)?;
        Ok(retired)
    }
}

/// Without what is lost nobody knows who is revoked.
fn refuse_lost(trust: &Trust) -> Result<(), TrustError> {
    match trust.lost() {
        Some(number) => Err(TrustError::Lost { number }),
        None => Ok(()),
    }
}

/// Who is cut off by what is believed and was not enrolled again since.
pub fn revoked(trust: &Trust) -> BTreeMap<NodeId, Denial> {
    let denials = trust.fleet_trust().map(|it| it.denials);
    let denials = denials.unwrap_or_default().into_iter();
    let hosts = denials.filter(|denial| !denial.is_enrolled_again);
    let hosts = hosts.filter_map(|denial| match &denial.who {
        Denied::Node {
            role: Role::Agent,
            name,
            ..
        } => Some((name.clone(), denial)),
        _ => None,
    });
    hosts.collect()
}

/// Whether it is about the host of a name.
pub fn is_of_host(denial: &Denial, host: &NodeId) -> bool {
    matches!(&denial.who, Denied::Node { role: Role::Agent, name, .. } if name == host)
}

fn io(doing: &'static str, path: PathBuf) -> impl FnOnce(std::io::Error) -> StateError {
    move |source| StateError::Io {
        doing,
        path,
        source,
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), StateError> {
    fs::rename(from, to)
        .and_then(|()| durable::sync_directory(to.parent().unwrap_or(to)))
        .map_err(io("move", from.to_owned()))
}

fn write_public(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    use std::io::Write;

    durable::replace_file_with(path, PUBLIC, |file| file.write_all(bytes))
        .map_err(io("write", path.to_owned()))
}
