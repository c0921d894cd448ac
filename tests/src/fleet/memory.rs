//! Memory that a virtual machine's host has given already.
//!
//! A guest's free memory may not be there: a host takes back what is free (free page reporting, balloons), and gives it
//! page by page at first touch, several times slower than memory is written. A benchmark that fills gigabytes then
//! measures the hypervisor. What is taken back is whole free blocks of 2 MiB, so one page held in each keeps the rest of
//! it here, free for whoever needs it.
//!
//! To the kernel that is memory as fragmented as can be, and it would spend a twelfth of two cores on moving those pages
//! together again, beside what is measured. So it is told not to compact memory that nobody asked for in one piece.

use std::{
    fs::{self, File},
    io::{self, Write},
};

use rustix::{
    fs::{FallocateFlags, fallocate},
    param::page_size,
};
use tempfile::TempDir;

/// The unit in which a host takes memory back: a huge page.
const BLOCK_BYTES: u64 = 2 * 1024 * 1024;

/// Left alone, for whatever else runs.
const RESERVE_BYTES: u64 = 1024 * 1024 * 1024;

/// How eagerly the kernel compacts free memory on its own, from 0 to 100.
const PROACTIVENESS: &str = "/proc/sys/vm/compaction_proactiveness";

/// Free memory that stays the machine's own until this is dropped.
pub struct WarmMemory {
    dir: TempDir,
    bytes: u64,
    /// As it was found, where the kernel has it.
    proactiveness: Option<String>,
}

impl WarmMemory {
    /// Touches `bytes` of free memory, or as much as there is, and frees all but a page of each 2 MiB. Takes seconds per
    /// GiB where the host has to give it.
    ///
    /// # Panics
    /// Without the privilege to mount, and where memory is short.
    #[must_use]
    pub fn hold(bytes: u64) -> Self {
        let bytes = bytes.min(available_bytes().saturating_sub(RESERVE_BYTES));
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        super::mounts::mount_tmpfs_with(dir.path(), &format!("size={bytes},huge=always"));
        let warm = Self {
            dir,
            bytes,
            proactiveness: fs::read_to_string(PROACTIVENESS).ok(),
        };
        if warm.proactiveness.is_some() {
            fs::write(PROACTIVENESS, "0").expect("root may tell the kernel not to compact");
        }
        warm.touch(bytes / BLOCK_BYTES)
            .expect("fill and empty a file in memory");
        warm
    }

    /// How much it is.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn touch(&self, blocks: u64) -> io::Result<()> {
        let mut file = File::create(self.dir.path().join("held"))?;
        let block = vec![1; usize::try_from(BLOCK_BYTES).expect("2 MiB")];
        for _ in 0..blocks {
            file.write_all(&block)?;
        }
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let page = page_size() as u64;
        for block in 0..blocks {
            fallocate(&file, hole, block * BLOCK_BYTES + page, BLOCK_BYTES - page)?;
        }
        Ok(())
    }
}

impl Drop for WarmMemory {
    fn drop(&mut self) {
        if let Some(found) = &self.proactiveness {
            // The machine is as before but for this, and a panic may be under way.
            let _ = fs::write(PROACTIVENESS, found);
        }
        super::mounts::unmount_beneath(self.dir.path());
    }
}

fn available_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
