//! Memory that a virtual machine's host has given already.
//!
//! A guest's free memory may not be there: a host takes back what is free (free page reporting, balloons), and gives it
//! page by page at first touch, several times slower than memory is written. A benchmark that fills gigabytes then
//! measures the hypervisor. What is taken back is whole free blocks of 2 MiB, so one page held in each keeps the rest of
//! it here, free for whoever needs it.

use std::{
    fs::File,
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

/// Free memory that stays the machine's own until this is dropped.
pub struct WarmMemory {
    dir: TempDir,
    bytes: u64,
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
        let warm = Self { dir, bytes };
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
        super::mounts::unmount_beneath(self.dir.path());
    }
}

fn available_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
