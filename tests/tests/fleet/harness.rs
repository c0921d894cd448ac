//! The harness keeps its own promises: rates, faults, clean-up, and nothing left behind.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use scap_tests::faults::SmallDisk;
use scap_tests::fleet::{Border, Builder, Fleet, Host, Rate, Station, wait_until};
use scap_tests::under_test;

#[test]
fn every_station_reaches_every_other() {
    let Some(fleet) = Fleet::builder(under_test!()).hosts(4).build() else {
        return;
    };
    let mut stations: Vec<&Station> = fleet.hosts().iter().map(Host::station).collect();
    stations.push(fleet.coordinator().station());
    for to in &stations {
        let listener = listen(to);
        for from in &stations {
            connect(from, &listener).unwrap();
        }
    }
}

#[test]
fn a_fleet_of_sixty_has_room_in_the_neighbour_table() {
    let Some(fleet) = Fleet::builder(under_test!()).hosts(60).build() else {
        return;
    };
    let listeners: Vec<_> = fleet
        .hosts()
        .iter()
        .map(|host| listen(host.station()))
        .collect();
    for host in fleet.hosts() {
        for listener in &listeners {
            connect(host.station(), listener).unwrap();
        }
    }
}

#[test]
fn sixteen_hosts_come_up_in_seconds() {
    let builder = Fleet::builder(under_test!()).hosts(16).rate_mbit(100);
    let Some(fleet) = builder.build() else { return };
    // Made before the network was, and after other fleets had their turn.
    let start = std::fs::metadata(fleet.dir().join("home"))
        .unwrap()
        .modified()
        .unwrap();
    let elapsed = start.elapsed().unwrap();
    assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
}

#[test]
fn each_direction_of_a_link_has_its_rate() {
    let rate = Rate {
        up_mbit: Some(20),
        down_mbit: Some(80),
    };
    let builder = Fleet::builder(under_test!())
        .hosts(1)
        .coordinator_rate(rate);
    let Some(fleet) = builder.build() else { return };
    let (fast, limited) = (fleet.host(1).station(), fleet.coordinator().station());
    // Headers take 4 % and more; the first burst is free.
    let up = goodput_mbit(limited, fast, 4_000_000);
    assert!((16.0..20.5).contains(&up), "up {up} Mbit/s");
    let down = goodput_mbit(fast, limited, 16_000_000);
    assert!((64.0..82.0).contains(&down), "down {down} Mbit/s");
}

#[test]
fn the_counters_of_a_link_tell_what_passed_it() {
    let Some(fleet) = Fleet::builder(under_test!())
        .hosts(2)
        .rate_mbit(200)
        .build()
    else {
        return;
    };
    let (from, to) = (fleet.host(1), fleet.host(2));
    let before = [from.counters(), to.counters()];
    goodput_mbit(from.station(), to.station(), 5_000_000);
    let sent = from.counters().since(before[0]).sent_bytes;
    let received = to.counters().since(before[1]).received_bytes;
    assert!((5_000_000..5_500_000).contains(&sent), "sent {sent}");
    assert!(
        (5_000_000..5_500_000).contains(&received),
        "received {received}"
    );
}

#[test]
fn one_host_may_have_a_link_of_its_own_rate() {
    let builder = Fleet::builder(under_test!()).hosts(2).rate_mbit(80);
    let Some(fleet) = builder.host_rate(2, Rate::symmetric(20)).build() else {
        return;
    };
    let from = fleet.coordinator().station();
    let own = goodput_mbit(from, fleet.host(2).station(), 4_000_000);
    assert!((16.0..20.5).contains(&own), "its own {own} Mbit/s");
    let other = goodput_mbit(from, fleet.host(1).station(), 16_000_000);
    assert!((64.0..82.0).contains(&other), "the other's {other} Mbit/s");
}

#[test]
fn what_a_link_carried_counts_the_headers_of_every_packet() {
    let builder = Fleet::builder(under_test!()).hosts(2).rate_mbit(200);
    let rate = Rate::default();
    let Some(fleet) = builder.host_rate(2, rate).build() else {
        return;
    };
    let (from, to) = (fleet.coordinator().station(), fleet.host(1).station());
    let before = to.carried_bytes().unwrap();
    goodput_mbit(from, to, 5_000_000);
    let carried = to.carried_bytes().unwrap() - before;
    // 66 bytes of headers with each 1,448 of content make 4.6 %.
    assert!((5_200_000..5_400_000).contains(&carried), "{carried}");
    assert_eq!(fleet.host(2).station().carried_bytes(), None);
}

#[test]
fn on_the_loopback_device_hosts_have_addresses_of_their_own_and_no_link() {
    let builder = Fleet::builder(under_test!()).hosts(2).on_loopback();
    let Some(fleet) = builder.build() else { return };
    let (one, other) = (fleet.host(1).station(), fleet.host(2).station());
    assert!(one.address().is_loopback() && one.address() != other.address());
    let before = one.counters();
    let goodput = goodput_mbit(one, other, 16_000_000);
    let passed = one.counters().since(before).sent_bytes;
    assert!(passed >= 16_000_000, "{passed} of {goodput} Mbit/s");
    assert_eq!(one.carried_bytes(), None);
}

#[test]
fn a_link_that_is_down_carries_nothing_until_it_is_up() {
    let Some(fleet) = Fleet::builder(under_test!()).hosts(3).build() else {
        return;
    };
    let listener = listen(fleet.host(1).station());
    fleet.host(1).station().link_down();
    connect(fleet.host(2).station(), &listener).unwrap_err();
    fleet.host(1).station().link_up();
    wait_until("the link is up", Duration::from_secs(5), || {
        connect(fleet.host(2).station(), &listener)
    });
}

#[test]
fn a_partition_keeps_its_sides_whole() {
    let Some(fleet) = Fleet::builder(under_test!()).hosts(4).build() else {
        return;
    };
    let listeners: Vec<_> = fleet
        .hosts()
        .iter()
        .map(|host| listen(host.station()))
        .collect();
    let reaches =
        |from: usize, to: usize| connect(fleet.host(from).station(), &listeners[to - 1]).is_ok();
    fleet.partition(&fleet.hosts()[2..]);
    assert!(reaches(1, 2) && reaches(3, 4));
    assert!(!reaches(1, 3) && !reaches(4, 2));
    fleet.heal();
    assert!(reaches(1, 3) && reaches(4, 2));
}

#[test]
fn a_border_limits_and_counts_what_crosses_it_and_nothing_else() {
    let builder = Fleet::builder(under_test!()).hosts(4).sites(2, 80);
    let Some(fleet) = builder.build() else { return };
    let borders = fleet.borders();
    let names: Vec<_> = borders.iter().map(Border::site).collect();
    assert_eq!(names, ["site1", "site2"]);
    let passed = |from: &Station, to: &Station| {
        let before: Vec<_> = borders.iter().map(Border::counters).collect();
        let mbit = goodput_mbit(from, to, 16_000_000);
        let counters = borders.iter().zip(before);
        let passed: Vec<_> = counters.map(|(b, then)| b.counters().since(then)).collect();
        (mbit, passed)
    };
    let [one, two, three, four] = [1, 2, 3, 4].map(|number| fleet.host(number).station());

    let (mbit, passed_across) = passed(two, three);
    assert!((64.0..82.0).contains(&mbit), "{mbit} Mbit/s");
    let (from, to) = (passed_across[0], passed_across[1]);
    for crossed in [from.sent_bytes, to.received_bytes] {
        assert!(
            (16_000_000..17_600_000).contains(&crossed),
            "{passed_across:?}"
        );
    }
    // The other way there are only acknowledgements.
    for crossed in [from.received_bytes, to.sent_bytes] {
        assert!((1..1_000_000).contains(&crossed), "{passed_across:?}");
    }

    for (from, to) in [
        (one, two),
        (four, three),
        (fleet.coordinator().station(), one),
    ] {
        let (_, passed_within) = passed(from, to);
        // The first frame to a host that has not spoken yet goes to all.
        for crossed in passed_within {
            let bytes = crossed.sent_bytes + crossed.received_bytes;
            assert!(bytes < 1000, "{} to {}: {bytes}", from.name(), to.name());
        }
    }
}

#[test]
fn a_fleet_file_names_sites_only_where_there_are_any() {
    let sites = |builder: Builder| {
        let fleet = builder.hosts(3).build()?;
        fleet.coordinator().write_fleet_file(fleet.hosts().iter());
        let text = std::fs::read_to_string(fleet.coordinator().fleet_file()).unwrap();
        let file: toml::Table = text.parse().unwrap();
        let site = |of: &toml::Value| Some(of.get("site")?.as_str()?.to_owned());
        let hosts = file["host"].as_array().unwrap();
        Some((
            file.get("seed").and_then(site),
            hosts.iter().filter_map(site).collect::<Vec<_>>(),
        ))
    };
    let Some(without) = sites(Fleet::builder(under_test!())) else {
        return;
    };
    assert_eq!(without, (None, vec![]));
    let (seed, hosts) = sites(Fleet::builder(under_test!()).sites(3, 100)).unwrap();
    assert_eq!(seed.as_deref(), Some("site1"));
    assert_eq!(hosts, ["site1", "site2", "site3"]);
}

#[test]
fn in_a_fleet_with_sites_links_break_and_partitions_are_refused() {
    let builder = Fleet::builder(under_test!()).hosts(2).sites(2, 100);
    let Some(fleet) = builder.build() else { return };
    let listener = listen(fleet.host(2).station());
    fleet.host(2).station().link_down();
    connect(fleet.host(1).station(), &listener).unwrap_err();
    fleet.host(2).station().link_up();
    wait_until("the link is up", Duration::from_secs(5), || {
        connect(fleet.host(1).station(), &listener)
    });

    let partition = || fleet.partition(&fleet.hosts()[1..]);
    let panic = catch_unwind(AssertUnwindSafe(partition)).unwrap_err();
    let says = panic.downcast_ref::<&str>().unwrap();
    assert!(says.contains("sites"), "{says}");
}

#[test]
fn a_full_disk_refuses_and_a_larger_one_takes() {
    let Some(fleet) = Fleet::builder(under_test!()).build() else {
        return;
    };
    let data = fleet.host(1).data();
    let disk = SmallDisk::mount(&data, 64 * 1024);
    std::fs::write(data.join("large"), vec![1; 128 * 1024]).unwrap_err();
    disk.resize(1024 * 1024);
    std::fs::write(data.join("large"), vec![1; 128 * 1024]).unwrap();
    disk.make_read_only();
    std::fs::write(data.join("small"), "x").unwrap_err();
    disk.make_writable();
    std::fs::write(data.join("small"), "x").unwrap();
}

#[test]
fn a_process_tells_how_it_ended_and_what_it_used() {
    let Some(fleet) = Fleet::builder(under_test!()).build() else {
        return;
    };
    let script =
        "echo out; echo err >&2; i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; exit 3";
    let process = shell(&fleet, "busy", script);
    let output = process.wait(Duration::from_secs(60));
    assert_eq!(
        (
            output.code(),
            output.stdout.as_str(),
            output.stderr.as_str()
        ),
        (Some(3), "out\n", "err\n")
    );
    assert!(output.usage.cpu >= Duration::from_millis(50), "{output:?}");
    assert!(
        output.usage.cpu <= output.elapsed + Duration::from_millis(50),
        "{output:?}"
    );
    assert!(output.usage.peak_rss_bytes > 100_000, "{output:?}");
}

#[test]
fn a_killed_process_leaves_its_children_to_the_fleet() {
    let Some(fleet) = Fleet::builder(under_test!()).build() else {
        return;
    };
    let process = shell(&fleet, "parent", "sleep 1000 & echo $!; wait");
    let out = fleet.dir().join("logs/parent.out");
    let child = wait_until("the child's id", Duration::from_secs(5), || {
        std::fs::read_to_string(&out).unwrap().trim().parse::<u32>()
    });
    process.kill9();
    assert!(process_exists(child));
    drop(fleet);
    assert!(!process_exists(child));
}

#[test]
fn a_stopped_process_goes_on_when_told() {
    let Some(fleet) = Fleet::builder(under_test!()).build() else {
        return;
    };
    let process = shell(&fleet, "ticker", "while :; do echo tick; sleep 0.01; done");
    let out = fleet.dir().join("logs/ticker.out");
    let ticks = || std::fs::metadata(&out).unwrap().len();
    let more_than = |before: u64| {
        wait_until("ticks", Duration::from_secs(5), || {
            Some(()).filter(|()| ticks() > before).ok_or(ticks())
        });
    };
    more_than(0);
    process.stop();
    wait_until("it is stopped", Duration::from_secs(5), || {
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", process.pid().as_raw_nonzero()));
        let state = stat.unwrap();
        if state.contains(") T ") {
            Ok(())
        } else {
            Err(state)
        }
    });
    let at_stop = ticks();
    process.cont();
    more_than(at_stop);
}

#[test]
fn nothing_is_left_of_a_fleet_whose_test_panicked() {
    let mut seen: Option<(PathBuf, u32)> = None;
    let result = catch_unwind(AssertUnwindSafe(|| {
        let Some(fleet) = Fleet::builder(under_test!()).tmpfs().build() else {
            return;
        };
        let process = shell(&fleet, "sleeper", "exec sleep 1000");
        let pid = process.pid().as_raw_nonzero().get().unsigned_abs();
        seen = Some((fleet.dir().to_owned(), pid));
        panic!("as a failing test does");
    }));
    let Some((dir, pid)) = seen else { return };
    assert!(result.is_err());
    assert!(!dir.exists(), "{}", dir.display());
    assert!(!process_exists(pid));
    // Named like the directory, which has random letters at its end.
    let (prefix, _) = dir
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .rsplit_once('-')
        .unwrap();
    assert_eq!(namespaces(prefix), Vec::<String>::new());
}

#[test]
fn a_fleet_whose_maker_was_killed_is_removed_by_the_next() {
    let Some(fleet) = Fleet::builder(under_test!()).build() else {
        return;
    };
    drop(fleet);
    let mut maker = Command::new("true").spawn().unwrap();
    let gone = maker.id();
    maker.wait().unwrap();
    let name = format!("scap-fleet-{gone}-0-1");
    let dir = std::env::temp_dir().join(format!("scap-fleet-{gone}-0-left"));
    std::fs::create_dir(&dir).unwrap();
    assert!(
        Command::new("ip")
            .args(["netns", "add", &name])
            .status()
            .unwrap()
            .success()
    );
    let mut left = Command::new("nsenter")
        .args([&format!("--net=/run/netns/{name}"), "sleep", "1000"])
        .spawn()
        .unwrap();

    let next = Fleet::builder(under_test!()).build();
    assert!(next.is_some());
    assert!(!left.wait().unwrap().success(), "it was killed");
    assert_eq!(
        namespaces(&format!("scap-fleet-{gone}")),
        Vec::<String>::new()
    );
    assert!(!dir.exists());
}

#[test]
fn a_warning_that_nobody_expects_fails_the_test() {
    let line = "2026-11-22T10:00:00Z  WARN node: link lost peer=3";
    let run = |expected: Option<&str>| {
        catch_unwind(AssertUnwindSafe(|| {
            let Some(fleet) = Fleet::builder(under_test!()).build() else {
                return false;
            };
            expected
                .into_iter()
                .for_each(|pattern| fleet.expect_log(pattern));
            let process = shell(&fleet, "agent", &format!("echo '{line}' >&2"));
            assert_eq!(process.wait(Duration::from_secs(5)).code(), Some(0));
            true
        }))
    };
    let skipped = !run(Some("link lost")).unwrap();
    if !skipped {
        let panic = run(None).unwrap_err();
        assert!(panic.downcast_ref::<String>().unwrap().contains(line));
    }
}

fn shell(fleet: &Fleet, log: &str, script: &str) -> scap_tests::fleet::Process {
    fleet
        .host(1)
        .station()
        .spawn(log, &["sh".into()], ["-c", script], &[])
}

fn listen(station: &Station) -> TcpListener {
    let address = station.address();
    station
        .inside(move || TcpListener::bind((address, 0)))
        .unwrap()
}

/// A connection between both, or why there is none; gives up after a time that is long on a link
/// without delay.
fn connect(from: &Station, listener: &TcpListener) -> std::io::Result<(TcpStream, TcpStream)> {
    let address: SocketAddr = listener.local_addr()?;
    let limit = Duration::from_millis(500);
    let near = from.inside(move || TcpStream::connect_timeout(&address, limit))?;
    let (far, _) = listener.accept()?;
    Ok((near, far))
}

fn goodput_mbit(from: &Station, to: &Station, bytes: usize) -> f64 {
    let (mut near, mut far) = connect(from, &listen(to)).unwrap();
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || near.write_all(&vec![0; bytes]).unwrap());
        let mut received = Vec::new();
        far.read_to_end(&mut received).unwrap();
        assert_eq!(received.len(), bytes);
    });
    bytes as f64 * 8.0 / 1e6 / start.elapsed().as_secs_f64()
}

fn process_exists(pid: u32) -> bool {
    // A zombie that its parent has not looked at is no process any more.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

fn namespaces(prefix: &str) -> Vec<String> {
    std::fs::read_dir(Path::new("/run/netns"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(&format!("{prefix}-")))
        .collect()
}
