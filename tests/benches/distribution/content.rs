//! Rows of one incompressible file to every host of a fleet, on links of all kinds.

use scap_tests::repo::{SourceRepo, write_incompressible};

use crate::MIB;
use crate::options::Options;
use crate::others::{FILE, Theirs, Tool, Work};
use crate::ours::{Ours, Scene};
use crate::row::{Row, Target};
use crate::shape::Shape;

/// What is wanted, and against whom it is measured.
pub(crate) struct Aim {
    /// Of the bound.
    bound_ratio: Option<f64>,
    seed_copies: Option<f64>,
    border_copies: Option<f64>,
    behind_ratio: Option<f64>,
    cpu_seconds_per_gib: Option<f64>,
    /// The fastest of these by BitTorrent is to be no faster.
    against: &'static [&'static str],
}

impl Aim {
    const NONE: Self = Self {
        bound_ratio: None,
        seed_copies: None,
        border_copies: None,
        behind_ratio: None,
        cpu_seconds_per_gib: None,
        against: &[],
    };

    pub(crate) const PAYLOAD: Self = Self {
        bound_ratio: Some(1.10),
        seed_copies: Some(1.10),
        against: &[
            "chain",
            "aria2",
            "rsync-proxies",
            "rsync",
            "http",
            "git-http",
        ],
        ..Self::NONE
    };

    pub(crate) const SIZE: Self = Self {
        bound_ratio: Some(1.12),
        ..Self::NONE
    };

    pub(crate) const SITES: Self = Self {
        bound_ratio: Some(1.15),
        border_copies: Some(1.1),
        ..Self::NONE
    };

    pub(crate) const SLOW_SEED: Self = Self {
        bound_ratio: Some(1.15),
        seed_copies: Some(1.15),
        ..Self::NONE
    };

    pub(crate) const BEHIND: Self = Self {
        behind_ratio: Some(1.3),
        ..Self::NONE
    };

    pub(crate) const UNSHAPED: Self = Self {
        cpu_seconds_per_gib: Some(4.0),
        against: &["aria2", "http", "chain"],
        ..Self::NONE
    };
}

/// `None` where there can be no fleet.
pub(crate) fn measure(options: &Options, name: &str, shape: &Shape, aim: &Aim) -> Option<Row> {
    let what = format!("{} MiB to {}", shape.mib, shape.describe());
    let mut row = Row::new(name, what);
    let scene = Scene::start(options, shape)?;
    write_incompressible(&scene.repo.dir().join(FILE), shape.payload_bytes(), 1);
    let commit = scene.repo.commit("payload");
    let ours = scene.deploy(shape.payload_bytes() as u64);
    scene.assert_all_run(&commit);
    scene.clear();

    tell(&mut row, &ours, aim);
    row.idled(ours.machine_idle_share, shape.rate_mbit.is_some());
    row.others = others(options, shape, &scene, aim);
    let torrents = row.others.iter().filter(|it| it.tool() == "aria2");
    if let Some(fastest) = torrents.filter_map(Theirs::seconds).reduce(f64::min)
        && shape.rate_mbit.is_none()
    {
        row.judge(
            "seconds / those of aria2",
            ours.seconds / fastest,
            Target::AtMost(1.0),
        );
    }
    row.agent_peak_rss_bytes = Some(ours.agent_peak_rss_bytes);
    row.details = serde_json::json!({ "shape": shape, "ours": ours });
    Some(row)
}

fn tell(row: &mut Row, ours: &Ours, aim: &Aim) {
    let mut say = |what: &str, value: f64, most: Option<f64>| match most {
        Some(most) => row.judge(what, value, Target::AtMost(most)),
        None => row.tell(what, value),
    };
    say("seconds", ours.seconds, None);
    if let Some(ratio) = ours.bound_ratio {
        say("x bound", ratio, aim.bound_ratio);
    }
    if let Some(fetches) = ours.fetch_seconds {
        say("slowest fetch, s", fetches.most, None);
    }
    for phase in ["snapshot", "prepare", "promote"] {
        say(&format!("{phase}, s"), ours.phase(phase), None);
    }
    say("copies from the seed", ours.seed_copies, aim.seed_copies);
    say("copies on the seed's link", ours.seed_link_copies, None);
    if let Some(carried) = ours.carried_copies {
        say("carried by a host's link, x payload", carried, None);
    }
    if let Some((own, others)) = ours.border_copies.split_first() {
        let most = others.iter().map(|it| it.copies_in).fold(0.0, f64::max);
        say("copies over a border, in", most, aim.border_copies);
        say("copies from the seed's site", own.copies_out, None);
        say("copies into the seed's site", own.copies_in, None);
    }
    if let Some(ratio) = ours.behind_ratio {
        say("fetch behind others / in the open", ratio, aim.behind_ratio);
    }
    let cpu = ours.cpu_seconds_per_gib_delivered;
    say("CPU s/GiB delivered", cpu, aim.cpu_seconds_per_gib);
    say(
        "agent peak RSS, MiB",
        ours.agent_peak_rss_bytes as f64 / MIB,
        None,
    );
    say(
        "both its processes' peaks added, MiB",
        ours.agent_processes_peak_rss_bytes as f64 / MIB,
        None,
    );
    say(
        "coordinator peak RSS, MiB",
        ours.coordinator_peak_rss_bytes as f64 / MIB,
        None,
    );
}

/// One after the other, on the fleet that ours has left.
fn others(options: &Options, shape: &Shape, scene: &Scene, aim: &Aim) -> Vec<Theirs> {
    let part = Shape {
        mib: (shape.mib / PART).max(1),
        ..*shape
    };
    let small = SourceRepo::create(&scene.fleet.dir().join("part").join("part"));
    write_incompressible(&small.dir().join(FILE), part.payload_bytes(), 2);
    let small_commit = small.commit("a part");
    let wanted = aim.against.iter().filter(|name| options.wants_other(name));
    let measured = wanted.map(|name| {
        let tool = Tool::named(name);
        let is_part = tool.is_one_by_one && shape.rate_mbit.is_some();
        let (repo, shape) = match is_part {
            true => (&small, &part),
            false => (&scene.repo, shape),
        };
        let work = Work {
            fleet: &scene.fleet,
            repo,
            bytes: shape.payload_bytes() as u64,
            bound_seconds: shape.bound_seconds(),
        };
        let commit = match is_part {
            true => small_commit.clone(),
            false => "HEAD".to_owned(),
        };
        let mut session = match tool.start(&work) {
            Ok(session) => session,
            Err(not_here) => return not_here,
        };
        let theirs = session.deliver();
        session.assert_all_have(&repo.archived(&commit));
        session.end();
        theirs
    });
    measured.collect()
}

/// Of the payload this part goes to each host by tools that send it to one after the other: their time is so many copies over
/// the seed's link whatever their length, and of the whole would take minutes each.
const PART: usize = 8;
