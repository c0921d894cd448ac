//! How often a host's live tree was switched, by the kernel's count and nobody's word.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use rustix::io::Errno;

/// Counts what is renamed to one name in a folder: that is how a release is switched to.
pub struct Flips {
    watch: OwnedFd,
    name: String,
}

impl Flips {
    /// From now on, of the final path of a repo that was deployed before.
    pub fn of(live: &Path) -> Self {
        let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        let name = live.file_name().unwrap().to_str().unwrap().to_owned();
        let (folder, own) = (live.parent().unwrap(), format!("{name}-cache/.scap"));
        // Where the new link comes from is watched too: of two equal events, one after the other, the kernel keeps one.
        inotify::add_watch(&watch, folder.join(own), WatchFlags::MOVED_FROM).unwrap();
        inotify::add_watch(&watch, folder, WatchFlags::MOVED_TO).unwrap();
        Self { watch, name }
    }

    /// How many there were since it was asked last.
    pub fn take(&self) -> usize {
        // An event with the longest name takes 16 bytes and 256 of name.
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(&self.watch, &mut buffer);
        let mut count = 0;
        loop {
            match events.next() {
                Ok(event) => {
                    let name = event.file_name().map(|it| it.to_bytes());
                    count += usize::from(name == Some(self.name.as_bytes()));
                }
                Err(Errno::WOULDBLOCK) => return count,
                Err(error) => panic!("read the events of {}: {error}", self.name),
            }
        }
    }
}
