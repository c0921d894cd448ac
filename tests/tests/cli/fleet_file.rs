//! The fleet file is not there, or says what it cannot.

use super::scene::Scene;

const DOING: &str = "read the fleet";

fn deploy(fleet: &str) -> [&str; 8] {
    [
        "deploy", "--state", "st", "--repo", "repo", "--fleet", fleet, "--yes",
    ]
}

#[test]
fn a_fleet_file_that_is_not_there_is_named() {
    let scene = Scene::new();
    scene.repo();
    let cause = "missing.toml: No such file or directory";
    let ended = scene.scap(&deploy("missing.toml"));
    ended.fails(2, DOING, cause, "--fleet");
}

#[test]
fn what_is_wrong_with_a_fleet_file_is_told_with_where_it_is() {
    let scene = Scene::new();
    scene.repo();
    let good = "[[host]]\nname = 'web1'\naddress = '127.0.0.1:9'\n";
    for (text, causes) in [
        ("", ["fleet.toml", "names no host"].as_slice()),
        (
            "[[host]]\nname = 'web1'\n",
            &["fleet.toml", "line 1", "`address`"],
        ),
        ("[[host]]\naddress = '127.0.0.1:9'\n", &["line 1", "`name`"]),
        (
            &format!("{good}adress = 'x'\n"),
            &["line 4", "`adress`", "expected one of"],
        ),
        (&format!("{good}[[hosts]]\n"), &["line 4", "`hosts`"]),
        (&format!("{good}{good}"), &["host web1 twice"]),
        (&format!("{good}via = 'web2'"), &["web1", "`via`", "web2"]),
        (&format!("{good}rate_mbit = -1.0"), &["web1", "above 0"]),
        (&format!("{good}groups = 'canary'"), &["line 4"]),
        ("[[host]\n", &["line 1"]),
        (
            "[[host]]\nname = 'web1'\naddress = 'nowhere'",
            &["host web1", "`nowhere`", "10.0.0.2:7227"],
        ),
        (
            "[[host]]\nname = 'web1'\naddress = '10.0.0.2'",
            &["host web1", "`10.0.0.2`"],
        ),
        (
            "[[host]]\nname = 'web1'\naddress = '10.0.0.2:70000'",
            &["`10.0.0.2:70000`"],
        ),
        ("[[host]]\nname = 'web1'\naddress = []", &["web1", "1 to 8"]),
        (
            "[[host]]\nname = '../web1'\naddress = 'a:1'",
            &["line 2", "host name"],
        ),
        ("[[host]]\nname = ''\naddress = 'a:1'", &["line 2"]),
    ] {
        scene.write("fleet.toml", text);
        let ended = scene.scap(&deploy("fleet.toml"));
        ended.fails(2, DOING, "", "[[host]]").says(causes);
    }
    scene.write("fleet.toml", [0xff, 0xfe]);
    let ended = scene.scap(&deploy("fleet.toml"));
    ended.fails(2, DOING, "fleet.toml", "").says(&["UTF-8"]);
    assert!(!scene.path("st/records").exists(), "something was signed");
}
