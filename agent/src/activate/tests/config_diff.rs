//! What config files would change, told without changing anything.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use scap_proto::{
    content::RelPath,
    release::{
        ConfigQuestion, UnixMillis,
        host_config::{ConfigFile, Destination, OutputFormat},
    },
    wire::config::{ConfigAnswer, ConfigChanges, FileChange, FileStatus},
};

use super::{
    stages::{Host, asking, config_with, elsewhere, host_path},
    world::*,
};
use crate::activate::config_diff;

/// A question with these files, each from a template that is the text after it.
fn question(files: &[(&Destination, &str)], vars: Option<&Path>) -> ConfigQuestion {
    let named = |at: usize| RelPath::new(format!("{at}.j2")).unwrap();
    let file = |(at, (destination, _)): (usize, &(&Destination, &str))| ConfigFile {
        destination: (*destination).clone(),
        template: named(at),
        remote_vars: vars.map(host_path),
        format: OutputFormat::Python,
        has_erb_syntax: false,
    };
    let templates = files.iter().enumerate();
    let templates =
        templates.map(|(at, (_, text))| (named(at), Bytes::copy_from_slice(text.as_bytes())));
    ConfigQuestion {
        repo: World::repo(),
        environment: "production".parse().unwrap(),
        audience: Default::default(),
        asker: [0; 32],
        hosts: Vec::new(),
        expires: UnixMillis(0),
        files: files.iter().enumerate().map(file).collect(),
        vars: "{\"text\": \"released\"}".into(),
        templates: templates.collect(),
        extensions: Default::default(),
    }
}

/// The answer, for which nothing beneath the world was touched.
#[track_caller]
fn answer(world: &World, question: ConfigQuestion) -> ConfigAnswer {
    let before = all(world.root());
    let answer = config_diff::answer(world.root(), question);
    assert_eq!(before, all(world.root()), "something was written");
    answer
}

#[track_caller]
fn changes(world: &World, files: &[(&Destination, &str)], vars: Option<&Path>) -> ConfigChanges {
    match answer(world, question(files, vars)) {
        ConfigAnswer::Changes(changes) => changes,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn one(world: &World, files: &[(&Destination, &str)], vars: Option<&Path>) -> FileChange {
    let changes = changes(world, files, vars);
    let [file] = changes.files.try_into().unwrap();
    file
}

/// Everything beneath a directory, with when it was changed last.
fn all(top: &Path) -> Vec<(PathBuf, i64, i64)> {
    let status = fs::symlink_metadata(top).unwrap();
    let mut found = vec![(top.to_owned(), status.ctime(), status.ctime_nsec())];
    if status.is_dir() {
        let below = fs::read_dir(top).unwrap();
        found.extend(below.flat_map(|entry| all(&entry.unwrap().path())));
    }
    found.sort();
    found
}

fn in_tree(path: &str) -> Destination {
    Destination::InRelease(RelPath::new(path.to_owned()).unwrap())
}

#[test]
fn what_is_told_is_what_a_release_then_does() {
    let (world, host) = (World::new(), Host::new());
    let (path, on_host) = elsewhere(&world);
    let (readme, more) = (in_tree("README"), in_tree("conf/more"));
    let vars = world.root().join("vars.yaml");
    fs::write(&vars, "text: ours\n").unwrap();
    let files = [
        (&on_host, "{{ text }}\n"),
        (&readme, "{{ text }}\n"),
        (&more, "{{ text }}\n"),
    ];
    // Nothing was ever deployed, not even a folder is there.
    let first = changes(&world, &files, Some(&vars));
    assert_eq!(first.live, None);
    let all_new = first.files.iter().map(|it| (it.status, it.diff.as_deref()));
    let added = "@@ -0,0 +1 @@\n+ours\n\\ No newline at end of file\n";
    assert_eq!(
        all_new.collect::<Vec<_>>(),
        [(FileStatus::New, Some(added)); 3]
    );

    let destinations = [on_host.clone(), readme.clone(), more.clone()];
    let config = config_with(&world, "released", &destinations, Some(&vars));
    let target = asking(world.target(1, &small_tree()), config);
    let mut deployment = world.open();
    host.stages(&world)
        .promote(&mut deployment, &target)
        .unwrap();
    // While it is open, as while an order is followed, others may look.
    let same = changes(&world, &files, Some(&vars));
    assert_eq!(same.live, Some((target.release, 1)));
    let statuses: Vec<_> = same.files.iter().map(|it| (it.status, &it.note)).collect();
    assert_eq!(statuses, [(FileStatus::Unchanged, &None); 3]);

    fs::write(&vars, "text: other\n").unwrap();
    let now = changes(&world, &files[..2], Some(&vars));
    let found: Vec<_> = now
        .files
        .iter()
        .map(|it| (&it.destination, it.status))
        .collect();
    let (changed, removed) = (FileStatus::Changed, FileStatus::Removed);
    assert_eq!(
        found,
        [(&on_host, changed), (&readme, changed), (&more, removed)]
    );
    assert!(now.files[0].diff.as_ref().unwrap().contains("-ours\n"));
    assert!(now.files[0].diff.as_ref().unwrap().contains("+other\n"));
    assert_eq!(fs::read_to_string(&path).unwrap(), "ours");
}

#[test]
fn what_stands_in_the_place_of_a_file_is_told_as_it_would_be_replaced() {
    let world = World::new();
    let (path, on_host) = elsewhere(&world);
    let files = [(&on_host, "text\n")];
    fs::write(&path, "text").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let file = one(&world, &files, None);
    assert_eq!(
        (file.status, file.diff.as_deref()),
        (FileStatus::Changed, Some(""))
    );
    let (before, after) = file.attributes.unwrap();
    assert_eq!((before.mode, after.mode), (0o600, 0o644));
    assert!(file.note.unwrap().contains("is moved aside"));

    // Another tool's link to its own config file.
    let target = world.root().join("theirs");
    fs::rename(&path, &target).unwrap();
    fs::write(&target, "theirs").unwrap();
    symlink(&target, &path).unwrap();
    let file = one(&world, &files, None);
    assert!(file.diff.unwrap().contains("-theirs\n"));
    let note = file.note.unwrap();
    assert!(
        note.starts_with(&format!("a link to {} stands there", target.display())),
        "{note}"
    );
    fs::remove_file(&target).unwrap();
    assert!(
        one(&world, &files, None)
            .note
            .unwrap()
            .ends_with("it leads nowhere")
    );

    // What may never end is not read, what is no text is not shown.
    fs::remove_file(&path).unwrap();
    symlink("/dev/zero", &path).unwrap();
    let file = one(&world, &files, None);
    assert_eq!((file.status, &file.diff), (FileStatus::Changed, &None));
    assert!(file.note.unwrap().ends_with("it is no file"));
    fs::remove_file(&path).unwrap();
    fs::write(&path, [0xff]).unwrap();
    let file = one(&world, &files, None);
    assert!(file.note.unwrap().ends_with("what is there is no UTF-8"));

    // As a release would fail.
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let file = one(&world, &files, None);
    assert_eq!(file.status, FileStatus::Error);
    assert!(
        file.note
            .unwrap()
            .starts_with("a directory stands in the place of")
    );
    let nowhere = Destination::OnHost(host_path(&world.root().join("none/app.yaml")));
    let file = one(&world, &[(&nowhere, "x")], None);
    assert_eq!(file.status, FileStatus::Error);
    assert!(
        file.note
            .unwrap()
            .contains("which the release does not make")
    );
}

#[test]
fn a_file_that_cannot_be_rendered_or_takes_forever_stops_no_other() {
    let world = World::new();
    let names = ["a", "b", "c", "d"].map(in_tree);
    let endless =
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}";
    let files = [
        (&names[0], "{{ text.x.y }}"),
        (&names[1], endless),
        (&names[2], "{{ text }}"),
        (&names[3], "{% include '../../etc/passwd' %}"),
    ];
    let found = changes(&world, &files, None).files;
    let statuses = found.iter().map(|it| it.status).collect::<Vec<_>>();
    let error = FileStatus::Error;
    assert_eq!(statuses, [error, error, FileStatus::New, error]);
    let notes = found
        .iter()
        .map(|it| it.note.as_deref().unwrap_or_default());
    let notes: Vec<&str> = notes.collect();
    assert!(
        notes[0].contains("templates/0.j2:1: undefined value"),
        "{notes:?}"
    );
    assert!(
        notes[1].contains("steps, as in a loop without end"),
        "{notes:?}"
    );
    assert!(notes[3].contains("templates/3.j2:1: "), "{notes:?}");
    let missing = world.root().join("vars.yaml");
    let file = one(&world, &[(&names[0], "x")], Some(&missing));
    assert!(
        file.note
            .unwrap()
            .contains("read the variables of this host")
    );
}

#[test]
fn where_it_is_not_known_what_is_live_nothing_is_compared() {
    let (world, host) = (World::new(), Host::new());
    let target = world.target(1, &small_tree());
    let mut deployment = world.open();
    host.stages(&world)
        .promote(&mut deployment, &target)
        .unwrap();
    drop(deployment);
    let a = in_tree("a");
    fs::remove_file(world.live()).unwrap();
    symlink("app-cache/revs/other", world.live()).unwrap();
    let ConfigAnswer::Failed(reason) = answer(&world, question(&[(&a, "x")], None)) else {
        panic!("it is not known what is live");
    };
    assert!(reason.contains("is being switched"), "{reason}");
}

#[test]
fn an_answer_is_bounded_and_says_what_is_left_out() {
    let world = World::new();
    let long = "{% for i in range(20000) %}line {{ i }}\n{% endfor %}";
    let names: Vec<Destination> = (0..12).map(|at| in_tree(&format!("{at:02}"))).collect();
    let files: Vec<_> = names.iter().map(|name| (name, long)).collect();
    let found = changes(&world, &files, None);
    let bytes = found.files.iter().map(|it| it.diff.as_ref().unwrap().len());
    let bytes: Vec<usize> = bytes.collect();
    assert!(bytes.iter().all(|bytes| *bytes <= 64 * 1024), "{bytes:?}");
    assert!(bytes.iter().sum::<usize>() <= 512 * 1024, "{bytes:?}");
    let first = &found.files[0];
    let shown = first.diff.as_ref().unwrap().lines().count();
    // A line for the hunk, and those of the file.
    assert_eq!(shown + first.diff_lines_left_out as usize, 20_001);
    let names: Vec<Destination> = (0..2000)
        .map(|at| in_tree(&format!("{at:0>250}")))
        .collect();
    let files: Vec<_> = names.iter().map(|name| (name, "")).collect();
    let found = changes(&world, &files, None);
    assert!(found.files_left_out > 0);
    assert_eq!(found.files.len() + found.files_left_out as usize, 2000);
}
