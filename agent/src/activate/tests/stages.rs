//! What a release asks: its config files in the tree and elsewhere, switched with it.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fs,
    num::NonZeroU32,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use scap_proto::{
    content::{RelPath, SnapshotRef},
    id::NodeId,
    release::{
        HostConfig, Step,
        host_config::{
            Check, Command, ConfigFile, Destination, HostPath, HostStage, Moment, OutputFormat,
            Services,
        },
    },
};

use super::world::*;
use crate::{
    activate::{
        ActivateError, Stages, Target, What,
        owed::{After, Owed},
    },
    host::ServiceCommands,
};

/// A host whose services are nobody's.
pub(super) struct Host {
    name: NodeId,
    services: ServiceCommands,
}

impl Host {
    pub(super) fn new() -> Self {
        Self {
            name: "web1".parse().unwrap(),
            services: ServiceCommands::default(),
        }
    }

    pub(super) fn stages<'a>(&'a self, world: &'a World) -> Stages<'a> {
        Stages {
            host: &self.name,
            services: &self.services,
            source: &world.chunks,
            begins: &|_| {},
        }
    }
}

pub(super) fn host_path(path: &Path) -> HostPath {
    HostPath::new(path.to_str().unwrap()).unwrap()
}

/// A config snapshot with a template for each destination, which prints `text`.
fn config(world: &World, text: &str, destinations: &[Destination]) -> SnapshotRef {
    config_with(world, text, destinations, None)
}

/// The same, where a file on the host may say another text.
pub(super) fn config_with(
    world: &World,
    text: &str,
    destinations: &[Destination],
    remote_vars: Option<&Path>,
) -> SnapshotRef {
    config_of(world, &asked(text, destinations, remote_vars))
}

fn asked(text: &str, destinations: &[Destination], remote_vars: Option<&Path>) -> HostConfig {
    let number = |value| NonZeroU32::new(value).unwrap();
    let file = |destination: &Destination| ConfigFile {
        destination: destination.clone(),
        template: RelPath::new("template.j2").unwrap(),
        remote_vars: remote_vars.map(host_path),
        format: OutputFormat::Python,
        has_erb_syntax: false,
    };
    HostConfig {
        environment: "production".parse().unwrap(),
        config_files: destinations.iter().map(file).collect(),
        vars: format!("{{\"text\": \"{text}\"}}"),
        checks: Vec::new(),
        groups: Vec::new(),
        services: Services {
            units: Vec::new(),
            port: None,
            port_timeout_millis: number(1000),
            skips_unknown: false,
            secondary_signal_file: host_path(Path::new("/etc/scap.secondary")),
        },
        nrpe_directory: host_path(Path::new("/etc/nagios/nrpe.d")),
        cache_revs: number(2),
        extensions: Default::default(),
    }
}

fn config_of(world: &World, asked: &HostConfig) -> SnapshotRef {
    let mut files = tree([("templates/template.j2", file("{{ text }}\n"))]);
    files.insert(
        HostConfig::FILE.into(),
        Thing::File(asked.encode().unwrap().to_vec()),
    );
    world.chunks.snapshot(&files)
}

pub(super) fn asking(target: Target, config: SnapshotRef) -> Target {
    Target {
        config: Some(config),
        ..target
    }
}

pub(super) fn elsewhere(world: &World) -> (PathBuf, Destination) {
    let folder = world.root().join("etc");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("app.yaml");
    let destination = Destination::OnHost(host_path(&path));
    (path, destination)
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn config_files_go_live_and_back_with_the_tree_and_are_told_from_it() {
    let (world, host) = (World::new(), Host::new());
    let stages = host.stages(&world);
    let (path, destination) = elsewhere(&world);
    let in_tree = Destination::InRelease(RelPath::new("README").unwrap());
    let destinations = [destination, in_tree];
    let mut deployment = world.open();
    let target = |sequence, text: &str| {
        asking(
            world.target(sequence, &small_tree()),
            config(&world, text, &destinations),
        )
    };
    let one = target(1, "one");
    stages.promote(&mut deployment, &one).unwrap();
    assert_eq!(
        (read(&path), read(world.live().join("README"))),
        ("one".into(), "one".into())
    );
    stages.finalize(&mut deployment, &one.release).unwrap();
    assert_eq!(deployment.verify(&world.chunks).unwrap(), []);

    // The same tree with other config is another directory.
    let two = target(2, "two");
    stages.fetch(&mut deployment, &two).unwrap();
    assert_eq!(read(&path), "one", "nothing is switched by that");
    assert_eq!(world.revs().len(), 2);
    stages.promote(&mut deployment, &two).unwrap();
    assert_eq!(
        (read(&path), read(world.live().join("README"))),
        ("two".into(), "two".into())
    );
    assert_eq!(deployment.verify(&world.chunks).unwrap(), []);
    stages.revert(&mut deployment, &two.release).unwrap();
    assert_eq!(
        (read(&path), read(world.live().join("README"))),
        ("one".into(), "one".into())
    );

    // What somebody wrote into one is found, and made anew before the tree goes live again.
    stages.promote(&mut deployment, &two).unwrap();
    let first = world
        .path("app-cache/revs")
        .join(one.commit.as_ref().unwrap().to_string());
    fs::write(first.join("README"), "scribble\n").unwrap();
    fs::write(world.live().join("README"), "scribble\n").unwrap();
    let found = deployment.verify(&world.chunks).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (&*found[0].path, found[0].what),
        (&b"README"[..], What::Content)
    );
    stages.revert(&mut deployment, &two.release).unwrap();
    assert_eq!(read(world.live().join("README")), "one");
}

#[test]
fn what_is_live_gets_other_config_files_where_it_is_promoted_again_and_not_by_fetching() {
    let (world, host) = (World::new(), Host::new());
    let stages = host.stages(&world);
    let (path, destination) = elsewhere(&world);
    let vars = world.root().join("vars.yaml");
    fs::write(&vars, "text: one\n").unwrap();
    let config = config_with(&world, "none", &[destination], Some(&vars));
    let target = asking(world.target(1, &small_tree()), config);
    let mut deployment = world.open();
    stages.promote(&mut deployment, &target).unwrap();
    stages.finalize(&mut deployment, &target.release).unwrap();
    assert_eq!(read(&path), "one");
    fs::write(&vars, "text: two\n").unwrap();
    stages.fetch(&mut deployment, &target).unwrap();
    assert_eq!(read(&path), "one");
    stages.promote(&mut deployment, &target).unwrap();
    assert_eq!(read(&path), "two");
}

#[test]
fn what_is_owed_is_still_owed_after_a_switch_that_failed() {
    let (world, host) = (World::new(), Host::new());
    let mut deployment = world.open();
    let target = world.target(1, &small_tree());
    let stages = host.stages(&world);
    stages.promote(&mut deployment, &target).unwrap();
    let to = |live, after| Owed { live, after };
    let rev = deployment.live().unwrap().rev.clone();
    let owed = to(Some(rev), After::Promote);
    deployment.owe(&owed).unwrap();
    let back = to(None, After::Revert { from: None });
    let failed = |target: Target| Err::<(), _>(ActivateError::NotPrepared(target.release));
    let switched = deployment.switch_owing(Some(&back), |_| failed(target));
    assert!(switched.is_err());
    assert_eq!(deployment.owed().unwrap(), Some(owed));
    deployment.switch_owing(None, |_| Ok(())).unwrap();
    assert!(deployment.owed().unwrap().is_some());
}

#[test]
fn a_check_is_told_of_until_it_is_over() {
    let (world, host) = (World::new(), Host::new());
    let mut deployment = world.open();
    let check = |name: &str, moment| Check {
        name: name.to_owned(),
        command: Command::Shell("true".to_owned()),
        moment,
        stage: HostStage::Promote,
        group: None,
        timeout_millis: NonZeroU32::new(60_000).unwrap(),
    };
    let config = HostConfig {
        checks: vec![
            check("depool", Moment::Before),
            check("idle", Moment::Before),
            check("pool", Moment::After),
        ],
        ..asked("", &[], None)
    };
    let target = asking(world.target(1, &small_tree()), config_of(&world, &config));
    let told = RefCell::new(Vec::new());
    let begins = |step: Option<Step>| told.borrow_mut().push(step.map(|step| step.name));
    let stages = Stages {
        begins: &begins,
        ..host.stages(&world)
    };
    stages.promote(&mut deployment, &target).unwrap();
    let told: Vec<_> = told.take();
    let told: Vec<_> = told.iter().map(Option::as_deref).collect();
    assert_eq!(
        told,
        [Some("depool"), Some("idle"), None, Some("pool"), None]
    );
}

#[test]
fn a_switch_that_was_begun_and_not_made_owes_its_checks_to_what_is_live() {
    let (world, host) = (World::new(), Host::new());
    let mut deployment = world.open();
    deployment.owe_attempt().unwrap();
    assert_eq!(deployment.owed().unwrap(), None, "nothing is live");
    let target = world.target(1, &small_tree());
    let next = world.target(2, &small_tree()).release;
    let stages = host.stages(&world);
    stages.promote(&mut deployment, &target).unwrap();
    let live = Some(deployment.live().unwrap().rev.clone());
    let to = |live: &_, after| Owed {
        live: Option::clone(live),
        after,
    };
    let attempt = to(&live, After::Attempt);
    deployment.owe_attempt().unwrap();
    assert_eq!(deployment.owed().unwrap(), Some(attempt.clone()));
    // A crash right before the switch to another one.
    deployment.owe(&to(&None, After::Promote)).unwrap();
    assert_eq!(deployment.owed().unwrap(), Some(attempt));
    stages.revert(&mut deployment, &next).unwrap();
    assert_eq!(deployment.owed().unwrap(), None);
    // What is more than that stays owed.
    let promote = to(&live, After::Promote);
    deployment.owe(&promote).unwrap();
    deployment.owe_attempt().unwrap();
    assert_eq!(deployment.owed().unwrap(), Some(promote));
}

#[test]
fn a_first_release_that_is_gone_back_from_leaves_the_place_as_it_was() {
    let (world, host) = (World::new(), Host::new());
    let stages = host.stages(&world);
    let (path, destination) = elsewhere(&world);
    fs::write(&path, "before\n").unwrap();
    let target = asking(
        world.target(1, &small_tree()),
        config(&world, "one", &[destination]),
    );
    let mut deployment = world.open();
    stages.fetch(&mut deployment, &target).unwrap();
    assert_eq!(read(&path), "before\n");
    stages.promote(&mut deployment, &target).unwrap();
    assert_eq!(read(&path), "one");
    let aside = path.with_file_name("app.yaml.replaced-1");
    assert_eq!(read(&aside), "before\n");
    stages.revert(&mut deployment, &target.release).unwrap();
    assert_eq!(read(&path), "before\n");
    assert!(!path.is_symlink() && !aside.exists() && !world.live().exists());
}

#[test]
fn links_are_put_right_wherever_it_was_interrupted() {
    let world = World::new();
    let (path, _) = elsewhere(&world);
    let wanted = BTreeSet::from([host_path(&path)]);
    let target = world
        .live()
        .join(format!(".git/config-files{}", path.display()));
    let aside = path.with_file_name("app.yaml.replaced-1");
    let is_ours = || fs::read_link(&path).is_ok_and(|link| link == target);

    // Made before the switch, which never came.
    let deployment = world.open();
    deployment.prepare_links(&wanted).unwrap();
    assert!(is_ours());
    deployment.settle_links(&BTreeSet::new()).unwrap();
    assert!(!path.is_symlink());

    // Stopped between the link beside what stands there and the exchange, on the way to it and back.
    for is_wanted in [true, false] {
        fs::write(&path, "before\n").unwrap();
        deployment.prepare_links(&wanted).unwrap();
        deployment.settle_links(&wanted).unwrap();
        assert!(is_ours() && read(&aside) == "before\n");
        fs::remove_file(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
        symlink(&target, &aside).unwrap();
        if is_wanted {
            deployment.settle_links(&wanted).unwrap();
            assert!(is_ours() && read(&aside) == "before\n");
        }
        deployment.settle_links(&BTreeSet::new()).unwrap();
        assert_eq!(read(&path), "before\n");
        assert!(!path.is_symlink() && !aside.is_symlink() && !aside.exists());
        fs::remove_file(&path).unwrap();
    }

    // A directory is nobody's to move.
    fs::create_dir(&path).unwrap();
    let refused = deployment.prepare_links(&wanted).unwrap_err();
    assert!(
        matches!(refused, ActivateError::FolderInPlace(_)),
        "{refused}"
    );
    // With the folder the link is gone.
    fs::remove_dir(&path).unwrap();
    deployment.prepare_links(&wanted).unwrap();
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
    deployment.settle_links(&BTreeSet::new()).unwrap();
}

#[test]
fn what_no_kept_release_asked_is_removed() {
    let (world, host) = (World::new(), Host::new());
    let stages = host.stages(&world);
    let in_tree = [Destination::InRelease(RelPath::new("conf/app").unwrap())];
    let mut deployment = world.open();
    for number in 1..=5 {
        let text = format!("config {number}");
        let target = asking(
            world.target(number, &small_tree()),
            config(&world, &text, &in_tree),
        );
        stages.promote(&mut deployment, &target).unwrap();
        stages.finalize(&mut deployment, &target.release).unwrap();
        assert_eq!(read(world.live().join("conf/app")), text);
    }
    // `cache_revs` is 2.
    for folder in ["revs", ".scap/configs", ".scap/asked"] {
        let names = fs::read_dir(world.path("app-cache").join(folder)).unwrap();
        assert_eq!(names.count(), 2, "{folder}");
    }
}
