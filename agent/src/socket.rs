//! Unix sockets that only their owner may connect to, or a group too.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use rustix::fs::{CWD, FileType, Gid, Mode, OFlags};

/// Takes a socket that was just bound away from everybody but its owner.
///
/// Whoever else may write to its directory could have put something in its place by now, which a change by name would reach
/// through a link: so it is looked at first, and changed through the descriptor by which it was looked at.
///
/// # Errors
/// Where something else is there.
pub(crate) fn make_private(path: &Path) -> io::Result<()> {
    let (_socket, through) = open_ours(path)?;
    Ok(rustix::fs::chmod(through, Mode::RUSR | Mode::WUSR)?)
}

/// The same, but for a group to which it is given, and of which we must be.
///
/// # Errors
/// Where something else is there, and as `chown`.
pub(crate) fn give_to_group(path: &Path, group: u32) -> io::Result<()> {
    let (_socket, through) = open_ours(path)?;
    rustix::fs::chown(&through, None, Some(Gid::from_raw(group)))?;
    let owner = Mode::RUSR | Mode::WUSR;
    Ok(rustix::fs::chmod(through, owner | Mode::RGRP | Mode::WGRP)?)
}

/// The socket at a path, if it is ours, and a name by which it is this very one.
fn open_ours(path: &Path) -> io::Result<(OwnedFd, String)> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let socket: OwnedFd = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&socket)?;
    let is_socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
    if !is_socket || stat.st_uid != rustix::process::geteuid().as_raw() {
        let text = "something else was put in the place of the socket";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    // A descriptor of this kind has no other way: `fchmod` refuses it.
    let through = format!("/proc/self/fd/{}", socket.as_raw_fd());
    Ok((socket, through))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::{
        fs,
        os::unix::{
            fs::{MetadataExt, PermissionsExt, symlink},
            net::UnixListener,
        },
    };

    use super::*;

    #[test]
    fn c13_a_socket_is_its_owners_alone_and_what_stands_in_its_place_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        make_private(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);

        let theirs = folder.path().join("theirs");
        fs::write(&theirs, "").unwrap();
        fs::set_permissions(&theirs, fs::Permissions::from_mode(0o644)).unwrap();
        fs::remove_file(&path).unwrap();
        symlink(&theirs, &path).unwrap();
        let error = make_private(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(fs::metadata(&theirs).unwrap().mode() & 0o7777, 0o644);
    }
}
