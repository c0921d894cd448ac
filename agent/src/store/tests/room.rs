//! A full disk.

use std::process::Command;

use super::*;

/// A file system of its own, unmounted at the end.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    /// `None`: this user cannot mount one, which is said.
    fn mount(options: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(directory.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(directory)),
            _ => {
                println!("skipped: a full disk, because mounting a tmpfs needs root");
                None
            }
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.0.path()).status();
        assert!(
            unmounted.is_ok_and(|status| status.success()),
            "a tmpfs stays mounted"
        );
    }
}

/// Puts chunks from `n` on until there is no room, and returns the first that found none.
fn fill(store: &Store, mut n: u32) -> (u32, StoreError) {
    loop {
        match store.put(&chunk(n)) {
            Ok(_) => n += 1,
            Err(error) => return (n, error),
        }
    }
}

/// Takes what is left, so that nothing grows by a page.
fn take_the_rest(tmpfs: &Tmpfs) {
    fs::write(tmpfs.0.path().join("other"), vec![0; 4 << 20]).unwrap_err();
}

#[test]
fn a_full_disk_is_told_with_its_numbers_and_ends_with_a_collection() {
    let Some(tmpfs) = Tmpfs::mount("size=2m,mode=700") else {
        return;
    };
    let (store, _) = open(tmpfs.0.path());
    // Records that fill the index's first page to the byte: one more needs another page.
    (0..85).for_each(|n| assert_eq!(store.put(&chunk(n)).unwrap(), Put::New));
    store.sync().unwrap();
    let index = tmpfs.0.path().join("index");
    assert_eq!(fs::metadata(&index).unwrap().len(), 4096);

    let (full, error) = fill(&store, 85);
    let StoreError::Full {
        needed, available, ..
    } = error
    else {
        panic!("{error:?}")
    };
    assert!(available < needed && needed == 24 + chunk(full).bytes().len() as u64);
    take_the_rest(&tmpfs);
    for _ in 0..2 {
        assert!(store.sync().unwrap_err().is_full());
    }
    assert!((0..full).all(|n| holds(&store, &chunk(n))));

    // Collecting what is durable would have to note that, and makes room all the same.
    let collection = store.begin_collection();
    (20..full).for_each(|n| collection.keep(&chunk(n).id()));
    assert_eq!(collection.sweep().unwrap().chunks, 20);
    store.sync().unwrap();
    assert_eq!(store.put(&chunk(full)).unwrap(), Put::New);
    store.sync().unwrap();
    drop(store);
    let (store, recovery) = open(tmpfs.0.path());
    // Only what went before there was room again could not be noted.
    assert!((1..20).contains(&recovery.missing_chunks), "{recovery:?}");
    assert_eq!(recovery.verified_chunks, 0);
    assert!((20..=full).all(|n| holds(&store, &chunk(n))));
}

#[test]
fn a_damaged_index_on_a_full_disk_does_not_keep_the_store_closed() {
    let Some(tmpfs) = Tmpfs::mount("size=2m,mode=700") else {
        return;
    };
    let (store, _) = open(tmpfs.0.path());
    (0..10).for_each(|n| assert_eq!(store.put(&chunk(n)).unwrap(), Put::New));
    store.sync().unwrap();
    drop(store);
    take_the_rest(&tmpfs);
    let index = fs::OpenOptions::new()
        .write(true)
        .open(tmpfs.0.path().join("index"))
        .unwrap();
    std::os::unix::fs::FileExt::write_all_at(&index, b"damage", 100).unwrap();
    drop(index);
    let (store, recovery) = open(tmpfs.0.path());
    assert_eq!((recovery.durable_chunks, recovery.verified_chunks), (9, 1));
    assert!((0..10).all(|n| holds(&store, &chunk(n))));
    assert_eq!(store.begin_collection().sweep().unwrap().chunks, 10);
}

#[test]
fn a_file_system_without_room_for_more_files_is_full() {
    let Some(tmpfs) = Tmpfs::mount("size=8m,nr_inodes=300,mode=700") else {
        return;
    };
    let (store, _) = open(tmpfs.0.path());
    let (full, error) = fill(&store, 0);
    assert!(error.is_full(), "{error:?}");
    assert!(
        error
            .to_string()
            .ends_with("so it is a quota, or the number of files"),
        "{error}"
    );
    assert!((0..full).all(|n| holds(&store, &chunk(n))));
    store.begin_collection().sweep().unwrap();
    store.put(&chunk(full)).unwrap();
}

#[test]
fn a_put_leaves_the_reserve_free() {
    let directory = tempfile::tempdir().unwrap();
    let config = StoreConfig {
        free_bytes_min: u64::MAX,
    };
    let (store, _) = Store::open(directory.path(), config).unwrap();
    assert_eq!(store.usage().unwrap().free_bytes, 0);
    let error = store.put(&CHUNKS[0]).unwrap_err();
    assert!(
        matches!(error, StoreError::Full { available: 0, .. }),
        "{error:?}"
    );
    assert_eq!(
        fs::read_dir(directory.path().join("tmp")).unwrap().count(),
        0
    );
    assert!(!store.contains(&CHUNKS[0].id()));
}
