use super::*;

fn held(files: &[(&str, &[u8])]) -> HeldFiles {
    let file = |(path, bytes): &(&str, &[u8])| {
        let held = HeldFile {
            bytes: Bytes::copy_from_slice(bytes),
            is_executable: path.ends_with(".sh"),
        };
        (RelPath::new((*path).to_owned()).unwrap(), held)
    };
    files.iter().map(file).collect()
}

/// Some of each length that there is a form for, and many.
fn sample() -> HeldFiles {
    let large: Vec<u8> = (0..3 * LARGE_FILE_BYTES as u64)
        .map(|n| (n * n % 251) as u8)
        .collect();
    let mut files = held(&[
        ("a/b", b"b"),
        ("a-b", b"before a/b by its bytes"),
        ("empty", b""),
        ("large", &large),
        ("run.sh", b"#!/bin/sh\n"),
    ]);
    for number in 0..500 {
        files.extend(held(&[(&format!("many/{number}"), &[7; 400])]));
    }
    files
}

#[test]
fn files_in_memory_make_the_snapshot_that_a_directory_of_them_makes() {
    let (files, folder) = (sample(), TempDir::new().unwrap());
    for (path, file) in &files {
        let path = folder.path().join(path.as_path());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &file.bytes).unwrap();
        let mode = if file.is_executable { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let sink = MemorySink::default();
    let built = build_quietly(Source::Files(&files), &sink).unwrap();
    let of_directory = build_quietly(Source::Directory(folder.path()), &sink).unwrap();
    assert_eq!(built.snapshot, of_directory.snapshot);
    assert_eq!(of_directory.new.chunks, 0);
}

#[test]
fn files_are_read_back_as_they_were_and_nothing_else_is() {
    let (files, sink) = (sample(), MemorySink::default());
    let built = build_quietly(Source::Files(&files), &sink).unwrap();
    let bytes = built.descriptor.totals.bytes;
    let read = |bytes_max| read_files(built.snapshot, &sink, bytes_max);
    assert!(read(bytes).unwrap() == files);
    assert!(read(bytes - 1).is_err());

    let folder = TempDir::new().unwrap();
    symlink("a", folder.path().join("b")).unwrap();
    let of_link = build_quietly(Source::Directory(folder.path()), &sink).unwrap();
    let error = read_files(of_link.snapshot, &sink, bytes).unwrap_err();
    let error = scap_agent::error_chain(&error);
    assert!(
        error.ends_with("whose content is what its entry says"),
        "{error}"
    );

    let last = built.layout.refs().last().unwrap().id;
    sink.chunks.lock().unwrap().remove(&last);
    let error = scap_agent::error_chain(&read(bytes).unwrap_err());
    assert!(
        error.contains(&format!("chunk {last} is not in the store")),
        "{error}"
    );
}
