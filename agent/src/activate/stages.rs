//! The stages of a release on its host: what it asks is done around making its tree and switching to it.
//!
//! ```text
//! fetch    [before] config snapshot, tree [after]; then [before] config files rendered beside it [after]
//! promote  [before] links, the switch, [after]; then [before] services [after]
//! revert   [before rollback] the switch back, links, [after promote], then [before] services [after], [after rollback];
//!          where the switch was not made, [after promote] alone
//! ```
//! Each of these is the same when it is done twice, and a crash is followed by doing it again: a stage that was gone through is
//! recorded with its tree, what a switch leaves to be done is recorded before the switch, and before the checks before it.

use std::{path::PathBuf, time::Duration};

use scap_proto::{
    content::SnapshotRef,
    id::{NodeId, ReleaseId},
    reason::Reason,
    release::{
        HostConfig, Step,
        host_config::{HostStage, Moment},
    },
};

use super::{
    ActivateError, ChunkSource, Deployment, Prepared, Promoted, Target,
    asked::Stage,
    error::StageError,
    failpoint::Failpoints,
    links::destinations,
    owed::{After, Owed},
    record::{Installed, Rev},
    rendered::place,
};
use crate::host::{CheckedAgain, Doing, HostWork, Paths, ServiceCommands};

/// Who goes through stages, and with what.
pub struct Stages<'a> {
    /// This host.
    pub host: &'a NodeId,
    /// How services are handled here.
    pub services: &'a ServiceCommands,
    /// Where chunks come from.
    pub source: &'a dyn ChunkSource,
    /// Who hears of each step as it begins, and of nothing once it and those after it are over.
    pub begins: &'a dyn Fn(Option<Step>),
}

/// What one release asks, and where it is.
struct Asking {
    config: HostConfig,
    directory: PathBuf,
    paths: Paths,
    running: PathBuf,
}

impl Stages<'_> {
    /// Makes the directory of a release, with its config files; what was gone through before is not gone through again.
    ///
    /// # Errors
    /// [`ActivateError::Stage`] where a check fails or a file cannot be rendered, and as [`Deployment::prepare`].
    pub fn fetch(
        &self,
        deployment: &mut Deployment,
        target: &Target,
    ) -> Result<Prepared, ActivateError> {
        self.fetch_and_ask(deployment, target, HostStage::Fetch)
            .map(|(prepared, _)| prepared)
    }

    /// On the way to a stage.
    fn fetch_and_ask(
        &self,
        deployment: &mut Deployment,
        target: &Target,
        stage: HostStage,
    ) -> Result<(Prepared, Option<Asking>), ActivateError> {
        deployment.settle()?;
        let Some(config) = target.config else {
            return Ok((deployment.prepare(target, self.source)?, None));
        };
        let (installed, is_there) = deployment.place(target)?;
        deployment.unpack(config, self.source)?;
        let asking = asking(deployment, &config, Some(&installed.rev))?;
        let is_done = is_there && deployment.has_gone_through(&installed.rev, Stage::Fetch)?;
        if !is_done {
            self.check(&asking, Moment::Before, HostStage::Fetch)?;
        }
        let prepared = deployment.prepare(target, self.source)?;
        if !is_done {
            self.check(&asking, Moment::After, HostStage::Fetch)?;
            deployment.note_stage(&installed.rev, Stage::Fetch)?;
        }
        let is_live = deployment.live().map(|live| &live.rev) == Some(&installed.rev);
        // What is live is changed where it is promoted again, in its turn, and not while others fetch.
        if !is_live || stage == HostStage::Promote {
            self.config_deploy(deployment, &asking, &installed)?;
        }
        Ok((prepared, Some(asking)))
    }

    /// Renders the config files into the release's tree. Where nothing changes by that, and it was done before, nothing is done.
    fn config_deploy(
        &self,
        deployment: &Deployment,
        asking: &Asking,
        installed: &Installed,
    ) -> Result<(), ActivateError> {
        const STAGE: HostStage = HostStage::ConfigDeploy;
        if asking.config.config_files.is_empty() {
            return Ok(());
        }
        let mut is_done = deployment.has_gone_through(&installed.rev, Stage::ConfigDeploy)?;
        let is_first = !is_done;
        if is_first {
            self.check(asking, Moment::Before, STAGE)?;
        }
        deployment.check_links(&destinations(&asking.config))?;
        let rendered = self.work(asking).render();
        let rendered = rendered.map_err(|error| StageError::of_template(STAGE.name(), &error))?;
        let files = place(rendered);
        let stale = deployment.stale(installed, &files)?;
        if !stale.is_empty() {
            if !is_first {
                self.check(asking, Moment::Before, STAGE)?;
            }
            is_done = false;
            if deployment.live().map(|live| &live.rev) == Some(&installed.rev) {
                deployment.owe(&Owed {
                    live: Some(installed.rev.clone()),
                    after: After::Promote,
                })?;
            }
            deployment.note_rendered(&installed.rev, &files)?;
            deployment.write_rendered(installed, &files, &stale)?;
        }
        if !is_done {
            self.check(asking, Moment::After, STAGE)?;
            deployment.note_stage(&installed.rev, Stage::ConfigDeploy)?;
        }
        Ok(())
    }

    /// Makes a release live, with its config files, and then handles its services. Where it is live, and nothing is left to be done,
    /// nothing is.
    ///
    /// # Errors
    /// [`ActivateError::Stage`] where a check or a service fails: the release is live then, unless it was before the switch. And as
    /// [`Deployment::promote`].
    pub fn promote(
        &self,
        deployment: &mut Deployment,
        target: &Target,
    ) -> Result<Promoted, ActivateError> {
        let (prepared, asking) = self.fetch_and_ask(deployment, target, HostStage::Promote)?;
        let rev = &prepared.installed.rev;
        let is_switched = deployment.leads_to(Some(rev))?;
        let wanted = asking.as_ref().map(|asking| destinations(&asking.config));
        let wanted = wanted.unwrap_or_default();
        if !is_switched {
            if let Some(asking) = &asking {
                let work = self.work(asking);
                let mut checks = work.checks(Moment::Before, HostStage::Promote);
                if checks.next().is_some() {
                    deployment.owe_attempt()?;
                }
                self.check(asking, Moment::Before, HostStage::Promote)?;
            }
            deployment.prepare_links(&wanted)?;
        }
        let owed = Owed {
            live: Some(rev.clone()),
            after: After::Promote,
        };
        let owed = (!is_switched).then_some(owed);
        let flipped = deployment.switch_owing(owed.as_ref(), |deployment| {
            deployment.flip(&target.release, self.source)
        })?;
        deployment.hit(Failpoints::SWITCHED)?;
        deployment.settle_links(&wanted)?;
        if let Some(Owed { after, .. }) = deployment.owed()? {
            if let Some(asking) = &asking {
                self.check(asking, Moment::After, HostStage::Promote)?;
                if after != After::Attempt {
                    self.handle_services(asking)?;
                }
            }
            deployment.owe_nothing()?;
        }
        Ok(Promoted { prepared, flipped })
    }

    fn handle_services(&self, asking: &Asking) -> Result<(), ActivateError> {
        const STAGE: HostStage = HostStage::HandleService;
        self.check(asking, Moment::Before, STAGE)?;
        let work = self.work(asking);
        let handled = self.telling(Some(&asking.config), |tell| work.handle_services(tell));
        handled.map_err(|error| StageError::of_service(&error))?;
        self.check(asking, Moment::After, STAGE)
    }

    /// Runs again the checks of a release whose time came in `span`, as [`HostWork::check_again`] says. Where it is not live, or
    /// something is still to be done of its switch, no check of it is run again.
    ///
    /// # Errors
    /// [`ActivateError::Stage`] where a check fails: what follows the switch is to be done again then, before the release is live
    /// and well. And where it cannot be read what the release asks.
    pub fn check_again(
        &self,
        deployment: &Deployment,
        release: &ReleaseId,
        span: (u64, u64),
        gives_way: &dyn Fn() -> bool,
    ) -> Result<CheckedAgain, ActivateError> {
        const NOTHING: CheckedAgain = CheckedAgain::Passed { next: None };
        let live = deployment.live();
        let Some(live) = live.filter(|live| live.release == *release) else {
            return Ok(NOTHING);
        };
        let Some(asking) = self.asking_of(deployment, live)? else {
            return Ok(NOTHING);
        };
        if deployment.owed()?.is_some() {
            return Ok(NOTHING);
        }
        let work = self.work(&asking);
        let checked = self.telling(Some(&asking.config), |tell| {
            work.check_again(span, gives_way, tell)
        });
        checked.map_err(|error| {
            let owed = Owed {
                live: Some(live.rev.clone()),
                after: After::Promote,
            };
            if let Err(error) = deployment.owe(&owed) {
                let error = crate::error_chain(&error);
                tracing::warn!(error, "cannot record that a release is not well");
            }
            StageError::of_check("while it soaks", &error).into()
        })
    }

    /// Goes back from a release to what was live before it, with its config files, or to nothing, and then handles services. Where
    /// the release is not live there is nothing to go back from, but what an interrupted or failed call left.
    ///
    /// # Errors
    /// [`ActivateError::Stage`] where a check or a service fails: that stops nothing of it. And as [`Deployment::revert`].
    pub fn revert(
        &self,
        deployment: &mut Deployment,
        from: &ReleaseId,
    ) -> Result<(), ActivateError> {
        deployment.settle()?;
        let live = deployment.live().cloned();
        let mut failed = Vec::new();
        if let Some(live) = live.filter(|live| live.release == *from) {
            let before = deployment.previous().cloned();
            // Whatever fails here stops nobody from going back.
            let prepared = self.prepare_revert(deployment, before.as_ref());
            failed.extend(prepared.err());
            let to = before.as_ref().map(|before| &before.rev);
            let owed = Owed {
                live: to.cloned(),
                after: After::Revert {
                    from: deployment.config_of(&live).unwrap_or_default(),
                },
            };
            let owed = (to != Some(&live.rev)).then_some(owed);
            let to = before.map(|before| before.release);
            deployment.switch_owing(owed.as_ref(), |deployment| {
                deployment.revert(to.as_ref(), self.source)
            })?;
            deployment.hit(Failpoints::SWITCHED)?;
        }
        let live = deployment.live().cloned();
        let asked = live.as_ref().map(|live| self.asking_of(deployment, live));
        let back = match asked.unwrap_or(Ok(None)) {
            Ok(back) => back,
            // It is not known which links are its.
            Err(error) => return Err(failed.into_iter().next().unwrap_or(error)),
        };
        let wanted = back.as_ref().map(|back| destinations(&back.config));
        failed.extend(deployment.settle_links(&wanted.unwrap_or_default()).err());
        if let Some(Owed { after, .. }) = deployment.owed()? {
            let is_switched = after != After::Attempt;
            let from = match after {
                After::Revert { from } => from,
                // Of config files of what is live, which another release of the same tree had it render anew.
                After::Promote | After::Attempt => None,
            };
            let left = from.map(|from| {
                let rev = live.as_ref().map(|live| &live.rev);
                asking(deployment, &from, rev)
            });
            let left = left.transpose();
            // It is promoted again: whoever was taken out of service before a promote is put back by these.
            if let Some(back) = &back {
                failed.extend(self.check(back, Moment::After, HostStage::Promote).err());
            }
            let done = match &left {
                // Its services still run it.
                _ if !is_switched => Ok(()),
                Ok(left) => self.handle_services_back(left.as_ref(), back.as_ref()),
                Err(_) => self.handle_services_back(None, back.as_ref()),
            };
            failed.extend(left.err());
            failed.extend(done.err());
            if let Some(back) = back.as_ref().filter(|_| is_switched) {
                failed.extend(self.check(back, Moment::After, HostStage::Rollback).err());
            }
            if failed.is_empty() {
                deployment.owe_nothing()?;
            }
        }
        failed.into_iter().next().map_or(Ok(()), Err)
    }

    /// What is done before a host goes back: checks, and the config files of what it goes back to.
    fn prepare_revert(
        &self,
        deployment: &Deployment,
        before: Option<&Installed>,
    ) -> Result<(), ActivateError> {
        let Some(before) = before else {
            return Ok(());
        };
        let Some(back) = self.asking_of(deployment, before)? else {
            return Ok(());
        };
        let checked = self.check(&back, Moment::Before, HostStage::Rollback);
        let restored = self.restore_rendered(deployment, &back, before);
        let linked = deployment.prepare_links(&destinations(&back.config));
        checked.and(restored).and(linked)
    }

    /// Handles the services of the release that is gone back from and of the one that is live again.
    fn handle_services_back(
        &self,
        left: Option<&Asking>,
        back: Option<&Asking>,
    ) -> Result<(), ActivateError> {
        const STAGE: HostStage = HostStage::HandleService;
        // It stops nothing: what runs may be what makes it fail.
        let checked = match back {
            Some(back) => self.check(back, Moment::Before, STAGE),
            None => Ok(()),
        };
        // The port is that of the release that is live again.
        let told = back.or(left).map(|asking| &asking.config);
        let handled = self.telling(told, |tell| match (left, back) {
            (Some(left), back) => {
                let config = back.map(|back| &back.config);
                self.work(left).handle_services_back_to(config, tell)
            }
            (None, Some(back)) => self.work(back).handle_services(tell),
            (None, None) => Ok(Vec::new()),
        });
        let handled = match handled {
            Ok(_) => Ok(()),
            Err(error) => Err(StageError::of_service(&error).into()),
        };
        let after = back.map_or(Ok(()), |back| self.check(back, Moment::After, STAGE));
        handled.and(checked).and(after)
    }

    /// Has the rendered files of a release that is gone back to be as they were; those that are not are rendered again.
    fn restore_rendered(
        &self,
        deployment: &Deployment,
        asking: &Asking,
        installed: &Installed,
    ) -> Result<(), ActivateError> {
        if deployment.rendered_differences(installed)?.is_empty() {
            return Ok(());
        }
        tracing::warn!(rev = %installed.rev, "config files of a release are not as they were: rendered again");
        let rendered = self.work(asking).render();
        let stage = HostStage::Rollback.name();
        let files = place(rendered.map_err(|error| StageError::of_template(stage, &error))?);
        let stale = deployment.stale(installed, &files)?;
        deployment.note_rendered(&installed.rev, &files)?;
        deployment.write_rendered(installed, &files, &stale)
    }

    /// Records that the live release is the stable one. A check that fails changes nothing about that, and is told in the log.
    ///
    /// # Errors
    /// As [`Deployment::finalize`].
    pub fn finalize(
        &self,
        deployment: &mut Deployment,
        release: &ReleaseId,
    ) -> Result<(), ActivateError> {
        let live = deployment.live().cloned();
        let live = live.filter(|live| live.release == *release);
        let is_done = live.is_some() && deployment.finalized() == live.as_ref();
        let asking = match live.filter(|_| !is_done) {
            Some(live) => self.asking_of(deployment, &live)?,
            None => None,
        };
        let check = |moment| {
            if let Some(asking) = &asking
                && let Err(error) = self.check(asking, moment, HostStage::Finalize)
            {
                let error = crate::error_chain(&error);
                tracing::warn!(error, "a check of the stable release failed");
            }
        };
        check(Moment::Before);
        deployment.finalize(release)?;
        check(Moment::After);
        Ok(())
    }

    /// What an installed release asks, where it asks anything.
    fn asking_of(
        &self,
        deployment: &Deployment,
        installed: &Installed,
    ) -> Result<Option<Asking>, ActivateError> {
        let Some(config) = deployment.config_of(installed)? else {
            return Ok(None);
        };
        deployment.unpack(config, self.source)?;
        asking(deployment, &config, Some(&installed.rev)).map(Some)
    }

    fn check(
        &self,
        asking: &Asking,
        moment: Moment,
        stage: HostStage,
    ) -> Result<(), ActivateError> {
        let work = self.work(asking);
        let checked = self.telling(Some(&asking.config), |tell| work.check(moment, stage, tell));
        match checked {
            Ok(_) => Ok(()),
            Err(error) => {
                let moment = match moment {
                    Moment::Before => "before",
                    Moment::After => "after",
                };
                let when = format!("{moment} {}", stage.name());
                Err(StageError::of_check(&when, &error).into())
            }
        }
    }

    /// Does what is told as it begins, and tells once it is over: what comes then may take longer than it might have.
    fn telling<T>(
        &self,
        config: Option<&HostConfig>,
        work: impl FnOnce(&mut dyn FnMut(Doing<'_>)) -> T,
    ) -> T {
        let mut has_begun = false;
        let done = work(&mut |doing| {
            has_begun = true;
            if let Some(config) = config {
                self.tell(config, doing);
            }
        });
        if has_begun {
            (self.begins)(None);
        }
        done
    }

    /// Tells what begins, and how long it may take.
    fn tell(&self, config: &HostConfig, doing: Doing<'_>) {
        let step = match doing {
            Doing::Check(name) => {
                tracing::info!(check = name, "a check is run");
                let check = config.checks.iter().find(|check| check.name == name);
                let millis = check.map_or(0, |check| check.timeout_millis.get());
                Step::new(Reason::Check, name, Duration::from_millis(millis.into()))
            }
            Doing::Unit(unit) => {
                tracing::info!(unit, "a service is handled");
                // It may be looked for before.
                let seconds = 2 * u64::from(self.services.timeout_seconds.get());
                Step::new(Reason::Service, unit, Duration::from_secs(seconds))
            }
            Doing::Port(port) => {
                tracing::info!(port, "a port is to answer");
                let millis = config.services.port_timeout_millis.get();
                let limit = Duration::from_millis(millis.into());
                Step::new(Reason::Port, &port.to_string(), limit)
            }
        };
        (self.begins)(Some(step));
    }

    fn work<'a>(&'a self, asking: &'a Asking) -> HostWork<'a> {
        HostWork {
            config: &asking.config,
            config_dir: &asking.directory,
            host: self.host,
            paths: &asking.paths,
            services: self.services,
            running: &asking.running,
        }
    }
}

/// What a release asks whose config snapshot is written out, and whose tree is, or is to be, at `rev`.
fn asking(
    deployment: &Deployment,
    config: &SnapshotRef,
    rev: Option<&Rev>,
) -> Result<Asking, ActivateError> {
    Ok(Asking {
        config: deployment.host_config(config)?,
        directory: deployment.config_path(config),
        paths: deployment.paths(rev),
        running: deployment.running_path(),
    })
}
