//! Config files elsewhere on the host: links that lead through the final path to the files in what is live, so that the
//! switch of that path switches them too.
//!
//! A record says which links are ours and what each took the place of. It is written before anything is done, and what is to be
//! done follows from it and from what is live: so doing it again is doing it after a crash.

use std::{
    collections::BTreeSet,
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use rustix::fs::FileType;
use scap_proto::{
    place,
    release::{
        HostConfig,
        host_config::{Destination, HostPath},
    },
};
use serde::{Deserialize, Serialize};

use super::{
    deployment::Deployment,
    dir::{Dir, kind},
    error::{ActivateError, Doing},
    record::{self, Found, Record},
};

/// Where rendered files for elsewhere are in a release's tree, as with scap3. No snapshot has a path in it.
pub(super) const CONFIG_FILES: &str = ".git/config-files";

/// The links that are ours.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Links(Vec<Link>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Link {
    destination: HostPath,
    /// The name beside it of what it took the place of.
    aside: Option<String>,
}

impl Record for Links {
    const MAGIC: &'static [u8] = b"scap-links/1\n";
}

const LINKS: &str = "links";

/// The destinations elsewhere on the host that a release has files for.
pub(super) fn destinations(config: &HostConfig) -> BTreeSet<HostPath> {
    let files = config.config_files.iter();
    let destinations = files.filter_map(|file| match &file.destination {
        Destination::OnHost(path) => Some(path.clone()),
        Destination::InRelease(_) => None,
    });
    destinations.collect()
}

impl Deployment {
    /// Looks whether the links of a release can be made: their folders are there, and no folder is in their place.
    ///
    /// # Errors
    /// Of the first that cannot.
    pub(super) fn check_links(&self, wanted: &BTreeSet<HostPath>) -> Result<(), ActivateError> {
        for destination in wanted {
            Place::of(destination)?.look()?;
        }
        Ok(())
    }

    /// Makes the links of a release that is to go live, but for those that something else is in the place of. They lead
    /// nowhere until it is live.
    ///
    /// # Errors
    /// Where one cannot be made. [`Self::settle_links`] removes what was made.
    pub(super) fn prepare_links(&self, wanted: &BTreeSet<HostPath>) -> Result<(), ActivateError> {
        let mut links = self.links()?;
        let known = links.0.len();
        for destination in wanted {
            Place::of(destination)?.look()?;
            if !links.0.iter().any(|link| link.destination == *destination) {
                links.0.push(Link {
                    destination: destination.clone(),
                    aside: None,
                });
            }
        }
        if links.0.len() > known {
            record::replace(&self.own, LINKS, &links)?;
        }
        for destination in wanted {
            let place = Place::of(destination)?;
            if place.look()?.is_none() {
                place.link(&self.link_target(destination))?;
            }
        }
        Ok(())
    }

    /// Has the links be those of what is live, which `wanted` are of: what stands in the place of one is moved aside, and one
    /// that is no longer wanted gives its place back.
    ///
    /// # Errors
    /// Where one cannot be made or removed. The others are as they should be.
    pub(super) fn settle_links(&self, wanted: &BTreeSet<HostPath>) -> Result<(), ActivateError> {
        let mut links = self.links()?;
        let mut failed = None;
        for at in 0..links.0.len() {
            let settled = match wanted.contains(&links.0[at].destination) {
                true => self.settle_link(&mut links, at),
                false => self.give_back(&links.0[at]),
            };
            if let Err(error) = settled {
                failed.get_or_insert(error);
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        let before = links.0.len();
        links.0.retain(|link| wanted.contains(&link.destination));
        match links.0.len() == before {
            true => Ok(()),
            false => record::replace(&self.own, LINKS, &links),
        }
    }

    /// Has a wanted link be in its place.
    fn settle_link(&self, links: &mut Links, at: usize) -> Result<(), ActivateError> {
        let destination = links.0[at].destination.clone();
        let (place, target) = (Place::of(&destination)?, self.link_target(&destination));
        let Some(there) = place.look()? else {
            return place.link(&target);
        };
        if there == There::Link(target.clone()) {
            return Ok(());
        }
        let begun = links.0[at].aside.clone();
        let begun = begun.filter(|aside| place.leads_to(aside, &target));
        let aside = match begun {
            Some(aside) => aside,
            None => {
                let aside = place.free_aside()?;
                links.0[at].aside = Some(aside.clone());
                record::replace(&self.own, LINKS, links)?;
                let link = place.dir.symlink(&target, aside.as_bytes());
                link.doing(|| format!("make the link `{aside}` beside {destination}"))?;
                aside
            }
        };
        tracing::info!(%destination, aside, "what stands in a config file's place is moved aside");
        let exchange = || {
            place.dir.exchange(aside.as_bytes(), &place.name)?;
            place.dir.sync()
        };
        exchange().doing(|| format!("put a link in the place of {destination}"))
    }

    /// Has what stood in the place of a link be there again, unless somebody has put something else there.
    fn give_back(&self, link: &Link) -> Result<(), ActivateError> {
        let destination = &link.destination;
        let place = match Place::of(destination) {
            Ok(place) => place,
            // With its folder it is gone, too.
            Err(ActivateError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let target = self.link_target(destination);
        let doing = || format!("remove the link {destination}");
        let is_ours = place.dir.link_target(&place.name).doing(doing)? == Some(target.clone());
        let kept = link.aside.as_ref();
        let begun = kept.filter(|aside| place.leads_to(aside, &target));
        if let Some(aside) = begun {
            place.dir.unlink(aside.as_bytes()).doing(doing)?;
        }
        if !is_ours {
            return Ok(());
        }
        let give_back = || {
            let kept = kept.filter(|_| begun.is_none());
            let there = kept.map(|aside| place.dir.stat(aside.as_bytes()));
            match (kept, there.transpose()?.flatten()) {
                (Some(aside), Some(_)) => {
                    place.dir.rename(aside.as_bytes(), &place.dir, &place.name)
                }
                _ => place.dir.unlink(&place.name),
            }?;
            place.dir.sync()
        };
        give_back().doing(doing)
    }

    fn links(&self) -> Result<Links, ActivateError> {
        Links::read(&self.own)
    }

    fn link_target(&self, destination: &HostPath) -> Vec<u8> {
        link_target(&self.final_path(), destination)
    }
}

impl Links {
    /// Those that are recorded in `own`.
    ///
    /// # Errors
    /// Where the record cannot be read, or is damaged.
    pub(super) fn read(own: &Dir) -> Result<Self, ActivateError> {
        match record::read(own, LINKS)? {
            Found::Record(links) => Ok(links),
            Found::Nothing => Ok(Self::default()),
            Found::Damaged => Err(ActivateError::LinksDamaged),
        }
    }

    /// Where they are.
    pub(super) fn destinations(&self) -> impl Iterator<Item = &HostPath> {
        self.0.iter().map(|link| &link.destination)
    }

    /// The name of what a link took the place of, where there is such.
    pub(super) fn aside(&self, destination: &HostPath) -> Option<&str> {
        let mut links = self.0.iter();
        let link = links.find(|link| link.destination == *destination)?;
        link.aside.as_deref()
    }
}

/// Where a link leads: through the final path.
pub(super) fn link_target(final_path: &Path, destination: &HostPath) -> Vec<u8> {
    let path = final_path.join(CONFIG_FILES);
    let path = path.join(destination.below_root().as_path());
    path.into_os_string().as_bytes().to_vec()
}

/// The place of a link: a folder that an administrator made, links in its path followed, and a name in it.
pub(super) struct Place {
    path: PathBuf,
    dir: Dir,
    name: Vec<u8>,
}

/// What is in a place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum There {
    Link(Vec<u8>),
    Other,
}

impl Place {
    /// # Errors
    /// Where the folder is not there, or another user could lead root astray on the way to it.
    pub(super) fn of(destination: &HostPath) -> Result<Self, ActivateError> {
        let path = destination.to_path();
        let folder = path.parent().unwrap_or(Path::new("/"));
        // The folder may be a service's: what is done there is done in the folder that was opened. But no service has root open
        // another one.
        if rustix::process::geteuid().is_root() {
            place::check_above(folder)?;
        }
        let name = path.file_name().expect("a host path has a last component");
        let dir = Dir::open(folder);
        Ok(Self {
            dir: dir.doing(|| {
                format!("open the folder of {destination}, which the release does not make")
            })?,
            name: name.as_bytes().to_vec(),
            path,
        })
    }

    /// What is there. A folder is an error: it is not moved aside.
    pub(super) fn look(&self) -> Result<Option<There>, ActivateError> {
        let doing = || format!("look at {}", self.path.display());
        let Some(stat) = self.dir.stat(&self.name).doing(doing)? else {
            return Ok(None);
        };
        if kind(&stat) == FileType::Directory {
            return Err(ActivateError::FolderInPlace(self.path.clone()));
        }
        let link = self.dir.link_target(&self.name).doing(doing)?;
        Ok(Some(link.map_or(There::Other, There::Link)))
    }

    fn leads_to(&self, name: &str, target: &[u8]) -> bool {
        let link = self.dir.link_target(name.as_bytes());
        link.is_ok_and(|link| link.as_deref() == Some(target))
    }

    fn link(&self, target: &[u8]) -> Result<(), ActivateError> {
        let link = || {
            self.dir.symlink(target, &self.name)?;
            self.dir.sync()
        };
        link().doing(|| format!("make the link {}", self.path.display()))
    }

    /// A name beside it for what it takes the place of.
    fn free_aside(&self) -> Result<String, ActivateError> {
        let name = String::from_utf8_lossy(&self.name);
        let mut number = 1;
        loop {
            let aside = format!("{name}.replaced-{number}");
            let there = self.dir.stat(aside.as_bytes());
            if there.doing(|| format!("look for `{aside}`"))?.is_none() {
                return Ok(aside);
            }
            number += 1;
        }
    }
}
