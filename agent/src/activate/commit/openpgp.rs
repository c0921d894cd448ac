//! OpenPGP signatures, by the system's `gpgv`: no shell, no home directory, no more than it may say.

use std::{
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use rustix::{
    fd::AsRawFd,
    fs::{MemfdFlags, memfd_create},
};

/// How long it may take: a signature is checked in milliseconds.
const TIME_MAX: Duration = Duration::from_secs(20);
/// Most that is read of what it says, in bytes: some lines of status.
const SAID_BYTES_MAX: u64 = 16 * 1024;

/// Why an OpenPGP signature does not count.
#[derive(Debug, thiserror::Error)]
pub(in crate::activate) enum OpenPgpError {
    #[error("{doing}")]
    Io {
        doing: &'static str,
        source: io::Error,
    },
    #[error("`gpgv` took longer than {} s", TIME_MAX.as_secs())]
    TooLong,
    #[error("not signed by a key in {}, or that key or signature is over: {said}", keyring.display())]
    Refused { keyring: PathBuf, said: String },
}

fn io(doing: &'static str) -> impl Fn(io::Error) -> OpenPgpError {
    move |source| OpenPgpError::Io { doing, source }
}

/// Ends and is waited for, whatever happens.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Checks that a key of `keyring` made the armoured `signature` of `payload`, and that neither is over.
///
/// # Errors
/// [`OpenPgpError`].
pub(super) fn verify(keyring: &Path, signature: &str, payload: &[u8]) -> Result<(), OpenPgpError> {
    // Read by its number in the child, so it is not closed there; it holds nothing that others may not see.
    let file = memfd_create("signature", MemfdFlags::empty())
        .map_err(|error| io("hold the signature")(error.into()))?;
    let mut file = std::fs::File::from(file);
    file.write_all(signature.as_bytes())
        .map_err(io("hold the signature"))?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let keyring = std::path::absolute(keyring).map_err(io("find the keyring"))?;
    let child = Command::new("gpgv")
        .env_clear()
        .envs([("PATH", "/usr/bin:/bin"), ("LC_ALL", "C")])
        .args(["--status-fd", "1", "--homedir", "/nonexistent", "--keyring"])
        .arg(&keyring)
        .args(["--", &path, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(io("start `gpgv` (Debian package gpgv)"))?;
    let mut child = Ended(child);
    let mut stdin = child.0.stdin.take().expect("it is a pipe");
    let stdout = child.0.stdout.take().expect("it is a pipe");
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut said = Vec::new();
        let read = stdout.take(SAID_BYTES_MAX).read_to_end(&mut said);
        // Who waited may be gone.
        let _ = tell.send(read.map(|_| said));
    });
    // A commit's object fits a pipe, or it has read enough to refuse it.
    let _ = stdin.write_all(payload);
    drop(stdin);
    let said = told
        .recv_timeout(TIME_MAX)
        .map_err(|_| OpenPgpError::TooLong)?
        .map_err(io("read what `gpgv` says"))?;
    // It has closed its output, or said too much and is ended.
    let is_through = (said.len() as u64) < SAID_BYTES_MAX;
    let status = match is_through {
        true => Some(child.0.wait().map_err(io("wait for `gpgv`"))?),
        false => None,
    };
    let said = String::from_utf8_lossy(&said).into_owned();
    let is_good = status.is_some_and(|status| status.success()) && is_good(&said);
    match is_good {
        true => Ok(()),
        false => {
            let words = said.lines().filter_map(|line| line.strip_prefix(STATUS));
            let words = words.filter_map(|line| line.split(' ').next());
            let said = words
                .collect::<Vec<_>>()
                .join(" ")
                .escape_debug()
                .to_string();
            Err(OpenPgpError::Refused { keyring, said })
        }
    }
}

const STATUS: &str = "[GNUPG:] ";

/// Whether these lines of status are of one good signature and nothing that speaks against it.
fn is_good(said: &str) -> bool {
    let has = |word: &str| {
        let lines = said.lines().filter_map(|line| line.strip_prefix(STATUS));
        lines
            .filter(|line| line.split(' ').next() == Some(word))
            .count()
    };
    let against = [
        "BADSIG",
        "ERRSIG",
        "EXPSIG",
        "EXPKEYSIG",
        "REVKEYSIG",
        "KEYEXPIRED",
        "KEYREVOKED",
    ];
    has("GOODSIG") == 1 && has("VALIDSIG") == 1 && against.iter().all(|word| has(word) == 0)
}
