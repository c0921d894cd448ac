//! Files that people and programs write by hand: the fleet's, the agent's, those of the state branch, and the names in them.

use std::{fmt::Display, path::Path, str::FromStr, sync::Arc};

use scap_agent::{
    config::PartialConfig,
    notation::{
        node::{Node, Value},
        words, yaml as notation,
    },
};
use scap_coordinator::{
    fleet::Inventory,
    state::{BranchRecord, Document, Hosts, Lock},
};
use scap_proto::{
    id::{ChunkId, ContentHash, GitOid, NodeId, PlanId, ReleaseId, SnapshotId},
    identity::{FleetName, Role},
    reason::Reason,
    release::{Audience, Environment, RepoPath, host_config::HostPath},
};

use super::shown;

/// How deep values of YAML may be in each other.
const DEPTH_MAX: usize = 64;
/// Most values of a document.
const NODES_MAX: usize = 20_000;

/// YAML, and the words of a command.
pub fn yaml(bytes: &[u8]) {
    let file: Arc<str> = "vars.yaml".into();
    if let Ok(node) = notation::parse(bytes, &file).map_err(shown) {
        let mut nodes = 0;
        check_node(&node, 0, &mut nodes);
        let json = serde_json::to_vec(&node).expect("finite numbers, and keys of text");
        let _: serde_json::Value = serde_json::from_slice(&json).expect("it is JSON");
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(words) = words::split(text)
    {
        let letters: usize = words.iter().map(String::len).sum();
        assert!(letters <= text.len(), "nothing is expanded");
    }
}

fn check_node(node: &Node, depth: usize, nodes: &mut usize) {
    *nodes += 1;
    assert!(depth <= DEPTH_MAX, "as deep as {depth}");
    assert!(*nodes <= NODES_MAX, "more than {NODES_MAX} values");
    assert!(node.at.line >= 1);
    match &node.value {
        Value::List(list) => list
            .iter()
            .for_each(|node| check_node(node, depth + 1, nodes)),
        Value::Map(map) => {
            let mut names: Vec<&str> = map.0.iter().map(|(key, _)| &*key.name).collect();
            names.sort_unstable();
            assert!(names.is_sorted_by(|a, b| a < b), "a key is there twice");
            for (_, node) in &map.0 {
                check_node(node, depth + 1, nodes);
            }
        }
        Value::Float(number) => assert!(number.is_finite()),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Text(_) => {}
    }
}

/// A fleet file.
pub fn fleet(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(fleet) = Inventory::parse(text, Path::new("fleet.toml")).map_err(shown) else {
        return;
    };
    assert!(!fleet.hosts.is_empty());
    assert!(fleet.hosts.is_sorted_by(|a, b| a.name < b.name));
    let policy = fleet.rollout.policy(&fleet.hosts);
    policy.expect("it was checked when it was read");
    let _ = fleet.check_sites().map_err(shown);
    fleet.seed_site();
    if let Some(seconds) = fleet.bound_seconds(1 << 30) {
        // No time at all, where somebody says that no link has an end.
        assert!(seconds >= 0.0, "{seconds} s for a gibibyte");
    }
    let (first, others) = fleet.waves();
    assert!(first.is_disjoint(&others));
    for (place, host) in (0..).zip(&fleet.hosts) {
        fleet.site(&host.site);
        fleet.routes().relays(place);
    }
}

/// The configuration of an agent.
pub fn agent_toml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let config: Result<PartialConfig, _> = toml::from_str(text);
    let Ok(config) = config.map_err(shown) else {
        return;
    };
    let over = config.clone().over(PartialConfig::default());
    assert_eq!(over, config);
    assert_eq!(over.complete(), config.complete());
}

/// The documents of a state branch.
pub fn state(bytes: &[u8]) {
    document::<BranchRecord>(bytes);
    document::<Hosts>(bytes);
    document::<Lock>(bytes);
}

fn document<T: Document + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(document) = T::from_json(bytes).map_err(shown) {
        let again = T::from_json(&document.to_json()).expect("what we write, we read");
        assert_eq!(again, document);
    }
}

/// Ids and names, in arguments and in file names.
pub fn ids(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    exact::<ChunkId>(text);
    exact::<ContentHash>(text);
    exact::<SnapshotId>(text);
    exact::<ReleaseId>(text);
    exact::<PlanId>(text);
    exact::<GitOid>(text);
    exact::<NodeId>(text);
    exact::<RepoPath>(text);
    exact::<Environment>(text);
    exact::<Audience>(text);
    exact::<FleetName>(text);
    exact::<Role>(text);
    exact::<Reason>(text);
    if let Ok(path) = HostPath::new(text).map_err(shown) {
        let path = path.to_path();
        assert!(path.is_absolute(), "{}", path.display());
        let up = path.components().any(|it| it.as_os_str() == "..");
        assert!(!up, "{}", path.display());
    }
}

/// What is read from a text is written as that very text: two of them never name the same.
fn exact<T: FromStr + Display>(text: &str)
where
    T::Err: std::error::Error + 'static,
{
    if let Ok(read) = text.parse::<T>().map_err(shown) {
        assert_eq!(read.to_string(), text, "{}", std::any::type_name::<T>());
        let acts = text.chars().any(|c| c.is_control() || c == ' ');
        assert!(!acts, "{text:?}");
    }
}
