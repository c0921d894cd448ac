use std::{
    net::{Ipv4Addr, SocketAddrV4},
    num::NonZeroU32,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};
use scap_proto::release::host_config::{Service, ServiceAction};

use super::Host;
use crate::host::{
    Doing, RunFailure, ServiceCommand, ServiceDone, ServiceError,
    ServiceOutcome::{self, Disabled, Down, Reloaded, Restarted, Unknown},
};

impl Host {
    /// A host whose commands write down what they are called with. They fail for a unit that has a file of their name and
    /// its, and are known unless a file says what is printed of them or what exit code tells that they are not.
    fn with_services(units: &[(&str, ServiceAction, bool)]) -> Self {
        let mut host = Self::new();
        let directory = host.directory.path().display().to_string();
        let command = |name: &str, then: &str| {
            let script = format!("cd {directory}; echo {name} $1 >> log; [ ! -e {name}-$1 ]{then}");
            let words = ["/bin/sh", "-c", &script, "sh", "{unit}"].map(String::from);
            ServiceCommand::new(words.to_vec()).unwrap()
        };
        host.services.restart = command("restart", "");
        host.services.reload = command("reload", "");
        host.services.is_known = command(
            "look-for",
            "; cat said-$1 2> /dev/null; exit $(cat exit-$1 2> /dev/null || echo 0)",
        );
        host.services.stop_and_disable = command("disable", "");
        host.config.services.units = units.iter().map(|unit| service(*unit)).collect();
        host
    }

    fn handles(&self) -> Result<Vec<(String, ServiceOutcome)>, ServiceError> {
        self.work().handle_services(&mut |_| {}).map(outcomes)
    }

    fn log(&self) -> Vec<String> {
        self.read("log").lines().map(str::to_owned).collect()
    }

    fn waits_for_port(&mut self, port: u16, millis: u32) {
        self.config.services.port = Some(port);
        self.config.services.port_timeout_millis = NonZeroU32::new(millis).unwrap();
    }
}

fn service((name, action, is_disabled_on_secondary): (&str, ServiceAction, bool)) -> Service {
    Service {
        name: name.into(),
        action,
        is_disabled_on_secondary,
    }
}

fn outcomes(done: Vec<ServiceDone>) -> Vec<(String, ServiceOutcome)> {
    done.into_iter()
        .map(|done| (done.name, done.outcome))
        .collect()
}

fn named<const N: usize>(outcomes: [(&str, ServiceOutcome); N]) -> Vec<(String, ServiceOutcome)> {
    outcomes
        .map(|(name, outcome)| (name.to_owned(), outcome))
        .to_vec()
}

/// A port that is ours, and that nobody answers until it is listened to.
fn port() -> (OwnedFd, u16) {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address: SocketAddrV4 = getsockname(&socket).unwrap().try_into().unwrap();
    (socket, address.port())
}

use ServiceAction::{Reload, Restart};

#[test]
fn services_are_restarted_and_reloaded_in_their_order() {
    let host = Host::with_services(&[("web", Restart, false), ("proxy", Reload, true)]);
    let mut begun = Vec::new();
    let done = host
        .work()
        .handle_services(&mut |doing| begun.push(format!("{doing:?}")));
    assert_eq!(
        outcomes(done.unwrap()),
        named([("web", Restarted), ("proxy", Reloaded)])
    );
    assert_eq!(host.log(), ["restart web", "reload proxy"]);
    assert_eq!(begun, [r#"Unit("web")"#, r#"Unit("proxy")"#]);
    // Once more is once more.
    host.handles().unwrap();
    assert_eq!(host.log().len(), 4);
}

#[test]
fn the_first_service_that_fails_is_the_last_one_handled() {
    let host = Host::with_services(&[("web", Restart, false), ("proxy", Reload, false)]);
    host.write("restart-web", "");
    let error = host.handles().unwrap_err();
    assert_eq!(
        crate::error_chain(&error),
        "restart `web`: ended with exit code 1"
    );
    assert_eq!(host.log(), ["restart web"]);
}

#[test]
fn a_restart_that_hangs_is_killed() {
    let mut host = Host::with_services(&[("web", Restart, false)]);
    let words = ["sh", "-c", "echo stuck; sleep 1000", "{unit}"].map(String::from);
    host.services.restart = ServiceCommand::new(words.to_vec()).unwrap();
    host.services.timeout_seconds = NonZeroU32::MIN;
    let ServiceError::Command { why, output, .. } = host.handles().unwrap_err() else {
        panic!("the command failed");
    };
    assert!(matches!(why, RunFailure::TimedOut(_)), "{why:?}");
    assert_eq!(output.tail(), "stuck\n");
}

#[test]
fn a_secondary_host_stops_and_disables_what_is_marked_so() {
    let mut host = Host::with_services(&[("web", Restart, true), ("proxy", Reload, false)]);
    host.write("secondary", "");
    assert_eq!(
        host.handles().unwrap(),
        named([("web", Disabled), ("proxy", Reloaded)])
    );
    assert_eq!(host.log(), ["disable web", "reload proxy"]);
    // With all of them stopped nobody is there to answer.
    host.config.services.units.pop();
    let (_socket, port) = port();
    host.waits_for_port(port, 1);
    assert_eq!(host.handles().unwrap(), named([("web", Disabled)]));
}

#[test]
fn units_that_the_host_does_not_know_are_left_out_if_that_is_asked_for() {
    let units = ["gone", "masked", "none", "web"].map(|name| (name, Restart, false));
    let mut host = Host::with_services(&units);
    host.write("said-gone", "not-found\n");
    host.write("said-masked", "masked\n");
    host.write("exit-none", "4");
    host.write("said-web", "loaded\n");
    // Not asked for: nobody looks.
    assert_eq!(host.handles().unwrap().len(), 4);
    assert_eq!(host.log()[0], "restart gone");
    host.config.services.skips_unknown = true;
    let expected = [
        ("gone", Unknown),
        ("masked", Unknown),
        ("none", Unknown),
        ("web", Restarted),
    ];
    assert_eq!(host.handles().unwrap(), named(expected));
    assert_eq!(
        host.log()[4..],
        [
            "look-for gone",
            "look-for masked",
            "look-for none",
            "look-for web",
            "restart web"
        ]
    );
    // Nobody who could say is there.
    host.write("exit-web", "1");
    let error = crate::error_chain(&host.handles().unwrap_err());
    assert_eq!(error, "look for `web`: ended with exit code 1");
}

#[test]
fn a_port_that_opens_late_is_waited_for() {
    let mut host = Host::with_services(&[("web", Restart, false)]);
    let (socket, port) = port();
    host.waits_for_port(port, 60_000);
    let mut socket = Some(socket);
    let mut opened = None;
    let begin = &mut |doing: Doing<'_>| {
        if doing == Doing::Port(port) {
            let socket = socket.take().unwrap();
            opened = Some(std::thread::spawn(move || {
                // Some looks later.
                std::thread::sleep(Duration::from_millis(700));
                listen(&socket, 1).unwrap();
                (socket, Instant::now())
            }));
        }
    };
    let began = Instant::now();
    host.work().handle_services(begin).unwrap();
    let (_socket, at) = opened.unwrap().join().unwrap();
    assert!(at - began >= Duration::from_millis(700));
}

#[test]
fn a_port_that_does_not_answer_in_time_is_an_error_that_names_it() {
    let mut host = Host::with_services(&[("web", Restart, false)]);
    let (_socket, port) = port();
    host.waits_for_port(port, 500);
    let error = crate::error_chain(&host.handles().unwrap_err());
    let expected =
        format!("port {port} of 127.0.0.1 did not answer within 0.5 s: Connection refused");
    assert!(error.starts_with(&expected), "{error}");
}

#[test]
fn going_back_takes_the_services_of_both_releases_along() {
    let left = Host::with_services(&[("web", Restart, false), ("new", Reload, false)]);
    let mut before = left.config.clone();
    before.services.units = vec![
        service(("old", Reload, false)),
        service(("web", Reload, false)),
    ];
    let done = left
        .work()
        .handle_services_back_to(Some(&before), &mut |_| {});
    let expected = [("old", Reloaded), ("web", Restarted), ("new", Reloaded)];
    assert_eq!(outcomes(done.unwrap()), named(expected));
    // The port is the one that the release before listens on.
    let (_socket, port) = port();
    before.services.port = Some(port);
    before.services.port_timeout_millis = NonZeroU32::MIN;
    let done = left
        .work()
        .handle_services_back_to(Some(&before), &mut |_| {});
    assert!(matches!(done, Err(ServiceError::Port { .. })), "{done:?}");
}

#[test]
fn on_the_way_back_one_that_fails_keeps_no_other_from_being_handled() {
    let left = Host::with_services(&[("web", Restart, false), ("proxy", Restart, false)]);
    left.write("restart-web", "");
    let before = left.config.clone();
    let done = left
        .work()
        .handle_services_back_to(Some(&before), &mut |_| {});
    let Err(ServiceError::Command { unit, .. }) = done else {
        panic!("{done:?}");
    };
    assert_eq!(unit, "web");
    assert_eq!(left.log(), ["restart web", "restart proxy"]);
}

#[test]
fn with_nothing_to_go_back_to_no_service_has_to_come_up() {
    let mut host = Host::with_services(&[("web", Restart, false), ("proxy", Reload, false)]);
    let (_socket, port) = port();
    host.waits_for_port(port, 1);
    host.write("restart-web", "");
    let done = host.work().handle_services_back_to(None, &mut |_| {});
    assert_eq!(
        outcomes(done.unwrap()),
        named([("web", Down), ("proxy", Reloaded)])
    );
}
