//! Sites: stations on a bridge of their own, and borders through which they reach all others.
//!
//! ```text
//! p0, p1, … ─ br-site1 ─ border1 ══ core1 ┐
//! p5, p6, … ─ br-site2 ─ border2 ══ core2 ┴ br-core      ══ the rate is kept at both ends
//! ```

use std::fmt::Write as _;

use super::link::tbf;
use super::netns::{StationNumber, bridge};
use super::{Counters, Device};

/// Sites are numbered from 1; the coordinator is in the first.
pub(crate) type SiteNumber = u16;

/// How the stations of a fleet are spread over sites.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sites {
    count: SiteNumber,
    hosts: StationNumber,
    border_mbit: u32,
}

impl Sites {
    /// # Panics
    /// When a site would have no host.
    pub(crate) fn new(count: SiteNumber, hosts: StationNumber, border_mbit: u32) -> Self {
        assert!(
            (1..=hosts).contains(&count),
            "{hosts} hosts cannot be spread over {count} sites"
        );
        Self {
            count,
            hosts,
            border_mbit,
        }
    }

    /// The site of a station: hosts fill one after the other, evenly.
    pub(crate) fn of(self, station: StationNumber) -> SiteNumber {
        let before = u32::from(station.saturating_sub(1));
        let site = 1 + before * u32::from(self.count) / u32::from(self.hosts);
        SiteNumber::try_from(site).expect("it is at most the count")
    }

    pub(crate) fn numbers(self) -> impl Iterator<Item = SiteNumber> {
        1..=self.count
    }

    /// The `ip` commands that make the bridges, and join them.
    pub(crate) fn links(self) -> String {
        let mut links = bridge(CORE);
        for site in self.numbers() {
            let (own, border, core) = (site_bridge(site), border_end(site), core_end(site));
            links.push_str(&bridge(&own));
            let _ = writeln!(
                links,
                "link add {border} type veth peer name {core}\n\
                 link set {border} master {own} addrgenmode none up\n\
                 link set {core} master {CORE} addrgenmode none up"
            );
        }
        links
    }

    /// The `tc` commands that limit each way of each border.
    pub(crate) fn limits(self) -> String {
        self.numbers()
            .flat_map(|site| [border_end(site), core_end(site)])
            .map(|device| tbf(&device, self.border_mbit))
            .collect()
    }
}

/// The link between a site and all others.
#[derive(Debug)]
pub struct Border {
    site: SiteNumber,
    namespace: String,
}

impl Border {
    pub(crate) fn new(site: SiteNumber, namespace: String) -> Self {
        Self { site, namespace }
    }

    /// `site1` and up; as [`Station::site`](super::Station::site) says it.
    #[must_use]
    pub fn site(&self) -> String {
        name(self.site)
    }

    /// What has passed it so far, as seen by the site: what it received came into it.
    ///
    /// The first frame to a station that was silent goes everywhere, as on any switch.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters::read(&self.namespace, &border_end(self.site))
    }

    /// Its site's end, to be watched: what it sent came into the site.
    #[must_use]
    pub fn device(&self) -> Device {
        Device::open(&self.namespace, &border_end(self.site))
    }
}

/// As fleet files call a site.
pub(crate) fn name(site: SiteNumber) -> String {
    format!("site{site}")
}

/// The bridge that a site's stations are plugged into.
pub(crate) fn site_bridge(site: SiteNumber) -> String {
    format!("br-{}", name(site))
}

/// The end of a border that its site's bridge has.
fn border_end(site: SiteNumber) -> String {
    format!("border{site}")
}

/// The end of a border that the bridge between the sites has.
fn core_end(site: SiteNumber) -> String {
    format!("core{site}")
}

/// The bridge between the sites.
const CORE: &str = "br-core";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_fill_the_sites_one_after_the_other() {
        let spread = |count, hosts| {
            let sites = Sites::new(count, hosts, 100);
            (0..=hosts)
                .map(|station| sites.of(station))
                .collect::<Vec<_>>()
        };
        assert_eq!(spread(2, 4), [1, 1, 1, 2, 2]);
        assert_eq!(spread(3, 7), [1, 1, 1, 1, 2, 2, 3, 3]);
        assert_eq!(spread(1, 2), [1, 1, 1]);
        assert_eq!(spread(u16::MAX, u16::MAX).last(), Some(&u16::MAX));
    }

    #[test]
    fn device_names_are_as_long_as_the_kernel_takes() {
        for device in [
            site_bridge(u16::MAX),
            border_end(u16::MAX),
            core_end(u16::MAX),
        ] {
            assert!(device.len() <= 15, "{device}");
        }
    }
}
