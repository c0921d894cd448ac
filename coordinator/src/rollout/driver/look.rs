//! The command that looks at a wave from here: started, listened to, and killed when its time is over.

use std::{
    io,
    process::{ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, kill_process_group};
use scap_proto::id::NodeId;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
};

use crate::rollout::ExternalCheck;

/// Most bytes kept of what it prints: its last words. All else is read and dropped.
const OUTPUT_BYTES_MAX: usize = 4096;

/// Longest line of it that is told, in characters.
const LINE_CHARS_MAX: usize = 200;

/// Runs the command for the hosts of a wave. Cancel-safe: it is killed.
///
/// # Errors
/// Why the wave is not well, in a line; not escaped.
pub(super) async fn look(
    check: ExternalCheck,
    wave: String,
    hosts: Vec<NodeId>,
    about: [(&'static str, String); 3],
) -> Result<(), String> {
    let (program, arguments) = check.command.split_first().ok_or("no command")?;
    let mut child = Command::new(program)
        .args(arguments)
        .args(hosts.iter().map(NodeId::as_str))
        .env("SCAP_WAVE", wave)
        .envs(about)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("start `{program}`: {error}"))?;
    let _group = child.id().map(Group);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let ending = async {
        let (status, out, err) = tokio::join!(child.wait(), tail(stdout), tail(stderr));
        (status, out, err)
    };
    match tokio::time::timeout(check.timeout, ending).await {
        Ok((status, out, err)) => said(status, &out, &err),
        Err(_) => Err(format!("not done within {} s", check.timeout.as_secs())),
    }
}

fn said(status: io::Result<ExitStatus>, out: &[u8], err: &[u8]) -> Result<(), String> {
    let status = status.map_err(|error| format!("wait for it to end: {error}"))?;
    if status.success() {
        return Ok(());
    }
    let last = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let line = text.lines().rev().find(|line| !line.trim().is_empty());
        line.map(|line| line.chars().take(LINE_CHARS_MAX).collect::<String>())
    };
    let line = last(err).or_else(|| last(out));
    let line = line.map_or_else(String::new, |line| format!(": {line}"));
    Err(format!("{status}{line}"))
}

/// The last bytes of what comes.
async fn tail(from: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut from) = from else {
        return kept;
    };
    let mut buffer = vec![0; OUTPUT_BYTES_MAX];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..read]);
        let excess = kept.len().saturating_sub(OUTPUT_BYTES_MAX);
        kept.drain(..excess);
    }
    kept
}

/// Killed when dropped, with all that it started and that did not leave it.
struct Group(u32);

impl Drop for Group {
    fn drop(&mut self) {
        let group = i32::try_from(self.0).ok().and_then(Pid::from_raw);
        if let Some(group) = group {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn look(script: &str, timeout: Duration) -> Result<(), String> {
        let command = ["sh", "-c", script, "look"].map(str::to_owned).into();
        let hosts = ["web1", "web2"].map(|name| name.parse().unwrap()).into();
        let about = [("SCAP_REPO", "web/site".to_owned())];
        let about = [
            about[0].clone(),
            ("SCAP_ENVIRONMENT", "production".to_owned()),
            ("SCAP_RELEASE", "7".to_owned()),
        ];
        super::look(
            ExternalCheck { command, timeout },
            "canary".into(),
            hosts,
            about,
        )
        .await
    }

    #[tokio::test]
    async fn t13_the_command_gets_the_hosts_and_its_last_words_are_told() {
        let minute = Duration::from_secs(60);
        let all = r#"test "$*/$SCAP_WAVE/$SCAP_REPO" = "web1 web2/canary/web/site""#;
        assert_eq!(look(all, minute).await, Ok(()));
        let fails = "yes | head -c 100000; echo first >&2; echo 'web2 answers 500' >&2; exit 3";
        let failed = look(fails, minute).await;
        assert_eq!(failed, Err("exit status: 3: web2 answers 500".into()));
        let silent = look("exit 1", minute).await;
        assert_eq!(silent, Err("exit status: 1".into()));
        let late = look("sleep 600 & sleep 600", Duration::from_millis(100)).await;
        assert_eq!(late, Err("not done within 0 s".into()));
        let none = ExternalCheck {
            command: vec!["/does/not/exist".into()],
            timeout: minute,
        };
        let about = ["A", "B", "C"].map(|name| (name, String::new()));
        let none = super::look(none, "w".into(), Vec::new(), about).await;
        assert!(none.unwrap_err().starts_with("start `/does/not/exist`"));
    }
}
