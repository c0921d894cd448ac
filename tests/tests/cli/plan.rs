//! What a deployment would be, before there is one: nobody is contacted, and no state is needed.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::scene::Scene;

/// Three sites of four hosts, a canary in the seed's, and narrow borders.
fn three_sites() -> String {
    let mut text = "[seed]\nrate_mbit = 100\nsite = 'east'\n".to_owned();
    for (number, site) in ["east", "north", "west"].into_iter().enumerate() {
        write!(
            text,
            "[[site]]\nname = '{site}'\nborder_mbit = 20\ndelay_ms = 5\n"
        )
        .unwrap();
        for host in 4 * number..4 * number + 4 {
            write!(
                text,
                "[[host]]\nname = 'web{host}'\naddress = 'web{host}.example:7227'\n\
                 site = '{site}'\nrate_mbit = 100\n"
            )
            .unwrap();
            if host == 0 {
                text += "groups = ['canary']\n";
            }
        }
    }
    text
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn a_plan_says_from_where_each_site_has_the_content() {
    let scene = Scene::empty();
    scene.write("fleet.toml", three_sites());
    let ended = scene.scap(&["plan", "--fleet", "fleet.toml"]).exits(0);
    let ended = ended.prints(&[
        "12 hosts in 3 sites: 1 canary, 11 rest",
        "site east: 4 hosts (1 canary, 3 rest), with the seed",
        "lane 0 from the seed",
        "site north: 4 hosts (4 rest)",
        "gateways 4, of which 2 fetch across while all is well: web",
        "web0 is alone in wave canary",
        "drawn anew for each release",
    ]);
    assert_eq!(ended.stderr, "");

    let json = [
        "plan",
        "--fleet",
        "fleet.toml",
        "--json",
        "--random-seed",
        "7",
    ];
    let plan = scene.scap(&json).exits(0).json("scap.plan/1");
    assert_eq!(plan["random_seed"], 7);
    assert_eq!(plan["simulation"], Value::Null);
    let sites = plan["sites"].as_array().unwrap();
    assert_eq!(sites.len(), 3);
    for site in sites {
        let is_home = site["name"] == "east";
        assert_eq!(
            (&site["hosts"], &site["has_seed"]),
            (&json!(4), &json!(is_home))
        );
        assert_eq!(site["feeds"].as_array().unwrap().len(), 2, "{site}");
        assert_eq!(site["gateways"], if is_home { 0 } else { 4 });
    }
    for (topology, links) in [("swarm", "a swarm"), ("tree", "a tree, 2 hosts below each")] {
        let arguments = ["plan", "--fleet", "fleet.toml", "--topology", topology];
        scene.scap(&arguments).exits(0).prints(&[links]);
    }
}

#[test]
fn a_simulated_deployment_brings_one_copy_into_each_site_and_tells_how_long_it_takes() {
    let scene = Scene::empty();
    scene.write("fleet.toml", three_sites());
    let arguments = [
        "plan",
        "--fleet",
        "fleet.toml",
        "--simulate",
        "--size",
        "32MiB",
    ];
    let plan = scene.scap(&[&arguments[..], &["--json"]].concat()).exits(0);
    let plan = plan.json("scap.plan/1");
    let simulation = &plan["simulation"];
    assert_eq!(simulation["is_complete"], true, "{simulation:#}");
    assert_eq!(
        (&simulation["chunks"], &simulation["chunk_bytes"]),
        (&json!(256), &json!(131_072))
    );
    // 32 MiB at 20 Mbit/s.
    assert!((number(&simulation["bound_seconds"]) - 13.42).abs() < 0.01);
    let ratio = number(&simulation["bound_ratio"]);
    assert!((1.0..1.8).contains(&ratio), "{simulation:#}");
    let waves = simulation["waves"].as_array().unwrap();
    let names: Vec<_> = waves.iter().map(|wave| &wave["name"]).collect();
    assert_eq!(names, ["canary", "rest"]);
    let seconds = waves.iter().map(|wave| {
        let (seconds, bound) = (&wave["seconds"], &wave["bound_seconds"]);
        assert!(number(seconds) >= number(bound), "{wave}");
        number(seconds)
    });
    let seconds: f64 = seconds.sum();
    assert!((seconds - number(&simulation["seconds"])).abs() < 0.001);
    let sites = simulation["sites"].as_array().unwrap();
    assert_eq!(sites.len(), 3);
    for site in sites {
        let least = if site["name"] == "east" { 0.0 } else { 1.0 };
        let copies = number(&site["copies_in"]);
        assert!((least..=1.1).contains(&copies), "{simulation:#}");
    }
    // One to the canary; and of what it passes on to the others the seed, which is idle by then, sends a part.
    assert!(number(&simulation["seed_copies"]) <= 1.5, "{simulation:#}");
    assert!(
        number(&simulation["duplicate_share"]) < 0.1,
        "{simulation:#}"
    );
    let assumed = &simulation["assumed"];
    assert_eq!(
        (
            &assumed["hosts_without_rate"],
            &assumed["sites_without_border"]
        ),
        (&json!(0), &json!([]))
    );

    scene.scap(&arguments).exits(0).prints(&[
        "simulated  32.0 MiB in 256 chunks of 128.0 KiB",
        "of the bound of 13.4 s",
        "canary     ",
        "border     site north: 1.0",
        "assumed    ",
        "the wire carries about 7 % more",
    ]);
}

#[test]
fn what_the_fleet_file_does_not_say_is_assumed_and_named() {
    let scene = Scene::empty();
    let host = |name: &str, site: &str| {
        format!("[[host]]\nname = '{name}'\naddress = '{name}:1'\nsite = '{site}'\n")
    };
    scene.write("fleet.toml", host("a", "east") + &host("b", "west"));
    let arguments = [
        "plan",
        "--fleet",
        "fleet.toml",
        "--simulate",
        "--size",
        "1000000",
    ];
    scene.scap(&arguments).exits(0).prints(&[
        "the links of 2 hosts and the seed's: 1000 Mbit/s each way",
        "site east, site west: 1000 Mbit/s each way",
        "10 ms one way",
        "let `[seed] site` say so",
    ]);
}

#[test]
fn what_cannot_be_planned_is_misuse() {
    let scene = Scene::empty();
    let good = "[[host]]\nname = 'web1'\naddress = '127.0.0.1:9'\n";
    let plan = ["plan", "--fleet", "fleet.toml"];
    scene
        .scap(&plan)
        .fails(2, "read the fleet", "fleet.toml", "--fleet");
    for (site, cause) in [
        ("name = 'nowhere'", "site \"nowhere\": no host is in it"),
        ("border_mbit = 5", "`name`"),
        (
            "name = ''\nborder_mbit = 0",
            "`border_mbit` must be above 0",
        ),
        (
            "name = ''\ndelay_ms = -1",
            "`delay_ms` must be from 0 to 5000",
        ),
        ("name = ''\nrate_mbit = 5", "`rate_mbit`"),
    ] {
        scene.write("fleet.toml", format!("{good}[[site]]\n{site}\n"));
        scene.scap(&plan).fails(2, "read the fleet", cause, "");
    }
    scene.write("fleet.toml", good);
    for (more, piece) in [
        (["--simulate"].as_slice(), "--size <SIZE>"),
        (&["--size", "1MiB"], "--simulate"),
        (&["--simulate", "--size", "1MB"], "`MB`"),
        (&["--simulate", "--size", "0"], "nothing is to be deployed"),
        (&["--simulate", "--size", "1000GiB"], "256.0 GiB"),
        (&["--topology", "ring"], "'ring'"),
    ] {
        let ended = scene.scap(&[&plan, more].concat());
        ended.fails_as_misuse(&[piece]);
    }
}
