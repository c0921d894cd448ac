//! `scap-agent limit`, and limits that are read again while the agent runs.

use std::{io::Write, path::PathBuf};

use clap::Args;
use serde_json::Value;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::{LocalArgs, exit};
use crate::{
    api::Call,
    config::PartialConfig,
    limits::{Cap, Caps, Limits},
};

#[derive(Debug, Args)]
pub(super) struct LimitArgs {
    /// Cap all that leaves, in Mbit/s, headers included; `none` lifts the cap
    #[arg(long, value_name = "N|none")]
    upload_mbit: Option<Cap>,
    /// Cap all that arrives
    #[arg(long, value_name = "N|none")]
    download_mbit: Option<Cap>,
    /// Cap what goes to other sites
    #[arg(long, value_name = "N|none")]
    border_upload_mbit: Option<Cap>,
    /// Cap what comes from other sites
    #[arg(long, value_name = "N|none")]
    border_download_mbit: Option<Cap>,
    /// First go back to what the configuration says
    #[arg(long)]
    reset: bool,
    #[command(flatten)]
    pub(super) local: LocalArgs,
}

impl LimitArgs {
    pub(super) fn call(&self) -> Call {
        Call::Limit {
            reset: self.reset,
            caps: Caps {
                upload_mbit: self.upload_mbit,
                download_mbit: self.download_mbit,
                border_upload_mbit: self.border_upload_mbit,
                border_download_mbit: self.border_download_mbit,
            },
        }
    }
}

/// What a limit request was answered with.
pub(super) fn print(view: &Value, out: &mut dyn Write) -> u8 {
    for (key, label) in DIRECTIONS {
        print_one(label, &view[key], out);
    }
    exit::DONE
}

/// As [`print()`], without what is neither capped nor in use.
pub(super) fn print_in_use(view: &Value, out: &mut dyn Write) {
    for (key, label) in DIRECTIONS {
        // Keeping links alive is not using it.
        let is_used = view[key]["rate_mbit"].as_f64() >= Some(0.05);
        if is_used || view[key]["cap_mbit"].is_u64() {
            print_one(label, &view[key], out);
        }
    }
}

const DIRECTIONS: [(&str, &str); 4] = [
    ("upload", "upload"),
    ("download", "download"),
    ("border_upload", "upload over the border"),
    ("border_download", "download over the border"),
];

fn print_one(label: &str, view: &Value, out: &mut dyn Write) {
    let rate = view["rate_mbit"].as_f64().unwrap_or_default();
    let source = match view["source"].as_str() {
        Some("command") => ", by command until the next start",
        Some("time-of-day") => ", at this time of day",
        _ => "",
    };
    let _ = match view["cap_mbit"].as_u64() {
        Some(cap) => writeln!(out, "{label}  {rate:.1} of {cap} Mbit/s{source}"),
        None => writeln!(out, "{label}  {rate:.1} Mbit/s, no cap{source}"),
    };
}

/// The limits of the file, each time that SIGHUP asks to read it again. Without a file that signal does what it does.
pub(super) fn reread_on_hangup(file: Option<PathBuf>) -> mpsc::Receiver<Limits> {
    let (out, limits) = mpsc::channel(1);
    let Some(file) = file else { return limits };
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => {
            tracing::warn!(%error, "SIGHUP cannot be handled; it ends the process");
            return limits;
        }
    };
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            match PartialConfig::read(&file) {
                Ok(config) => {
                    tracing::info!(file = %file.display(), "limits read again");
                    if out.send(config.complete().limits).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    let error = crate::error_chain(&error);
                    tracing::error!(error, "limits not read again; those before count");
                }
            }
        }
    });
    limits
}
