//! The few lines that are drawn again and again: from what is shown, and how much room there is, to text. Pure.

use std::time::Duration;

use super::{
    fit::{Part, cut, fit, inert},
    sheet::Sheet,
    view::View,
};
use crate::{
    cli::human_bytes,
    rollout::{At, WaitingOn, WaveGlance},
};

/// Most lines, but for those of single hosts that were asked for.
pub(in crate::cli) const LINES_MAX: usize = 8;
/// Least and most columns of the bar: a column of the widest is a hundredth of a large fleet's third.
const BAR: (usize, usize) = (8, 34);
/// The command that is for single hosts.
const SKIP: &str = "skip HOST";
/// Columns of a line that goes to no terminal: more than a reason has.
const UNBOUNDED: usize = 16 * 1024;
/// Most of these that were lost for one reason, which is to fit too.
const LOST_SHOWN_MAX: usize = 2;
/// Below so many columns what Ctrl-C does is said in fewer words.
const NARROW: usize = 60;
/// Columns of a repo's name that is cut.
const REPO_COLUMNS_MIN: usize = 12;
/// Most hosts named in a line.
const HOSTS_SHOWN_MAX: usize = 8;

/// How much room a terminal has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) struct Size {
    pub(in crate::cli) columns: usize,
    pub(in crate::cli) rows: usize,
}

/// Which characters it shows for certain. Nothing is ever said by colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Glyphs {
    Unicode,
    Ascii,
}

impl Glyphs {
    /// As a locale says that is set like this.
    pub(in crate::cli) fn of_locale(locale: &str) -> Self {
        let locale = locale.to_ascii_lowercase();
        match locale.contains("utf-8") || locale.contains("utf8") {
            true => Self::Unicode,
            false => Self::Ascii,
        }
    }

    fn arrow(self) -> &'static str {
        match self {
            Self::Unicode => "\u{2192}",
            Self::Ascii => "->",
        }
    }
}

/// The lines, none of which wraps; and of single hosts as many as there is room for.
pub(in crate::cli) fn lines(sheet: &Sheet, view: &View, size: Size, glyphs: Glyphs) -> Vec<String> {
    // The last column is left free: some terminals wrap when it is written to.
    let columns = size.columns.saturating_sub(1);
    let mut lines = vec![title(sheet, view, columns, glyphs), wave(view, columns)];
    lines.push(fleet(view, columns, glyphs));
    lines.push(data(sheet, view, columns));
    lines.extend(slow(view, columns));
    lines.extend(lost(view, columns));
    lines.push(wait(sheet, view, columns));
    lines.push(next(view, columns));
    debug_assert!(lines.len() <= LINES_MAX, "{lines:?}");
    // One row is for the cursor, below.
    let room = size.rows.saturating_sub(1);
    let (shown, left) = match room.saturating_sub(lines.len()) {
        room if room >= view.hosts.len() => (view.hosts.len(), 0),
        0 => (0, 0),
        room => (room - 1, view.hosts.len() + 1 - room),
    };
    lines.extend(view.hosts.iter().take(shown).map(|host| host.line(columns)));
    if left > 0 {
        lines.push(cut(&format!("host   and {left} more"), columns));
    }
    // What it waits for, and what comes next, is what is shown where there is room for nothing else.
    let few = lines.len().min(LINES_MAX).saturating_sub(room);
    lines.drain(..few);
    lines.truncate(room);
    lines
}

/// Every host on a line, where there is no terminal that is too small for it.
pub(in crate::cli) fn host_lines(view: &View) -> Vec<String> {
    let hosts = view.hosts.iter();
    hosts.map(|host| host.line(UNBOUNDED)).collect()
}

fn title(sheet: &Sheet, view: &View, columns: usize, glyphs: Glyphs) -> String {
    let (repo, environment) = &sheet.about;
    let short = |oid: &Option<_>| {
        oid.as_ref()
            .map(|oid: &scap_proto::id::GitOid| format!("{:.7}", oid.to_string()))
    };
    let (from, to) = (short(&sheet.from), short(&sheet.to));
    let arrow = glyphs.arrow();
    let commits = to.map(|to| {
        let from = from.unwrap_or_else(|| "nothing".to_owned());
        [format!("{from} {arrow} {to}"), format!("{arrow} {to}")]
    });
    let said = |text: &Option<String>, before: &str, after: &str| match text {
        Some(text) => format!("{before}{}{after}", inert(text)),
        None => String::new(),
    };
    let keys = match (view.is_paused, columns < NARROW) {
        (true, false) => "[paused; Ctrl-C leaves]",
        (true, true) => "[Ctrl-C leaves]",
        (false, false) => "[Ctrl-C pauses safely]",
        (false, true) => "[Ctrl-C pauses]",
    };
    let repo = repo.to_string();
    let mut parts = vec![
        Part::of(1, [repo.clone(), cut(&repo, REPO_COLUMNS_MIN)]),
        Part::new(2, format!("to {environment}")),
    ];
    parts.extend(commits.map(|commits| Part::of(3, commits)));
    parts.extend([
        Part::new(4, said(&sheet.subject, "\"", "\"")),
        Part::new(5, said(&sheet.author, "by ", "")),
        Part::of(
            2,
            [format!("rollout {}", sheet.rollout), sheet.rollout.clone()],
        ),
        Part::new(0, keys),
    ]);
    fit("deploy", &parts, columns)
}

fn wave(view: &View, columns: usize) -> String {
    let waves = &view.glance.waves;
    let elapsed = Part::new(6, format!("elapsed {}", clock(view.now)));
    let (at, wave) = match view.glance.at {
        At::RollingBack => return back(waves, elapsed, columns),
        At::Wave(at) => (at, &waves[at]),
        At::Start => {
            let hosts = waves.iter().map(|wave| wave.hosts).sum();
            let text = format!(
                "{} in {} to come",
                counted(hosts, "host"),
                counted(waves.len(), "wave")
            );
            return fit("wave", &[Part::new(0, text), elapsed], columns);
        }
        At::Finalizing | At::End => {
            let through = Part::new(0, format!("all {} through", waves.len()));
            return fit("wave", &[through, elapsed], columns);
        }
    };
    let WaveGlance {
        hosts,
        fetched,
        promoted,
        healthy,
        lost,
        allowed,
        ..
    } = wave;
    let wait = view.glance.wait.as_ref();
    let soaks_until = wait
        .filter(|wait| wait.on == WaitingOn::Soak)
        .and_then(|wait| wait.until);
    let soak = soaks_until.map(|until| {
        let left = clock(until.saturating_sub(view.now));
        Part::new(1, format!("soak {left} left"))
    });
    let mut parts = vec![
        Part::of(
            0,
            [
                format!("{}/{} {}", at + 1, waves.len(), inert(&wave.name)),
                format!("{}/{}", at + 1, waves.len()),
            ],
        ),
        Part::new(3, format!("fetch {fetched}/{hosts}")),
        Part::new(1, format!("promoted {promoted}/{hosts}")),
        Part::new(4, format!("healthy {healthy}/{hosts}")),
        Part::of(
            2,
            [
                format!("budget {lost}/{allowed} lost"),
                format!("budget {lost}/{allowed}"),
            ],
        ),
    ];
    parts.extend(soak);
    parts.push(elapsed);
    fit("wave", &parts, columns)
}

/// In place of a wave while hosts go back.
fn back(waves: &[WaveGlance], elapsed: Part, columns: usize) -> String {
    let sum = |of: fn(&WaveGlance) -> usize| -> usize { waves.iter().map(of).sum() };
    let touched = || waves.iter().filter(|wave| wave.to_revert > 0);
    let one = |wave: &WaveGlance| {
        let name = inert(&wave.name);
        format!("{name} {}/{}", wave.reverted, wave.to_revert)
    };
    let each: Vec<String> = touched().rev().map(one).collect();
    let parts = [
        Part::new(
            0,
            format!(
                "{}/{} went back, of {}",
                sum(|wave| wave.reverted),
                counted(sum(|wave| wave.to_revert), "host"),
                counted(touched().count(), "wave"),
            ),
        ),
        Part::new(1, each.join("  ")),
        elapsed,
    ];
    fit("back", &parts, columns)
}

fn fleet(view: &View, columns: usize, glyphs: Glyphs) -> String {
    let glance = &view.glance;
    let (new, unknown) = (glance.new, glance.unknown);
    let all = new + glance.old + unknown;
    let counts = format!("{new}/{all}  old {}  unknown {unknown}", glance.old);
    // "fleet  new " before it, and what comes after it.
    let room = columns.saturating_sub(11 + 1 + counts.len());
    if room < BAR.0 {
        return fit("fleet", &[Part::new(0, format!("new {counts}"))], columns);
    }
    let bar = bar([new, glance.old, unknown], room.min(BAR.1), glyphs);
    fit(
        "fleet",
        &[Part::new(0, format!("new {bar} {counts}"))],
        columns,
    )
}

/// Hosts with the new release, with an older one, and of whom nothing is known, in proportion.
fn bar([new, old, unknown]: [usize; 3], columns: usize, glyphs: Glyphs) -> String {
    let all = (new + old + unknown).max(1);
    let (full, half, rest) = match glyphs {
        Glyphs::Unicode => ("\u{2588}", "\u{258c}", "\u{b7}"),
        Glyphs::Ascii => ("#", "", "."),
    };
    // Whoever is unknown is seen, however few they are.
    let unknown_columns = match unknown {
        0 => 0,
        some => (some * columns / all).max(1),
    };
    let halves = new * columns * 2 / all;
    let full_columns = (halves / 2).min(columns - unknown_columns);
    let half = match halves % 2 == 1 && full_columns + unknown_columns < columns {
        true => half,
        false => "",
    };
    let used = full_columns + half.chars().count() + unknown_columns;
    [
        full.repeat(full_columns),
        half.to_owned(),
        rest.repeat(columns - used),
        "?".repeat(unknown_columns),
    ]
    .concat()
}

fn data(sheet: &Sheet, view: &View, columns: usize) -> String {
    let bytes = view.glance.bytes;
    let fetched = bytes.seed + bytes.peers;
    let size = [
        format!(
            "{} new of {}",
            human_bytes(sheet.new_bytes),
            human_bytes(sheet.all_bytes)
        ),
        human_bytes(sheet.all_bytes),
    ];
    let seed = match sheet.new_bytes {
        0 => format!("seed {}", human_bytes(bytes.seed)),
        new => format!("seed {:.1}x", ratio(bytes.seed, new)),
    };
    let percent = |what: &str, part: u64, of: u64| match of {
        0 => format!("{what} 0%"),
        of => format!("{what} {:.0}%", 100.0 * ratio(part, of)),
    };
    let bound = view.bound(sheet).map(|times| {
        let long = format!("{times:.2}x of the bound");
        Part::of(2, [long, format!("{times:.2}x bound")])
    });
    let mut parts = vec![
        Part::of(0, size),
        Part::new(1, seed),
        Part::new(1, percent("peers", bytes.peers, fetched)),
        Part::new(3, percent("reuse", bytes.reuse, bytes.reuse + fetched)),
        Part::new(1, format!("{} now", rate(view.rate.unwrap_or_default()))),
    ];
    parts.extend(bound);
    fit("data", &parts, columns)
}

fn slow(view: &View, columns: usize) -> Option<String> {
    let slow = view.slow.as_ref()?;
    let mut parts = vec![
        Part::new(0, slow.host.to_string()),
        Part::new(0, rate(slow.rate.unwrap_or_default())),
        Part::new(1, chunks(slow.chunks)),
    ];
    parts.extend(
        slow.upstream
            .as_ref()
            .map(|it| Part::new(3, format!("upstream {it}"))),
    );
    parts.push(Part::new(
        2,
        format!("moved {} s ago", slow.still.as_secs()),
    ));
    Some(fit("slow", &parts, columns))
}

fn lost(view: &View, columns: usize) -> Option<String> {
    let lost = view.lost.as_ref()?;
    let names: Vec<&str> = lost.hosts.iter().map(|host| host.as_str()).collect();
    let parts = [
        Part::names(0, &counted(lost.all, "host"), &names, LOST_SHOWN_MAX),
        Part::new(0, inert(&lost.reason)),
    ];
    Some(fit("lost", &parts, columns))
}

/// A reason, how long, against which limit, and the hosts. It is always there.
fn wait(sheet: &Sheet, view: &View, columns: usize) -> String {
    let Some(wait) = &view.glance.wait else {
        let what = match view.glance.at {
            At::Start => "for hosts to say where they stand",
            _ => "for nothing: it is over",
        };
        return fit("wait", &[Part::new(0, what)], columns);
    };
    let waited = view.now.saturating_sub(wait.since);
    let of_wave = wait
        .wave
        .as_ref()
        .map(|wave| format!(" of {}", inert(wave)));
    let what = format!("{}{}", wait.on, of_wave.unwrap_or_default());
    let time = match (&view.glance.oldest, view.limit(sheet)) {
        (_, Some(limit)) => vec![format!("{} of {}", clock(waited), clock(limit))],
        (Some(oldest), None) => {
            let still = format!("{} of {} s", oldest.still.as_secs(), oldest.limit.as_secs());
            vec![format!("{} (oldest {still})", clock(waited)), still]
        }
        (None, None) if wait.on.needs_a_person() => {
            vec![
                format!("{}, until somebody comes", clock(waited)),
                clock(waited),
            ]
        }
        (None, None) => vec![clock(waited)],
    };
    let names: Vec<&str> = wait.hosts.iter().map(|host| host.as_str()).collect();
    let hosts = match names.len() {
        0 => Vec::new(),
        count => {
            let before = format!("on {}", counted(count, "host"));
            vec![Part::names(1, &before, &names, HOSTS_SHOWN_MAX)]
        }
    };
    let oldest = view.glance.oldest.as_ref();
    let says = oldest.filter(|it| !it.waiting.is_empty()).map(|it| {
        let first = it.waiting.lines().next().unwrap_or_default();
        Part::new(3, format!("({}: {})", it.host, inert(first)))
    });
    let parts = [Part::new(0, what), Part::of(0, time)];
    let parts: Vec<Part> = parts.into_iter().chain(hosts).chain(says).collect();
    fit("wait", &parts, columns)
}

fn next(view: &View, columns: usize) -> String {
    let all = view.commands.iter().copied();
    // Hosts are left out where some make trouble.
    let commands = all.filter(|it| *it != SKIP || view.lost.is_some());
    let commands = commands.collect::<Vec<_>>().join(" | ");
    let choices = |before: &str| match commands.is_empty() {
        true => Vec::new(),
        false => vec![
            format!("{before}scap-coordinator {commands}"),
            format!("{before}{commands}"),
        ],
    };
    let on = view.glance.wait.as_ref().map(|wait| wait.on);
    if on.is_some_and(WaitingOn::needs_a_person) {
        return fit("next", &[Part::of(0, choices(""))], columns);
    }
    let (what, when) = match view.glance.at {
        At::Start => ("the first wave fetches".to_owned(), ""),
        At::RollingBack => (
            "the end".to_owned(),
            "once every host that was switched is back",
        ),
        At::Finalizing => (
            "the end".to_owned(),
            "once these confirm that it is the stable release",
        ),
        At::End => ("nothing".to_owned(), ""),
        At::Wave(_) => {
            let what = match &view.next {
                None => "stable release".to_owned(),
                Some((name, hosts, _)) => {
                    format!("wave {} ({})", inert(name), counted(*hosts, "host"))
                }
            };
            let when = match on {
                Some(WaitingOn::Soak) => "after the soak",
                _ => "once this wave is live",
            };
            (what, when)
        }
    };
    let is_soak_to_come = on != Some(WaitingOn::Soak) && !view.soak.is_zero();
    let mut when = when.to_owned();
    if matches!(view.glance.at, At::Wave(_)) {
        if is_soak_to_come {
            when = format!("once live and soaked for {}", clock(view.soak));
        }
        if matches!(view.next, Some((.., true))) {
            when += ", and approved";
        }
    }
    let parts = [
        Part::new(0, what),
        Part::new(1, when),
        Part::of(2, choices("or ")),
    ];
    fit("next", &parts, columns)
}

/// `02:10`, or `1:02:10`.
pub(in crate::cli) fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes:02}:{seconds:02}"),
        hours => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

pub(super) fn chunks((held, known): (u32, u32)) -> String {
    format!("{held}/{known} chunks")
}

/// Bytes a second.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is shown to three digits"
)]
pub(super) fn rate(bytes_per_sec: f64) -> String {
    format!("{}/s", human_bytes(bytes_per_sec as u64))
}

/// `1 host`, `2 hosts`.
fn counted(count: usize, what: &str) -> String {
    let many = if count == 1 { "" } else { "s" };
    format!("{count} {what}{many}")
}

#[expect(clippy::cast_precision_loss, reason = "shown to three digits")]
fn ratio(part: u64, of: u64) -> f64 {
    part as f64 / of as f64
}
