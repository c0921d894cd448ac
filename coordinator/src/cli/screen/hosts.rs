//! Every host on a line of its own, for `--hosts` and `--tree`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use clap::Args;
use scap_proto::id::NodeId;

use super::{
    fit::{Part, fit, inert},
    lines::{chunks, rate},
    rates::Rates,
    sheet::Sheet,
};
use crate::{
    cli::rollout_status,
    rollout::{Engine, HostProgress, HostState},
};

/// Which of them are shown besides the few lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Args)]
pub(in crate::cli) struct Shown {
    /// Show every host while it goes on: those that failed, are not reached or are behind first
    #[arg(long, conflicts_with = "tree")]
    pub(in crate::cli) hosts: bool,
    /// Show every host below the one that passes its orders on
    #[arg(long)]
    pub(in crate::cli) tree: bool,
}

/// One host.
#[derive(Debug, Clone)]
pub(in crate::cli) struct HostLine {
    pub(super) host: NodeId,
    /// How many are above it.
    pub(super) depth: usize,
    state: &'static str,
    chunks: Option<(u32, u32)>,
    rate: Option<f64>,
    /// What it waits for, or why it was lost. Not escaped.
    text: String,
}

impl HostLine {
    /// Its line, of at most so many columns.
    pub(super) fn line(&self, columns: usize) -> String {
        let name = format!("{}{}", "  ".repeat(self.depth), self.host);
        let parts = [
            Part::new(0, format!("{name:<16}")),
            Part::new(0, self.state),
            Part::new(1, self.chunks.map(chunks).unwrap_or_default()),
            Part::new(2, self.rate.map(rate).unwrap_or_default()),
            Part::new(0, inert(&self.text)),
        ];
        fit("host", &parts, columns)
    }
}

/// The hosts that are to be shown.
pub(super) fn host_lines(
    engine: &Engine,
    now: Duration,
    rates: &Rates,
    sheet: &Sheet,
    shown: Shown,
) -> Vec<HostLine> {
    let one = |name: &NodeId, depth| {
        let host = &engine.hosts()[name];
        let is_fetching = host.state == HostState::Fetching;
        let first = |text: &str| text.lines().next().unwrap_or_default().to_owned();
        HostLine {
            host: name.clone(),
            depth,
            state: host.state.code(),
            chunks: is_fetching.then_some(host.chunks),
            rate: rates.of(now, name, host).filter(|_| is_fetching),
            text: match (rollout_status::reason(host), &host.away) {
                (Some(reason), _) => first(&reason.text),
                (None, Some((_, reason))) => format!("away: {}", first(reason)),
                (None, None) => first(&host.waiting),
            },
        }
    };
    if shown.tree {
        let names = engine.hosts().keys();
        let above = |name: &NodeId| sheet.places.around(name).upstreams.into_iter().next();
        let order = tree(&names.map(|name| (name.clone(), above(name))).collect());
        return order
            .iter()
            .map(|(name, depth)| one(name, *depth))
            .collect();
    }
    if !shown.hosts {
        return Vec::new();
    }
    let mut names: Vec<&NodeId> = engine.hosts().keys().collect();
    names.sort_by_key(|name| urgency(&engine.hosts()[*name]));
    names.into_iter().map(|name| one(name, 0)).collect()
}

/// What a person is to see first.
fn urgency(host: &HostProgress) -> u8 {
    match &host.state {
        HostState::Failed(_) => 0,
        HostState::Unreachable(_) => 1,
        _ if host.away.is_some() => 2,
        HostState::Reverting | HostState::Promoting => 3,
        HostState::Fetching => 4,
        HostState::Waiting | HostState::Fetched => 5,
        HostState::Promoted | HostState::Reverted | HostState::Skipped(_) => 6,
    }
}

/// Each host below the one above it, and how many are above it; whoever has none above is at the top, and so is who is above itself.
fn tree(above: &BTreeMap<NodeId, Option<NodeId>>) -> Vec<(NodeId, usize)> {
    let mut below: BTreeMap<Option<&NodeId>, Vec<&NodeId>> = BTreeMap::new();
    for (name, upstream) in above {
        let upstream = upstream.as_ref().filter(|it| above.contains_key(*it));
        below.entry(upstream).or_default().push(name);
    }
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    let tops = below.get(&None).into_iter().flatten().copied();
    for top in tops.chain(above.keys()) {
        let mut open = vec![(top, 0)];
        while let Some((name, depth)) = open.pop() {
            if seen.insert(name) {
                order.push((name.clone(), depth));
                let here = below.get(&Some(name)).into_iter().flatten().rev();
                open.extend(here.map(|name| (*name, depth + 1)));
            }
        }
    }
    order
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn every_host_is_in_the_tree_once_below_the_one_above_it() {
        let name = |text: &str| -> NodeId { text.parse().unwrap() };
        let above = [
            ("a", None),
            ("b", Some("a")),
            ("c", Some("b")),
            ("d", Some("a")),
            ("e", Some("elsewhere")),
            // Which cannot be, and must not hang.
            ("x", Some("y")),
            ("y", Some("x")),
        ];
        let above = above.map(|(host, above)| (name(host), above.map(name)));
        let order = tree(&above.into_iter().collect());
        let order: Vec<(&str, usize)> = order
            .iter()
            .map(|(it, depth)| (it.as_str(), *depth))
            .collect();
        let expected = [
            ("a", 0),
            ("b", 1),
            ("c", 2),
            ("d", 1),
            ("e", 0),
            ("x", 0),
            ("y", 1),
        ];
        assert_eq!(order, expected);
    }
}
