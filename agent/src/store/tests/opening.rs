//! Who may open a directory as a store.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn refusal(directory: &Path) -> String {
    Store::open(directory, CONFIG).unwrap_err().to_string()
}

#[test]
fn a_store_has_one_opener_at_a_time_and_is_free_when_its_last_clone_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let clone = store.clone();
    drop(store);
    assert!(matches!(
        Store::open(directory.path(), CONFIG),
        Err(StoreError::InUse { .. })
    ));
    assert!(refusal(directory.path()).contains("in use by another process"));
    drop(clone);
    open(directory.path());
}

#[test]
fn a_store_is_made_for_its_owner_alone() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("data/store");
    open(&directory);
    let mode = fs::metadata(&directory).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_directory_that_others_can_write_is_refused_with_the_way_out() {
    for name in ["store", "store/chunks", "store/tmp"] {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("store");
        open(&directory);
        let path = parent.path().join(name);
        for mode in [0o777, 0o720, 0o702] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let refusal = refusal(&directory);
            assert!(refusal.contains(&format!("(mode {mode:o})")), "{refusal}");
            assert!(
                refusal.contains(&format!("chmod go-w {}", path.display())),
                "{refusal}"
            );
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
        open(&directory);
    }
}

#[test]
fn a_directory_of_another_user_is_refused_with_the_way_out() {
    let directory = tempfile::tempdir().unwrap();
    // Root can give a directory away; everybody else finds one of root's.
    let path = if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(directory.path(), Some(12_345), None).unwrap();
        directory.path()
    } else {
        Path::new("/usr")
    };
    let refusal = refusal(path);
    assert!(refusal.contains("belongs to user"), "{refusal}");
    assert!(refusal.contains("chown -R"), "{refusal}");
}

#[test]
fn a_directory_with_something_else_in_it_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("thesis.tex"), "mine").unwrap();
    assert!(refusal(directory.path()).contains("not a chunk store"));
    assert!(!directory.path().join("chunks").exists());
}

#[test]
fn a_store_of_another_version_is_refused_by_name_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    store.put(&CHUNKS[0]).unwrap();
    drop(store);
    for version in ["scap store 2\n", "scap store 0\n", "", "\u{1b}[31m\u{fffd}"] {
        fs::write(directory.path().join("version"), version).unwrap();
        let refusal = refusal(directory.path());
        let shown = version.trim_end().escape_debug();
        assert!(refusal.contains(&format!("says `{shown}`")), "{refusal}");
        assert!(StoreReader::open(directory.path()).is_err());
    }
    fs::remove_file(directory.path().join("version")).unwrap();
    assert!(refusal(directory.path()).contains("not a chunk store"));
    fs::write(directory.path().join("version"), "scap store 1\n").unwrap();
    let (store, recovery) = open(directory.path());
    assert_eq!(recovery.verified_chunks, 1);
    assert!(holds(&store, &CHUNKS[0]));
}

#[test]
fn a_crash_while_the_store_is_made_does_not_stop_the_next_opening() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("lock"), "").unwrap();
    fs::write(directory.path().join(".version.tmp"), "scap").unwrap();
    open(directory.path());
}

#[test]
fn half_written_files_are_removed_and_strange_ones_left() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()));
    fs::write(directory.path().join("tmp/0"), "half").unwrap();
    fs::write(directory.path().join("chunks/ab/README"), "?").unwrap();
    let (store, recovery) = open(directory.path());
    assert_eq!(recovery.temporary_files, 1);
    assert_eq!(store.usage().unwrap().chunks, 0);
    drop(store);
    assert!(open(directory.path()).1.is_clean());
    assert!(directory.path().join("chunks/ab/README").exists());
}
