//! Any object of each kind.

use std::net::SocketAddr;

use proptest::{collection::vec, prelude::*};
use scap_proto::{
    content::{ChunkRef, SnapshotRef},
    id::{ChunkId, GitOid, NodeId, PlanId, ReleaseId, SnapshotId},
    limits::{DELTAS_MAX, HOST_ADDRESSES_MAX},
    release::{
        BytesBySource, DeltaRef, Directive, Environment, Finalization, Grant, Outcome, Plan,
        PlanHost, Release, RepoPath, Report, Stage, Standing, Targets, TopologyKind, UnixMillis,
    },
};

use crate::objects::any_extensions;

fn any_name() -> impl Strategy<Value = String> {
    vec(proptest::char::range('a', 'z'), 1..12).prop_map(String::from_iter)
}

fn any_node() -> impl Strategy<Value = NodeId> {
    any_name().prop_map(|text| text.parse().unwrap())
}

fn any_repo() -> impl Strategy<Value = RepoPath> {
    vec(any_name(), 1..=RepoPath::COMPONENTS_MAX).prop_map(|parts| parts.join("/").parse().unwrap())
}

fn any_environment() -> impl Strategy<Value = Environment> {
    any_name().prop_map(|text| text.parse().unwrap())
}

fn any_release_id() -> impl Strategy<Value = ReleaseId> {
    any::<[u8; 32]>().prop_map(ReleaseId::from_bytes)
}

fn any_snapshot() -> impl Strategy<Value = SnapshotRef> {
    any::<([u8; 32], u32)>().prop_map(|(id, descriptor_length)| SnapshotRef {
        id: SnapshotId::from_bytes(id),
        descriptor_length,
    })
}

fn any_commit() -> impl Strategy<Value = GitOid> {
    prop_oneof![vec(any::<u8>(), 20), vec(any::<u8>(), 32)]
        .prop_map(|bytes| bytes.try_into().unwrap())
}

fn any_delta() -> impl Strategy<Value = DeltaRef> {
    let chunk = any::<([u8; 32], u32)>().prop_map(|(id, plain_length)| ChunkRef {
        id: ChunkId::from_bytes(id),
        plain_length,
    });
    (any::<[u8; 32]>(), vec(chunk, 0..8)).prop_map(|(base, chunks)| DeltaRef {
        base: SnapshotId::from_bytes(base),
        chunks,
    })
}

prop_compose! {
    pub fn any_release()(
        (repo, environment, audience) in (any_repo(), any_environment(), any_name()),
        (sequence, created, expires) in any::<(u64, u64, u64)>(),
        snapshot in any_snapshot(),
        config in proptest::option::of(any_snapshot()),
        commit in proptest::option::of(any_commit()),
        deltas in vec(any_delta(), 0..=DELTAS_MAX),
        previous in proptest::option::of(any_release_id()),
        extensions in any_extensions(),
    ) -> Release {
        Release {
            repo,
            environment,
            audience: audience.parse().unwrap(),
            sequence,
            snapshot,
            commit,
            config,
            deltas,
            previous,
            created: UnixMillis(created),
            expires: UnixMillis(expires),
            extensions,
        }
    }
}

prop_compose! {
    pub fn any_grant()(
        release in any_release_id(),
        (session_key, epoch, expires) in any::<([u8; 32], u64, u64)>(),
        extensions in any_extensions(),
    ) -> Grant {
        Grant { release, session_key, epoch, expires: UnixMillis(expires), extensions }
    }
}

fn any_stage() -> impl Strategy<Value = Stage> {
    prop_oneof![
        Just(Stage::Fetch),
        Just(Stage::Promote),
        Just(Stage::Revert)
    ]
}

prop_compose! {
    pub fn any_directive()(
        release in any_release_id(),
        (epoch, number) in any::<(u64, u64)>(),
        targets in proptest::option::of(proptest::collection::btree_set(any_node(), 0..10)),
        stage in any_stage(),
        plan in proptest::option::of(any::<[u8; 32]>()),
        extensions in any_extensions(),
    ) -> Directive {
        let targets = targets.map_or(Targets::All, |hosts| Targets::Only(hosts.into_iter().collect()));
        let plan = plan.map(PlanId::from_bytes);
        Directive { release, epoch, number, targets, stage, plan, extensions }
    }
}

prop_compose! {
    pub fn any_finalization()(
        release in any_release_id(),
        (repo, environment, audience) in (any_repo(), any_environment(), any_name()),
        sequence in any::<u64>(),
        extensions in any_extensions(),
    ) -> Finalization {
        let audience = audience.parse().unwrap();
        Finalization { release, repo, environment, audience, sequence, extensions }
    }
}

prop_compose! {
    fn any_host()(
        name in any_node(),
        addresses in vec(any::<SocketAddr>(), 0..=HOST_ADDRESSES_MAX),
        (site, rack, wave) in any::<(String, String, u32)>(),
    ) -> PlanHost {
        // A flow label and a scope mean nothing to another host and do not travel.
        let addresses = addresses
            .into_iter()
            .map(|address| SocketAddr::new(address.ip(), address.port()))
            .collect();
        PlanHost { name, addresses, site, rack, wave }
    }
}

prop_compose! {
    pub fn any_plan()(
        seed in any_node(),
        hosts in vec(any_host(), 0..10),
        is_tree in any::<bool>(),
        (degree, fanout) in (1..=u32::MAX, 1..=u32::MAX),
        random_seed in any::<u64>(),
        extensions in any_extensions(),
    ) -> Plan {
        let mut hosts = hosts;
        hosts.sort_by(|a, b| a.name.cmp(&b.name));
        hosts.dedup_by(|a, b| a.name == b.name);
        let topology = if is_tree { TopologyKind::Tree } else { TopologyKind::Swarm };
        Plan { seed, hosts, topology, degree, fanout, random_seed, extensions }
    }
}

fn any_outcome() -> impl Strategy<Value = Outcome> {
    let working = any::<(u32, u32, String)>();
    prop_oneof![
        Just(Outcome::Idle),
        working.prop_map(|(chunks_held, chunks_total, waiting)| Outcome::Working {
            chunks_held,
            chunks_total,
            waiting,
        }),
        Just(Outcome::Done),
        any::<String>().prop_map(|reason| Outcome::Failed { reason }),
        any::<String>().prop_map(|reason| Outcome::Refused { reason }),
    ]
}

prop_compose! {
    pub fn any_report()(
        (host, repo, environment) in (any_node(), any_repo(), any_environment()),
        [release, accepted, live] in proptest::array::uniform3(proptest::option::of(any_release_id())),
        (stage, outcome) in (any_stage(), any_outcome()),
        [counter, epoch, number, seed, peers, reuse] in any::<[u64; 6]>(),
        [fetch_millis, prepare_millis, promote_millis] in any::<[u64; 3]>(),
        [accepted_sequence, finalized_sequence] in any::<[u64; 2]>(),
        extensions in any_extensions(),
    ) -> Report {
        Report {
            host,
            repo,
            environment,
            release,
            counter,
            stage,
            directive: (epoch, number),
            outcome,
            bytes: BytesBySource { seed, peers, reuse },
            fetch_millis,
            prepare_millis,
            promote_millis,
            standing: Standing { accepted_sequence, accepted, live, finalized_sequence },
            extensions,
        }
    }
}
