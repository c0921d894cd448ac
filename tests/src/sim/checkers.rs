//! What must hold at the end of every simulation.

use scap_coordinator::plan::simulate::{ORIGIN, Setup, Simulation, content};

/// Every running host holds everything, and no host, running or not, holds anything that is not what it
/// should be.
pub(super) fn check(fleet: &Simulation, setup: &Setup) -> Result<(), String> {
    let chunks = setup.stages.last().copied().unwrap_or(0);
    for host in ORIGIN + 1..=setup.hosts.len() {
        let mut stored = 0;
        for (index, found) in fleet.stored(host) {
            if found != content(index) {
                return Err(format!("host {host} stored a false chunk {index}"));
            }
            stored += 1;
        }
        if fleet.is_running(host) && stored != chunks {
            return Err(format!("host {host} has {stored} of {chunks} chunks"));
        }
    }
    Ok(())
}
