//! A canary that breaks: what an agent has made of a release is taken away before it is told to switch to it.

use std::{io, path::Path, time::Duration};

use scap_agent::api::{self, Call};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::repo_name;
use crate::rollout::{Command, Request, WaitingOn};

/// Pause between two looks at an agent.
const LOOK_PERIOD: Duration = Duration::from_millis(20);

/// Waits until an agent has fetched a commit and waits for what comes next; returns its release.
pub(super) async fn fetched(folder: &Path, commit: &str) -> String {
    loop {
        // One that does not answer now does later, or the deployment ends without it.
        if let Ok(status) = api::call::<Value>(&folder.join("data"), &Call::Status).await {
            let release = &status["releases"][0];
            let is_there = |key: &str, value: &str| release[key] == value;
            if is_there("commit", commit) && is_there("stage", "fetch") && is_there("state", "done")
            {
                return release["release"].as_str().unwrap_or_default().to_owned();
            }
        }
        tokio::time::sleep(LOOK_PERIOD).await;
    }
}

/// Approves a wave, as soon as the deployment waits for that: it hears from agents a moment later than whoever asks them.
pub(super) async fn approve(people: &mpsc::Sender<Request>, wave: &str) {
    loop {
        let (answer, followed) = oneshot::channel();
        let command = Command::Promote {
            on: WaitingOn::Approval,
            wave: wave.to_owned(),
        };
        let _ = people.send(Request::Command { command, answer }).await;
        match followed.await {
            Ok(Err(_)) => tokio::time::sleep(LOOK_PERIOD).await,
            // Done, or the deployment is over.
            Ok(Ok(())) | Err(_) => return,
        }
    }
}

/// Puts files in the place of the directory that an agent has made of a commit, under both names that it may have.
///
/// # Errors
/// Where that cannot be done.
pub(super) fn take_away(folder: &Path, commit: &str, release: &str) -> io::Result<()> {
    let live = folder.join("srv").join(repo_name().as_path());
    let mut cache = live.into_os_string();
    cache.push("-cache/revs");
    let revs = Path::new(&cache);
    std::fs::remove_dir_all(revs.join(commit))?;
    std::fs::write(revs.join(commit), "in the way\n")?;
    let short: String = release.chars().take(8).collect();
    std::fs::write(revs.join(format!("{short}-{commit}")), "in the way\n")
}
