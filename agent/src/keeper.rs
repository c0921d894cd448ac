//! The process that starts the activator, and starts it again when it dies.
//!
//! The daemon cannot do it itself: what a confined process starts is as confined as it is. So it starts this one before it is
//! confined, which reads nothing but single bytes from the daemon, and nothing from the network.

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    process::{ChildStdin, Stdio},
    time::Duration,
};

use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

/// Pause before a dead activator is started again, so that one that dies at once does not spin.
const RESTART_PAUSE: Duration = Duration::from_millis(200);

/// What the daemon tells its keeper: to start the activator, to have it finish what it does and end, and to kill it. When the
/// daemon ends without a word, that means the second.
const START: u8 = b's';
const END: u8 = b'e';
const KILL: u8 = b'k';

/// A keeper, as the daemon has it. It ends when this is dropped, once its activator has finished what it does.
#[derive(Debug)]
pub struct Keeper {
    child: Option<std::process::Child>,
    /// Until this is dropped.
    words: Option<ChildStdin>,
    ended: CancellationToken,
}

impl Keeper {
    /// Starts the process that `command` names, which is to call [`run`]. Before this process is confined.
    ///
    /// # Errors
    /// As `fork` and `exec`.
    pub fn start(command: &[OsString]) -> io::Result<Self> {
        let mut child = std::process::Command::new(&command[0])
            .args(&command[1..])
            .stdin(Stdio::piped())
            .spawn()?;
        Ok(Self {
            words: child.stdin.take(),
            child: Some(child),
            ended: CancellationToken::new(),
        })
    }

    /// Has it start the activator, and waits for it from now on, in a thread that is as confined as the one that calls this.
    pub(crate) fn begin(&mut self) {
        if let Some(mut child) = self.child.take() {
            let ended = self.ended.clone();
            std::thread::spawn(move || {
                match child.wait() {
                    Ok(status) => tracing::debug!(%status, "the activator's keeper ended"),
                    Err(error) => tracing::error!(%error, "wait for the activator's keeper"),
                }
                ended.cancel();
            });
        }
        self.say(START);
    }

    /// Has it end in order.
    pub(crate) fn end(&mut self) {
        self.say(END);
    }

    /// Has it kill the activator, and end.
    pub(crate) fn kill(&mut self) {
        self.say(KILL);
    }

    /// Returns when it has ended, once it was begun. Cancel-safe.
    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    fn say(&mut self, word: u8) {
        // One that is gone hears nothing, and needs not.
        if let Some(words) = &mut self.words {
            let _ = words.write_all(&[word]);
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.words = None;
        // One that was never begun has nothing to finish, and ends at once.
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }
}

/// What a keeper has heard.
#[derive(Debug, Clone, Default)]
struct Heard {
    start: CancellationToken,
    end: CancellationToken,
    kill: CancellationToken,
}

/// Keeps the activator that `command` starts, as the daemon at our standard input says, and ends after it.
pub async fn run(command: Vec<OsString>) {
    let heard = Heard::default();
    listen(heard.clone());
    tokio::select! {
        () = heard.start.cancelled() => keep(&command, &heard).await,
        () = heard.end.cancelled() => {}
    }
}

async fn keep(command: &[OsString], heard: &Heard) {
    while !heard.end.is_cancelled() {
        match spawn(command) {
            Ok(child) => watch(child, heard).await,
            Err(error) => tracing::error!(%error, "start the activator"),
        }
        tokio::select! {
            () = heard.end.cancelled() => {}
            () = tokio::time::sleep(RESTART_PAUSE) => {}
        }
    }
}

/// Returns when the activator has ended: by itself, or since it was told to.
async fn watch(mut child: Child, heard: &Heard) {
    // Held apart: waiting for a child closes what it still holds of its standard input.
    let stdin = child.stdin.take();
    tokio::select! {
        () = heard.end.cancelled() => {}
        status = child.wait() => {
            match status {
                Ok(status) => tracing::warn!(%status, "the activator died; starting it again"),
                Err(error) => tracing::error!(%error, "wait for the activator"),
            }
            return;
        }
    }
    // Its standard input closes: it finishes what it does and ends.
    drop(stdin);
    tokio::select! {
        _ = child.wait() => {}
        () = heard.kill.cancelled() => {
            let _ = child.kill().await;
        }
    }
}

/// Starts the activator. It ends when its standard input does, so it never outlives this process.
fn spawn(command: &[OsString]) -> io::Result<Child> {
    Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::piped())
        .spawn()
}

/// A thread that hears the daemon until it ends.
fn listen(heard: Heard) {
    std::thread::spawn(move || {
        let mut word = [0];
        while matches!(io::stdin().read(&mut word), Ok(1)) {
            match word[0] {
                START => heard.start.cancel(),
                KILL => {
                    heard.kill.cancel();
                    heard.end.cancel();
                }
                // END, and what a later daemon may say.
                _ => heard.end.cancel(),
            }
        }
        heard.end.cancel();
    });
}
