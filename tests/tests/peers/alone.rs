//! Tests that look at their whole process (its memory, its panics), which they are therefore alone in.

use std::process::Command;

/// Whether this process runs that test alone; if not, it has now passed in a process of its own.
///
/// # Panics
/// Where it failed there, with what it said.
pub fn is_alone(test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    // A test that was renamed is none.
    assert!(said.contains("1 passed"), "{test}: {said}");
    false
}

const ALONE: &str = "SCAP_TESTS_ALONE";
