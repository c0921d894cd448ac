//! Unix sockets for this host's own users: who connects is known from the kernel, before a byte is read.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use scap_proto::reason::{Because, Reason};
use tokio::net::{UnixListener, UnixStream};

use crate::socket;

/// Most users whose refusal is told in the log, each once: a host has few, and none fills the log.
const REFUSED_TOLD_MAX: usize = 64;

/// Who may ask at a socket: root, the user of this process, and whoever is named. All others are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Users(BTreeSet<u32>);

impl Users {
    /// Root and the user of this process.
    pub fn own() -> Self {
        Self([0, rustix::process::geteuid().as_raw()].into())
    }

    /// And this one.
    #[must_use]
    pub fn and(mut self, uid: u32) -> Self {
        self.0.insert(uid);
        self
    }

    /// Why a user may not ask; none where it may.
    pub fn refusal(&self, uid: u32) -> Option<Because> {
        let is_allowed = self.0.contains(&uid);
        (!is_allowed).then(|| Reason::LocalUser.because(format!("user {uid} may not ask here")))
    }
}

/// A Unix socket at which only some users are heard. Dropping it leaves the file, which the next one takes the place of.
#[derive(Debug)]
pub struct LocalListener {
    listener: UnixListener,
    path: PathBuf,
    users: Users,
    told: Mutex<BTreeSet<u32>>,
}

impl LocalListener {
    /// Binds a socket of mode 0600, in place of one that a dead process left.
    ///
    /// # Errors
    /// As `unlink`, `bind` and `chmod`: most often its path is longer than a Unix socket's may be, 107 bytes.
    pub fn bind(path: &Path, users: Users) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        // Until then whoever connects is still asked who it is.
        socket::make_private(path)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            users,
            told: Mutex::default(),
        })
    }

    /// The same for a process of another user: the socket, of mode 0660, is that of `group` too, of which this process must be.
    ///
    /// # Errors
    /// As [`Self::bind`]; and where this process is not of that group.
    pub fn bind_for_group(path: &Path, users: Users, group: u32) -> io::Result<Self> {
        let listener = Self::bind(path, users)?;
        socket::give_to_group(path, group)?;
        Ok(listener)
    }

    /// The next connection of a user who may ask. Another is sent what `refusal` makes of the reason, and closed, with nothing read
    /// of it. Cancel-safe.
    ///
    /// # Errors
    /// As `accept`.
    pub async fn accept(&self, refusal: impl Fn(&Because) -> Vec<u8>) -> io::Result<UnixStream> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            // Who is gone by now has no credentials, and needs no answer.
            let Ok(peer) = stream.peer_cred() else {
                continue;
            };
            let Some(why) = self.users.refusal(peer.uid()) else {
                return Ok(stream);
            };
            self.tell(peer.uid(), &why);
            // It fits what the kernel keeps for a new connection; who does not take it is owed nothing.
            let _ = stream.try_write(&refusal(&why));
        }
    }

    fn tell(&self, uid: u32, why: &Because) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < REFUSED_TOLD_MAX && told.insert(uid) {
            let path = self.path.display();
            tracing::warn!(uid, %path, code = %why.code, "a local request of a user who may not ask; it is told once");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tokio::io::AsyncReadExt;

    use super::*;

    #[test]
    fn all_users_are_refused_but_root_ourselves_and_who_is_named() {
        let own = rustix::process::geteuid().as_raw();
        let users = Users::own().and(4_000_000);
        for uid in [0, own, 4_000_000] {
            assert_eq!(users.refusal(uid), None);
        }
        let refusal = users.refusal(4_000_001).unwrap();
        assert_eq!(refusal.code, Reason::LocalUser);
        assert!(refusal.text.contains("4000001"), "{refusal}");
    }

    #[tokio::test]
    async fn who_may_not_ask_hears_why_and_the_next_one_is_heard() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        // Nobody: neither we nor root, one of which runs this.
        let none = LocalListener::bind(&path, Users(BTreeSet::new())).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let refuse = |why: &Because| why.code.as_str().as_bytes().to_vec();
        let ask = async {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            let mut heard = String::new();
            stream.read_to_string(&mut heard).await.unwrap();
            heard
        };
        let heard = tokio::select! {
            heard = ask => heard,
            accepted = none.accept(refuse) => panic!("let in: {accepted:?}"),
        };
        assert_eq!(heard, "local-user");
        let ours = LocalListener::bind(&path, Users::own()).unwrap();
        let (accepted, connected) = tokio::join!(ours.accept(refuse), UnixStream::connect(&path));
        assert!(accepted.is_ok() && connected.is_ok());
    }
}
