//! `enroll --list`: who was enrolled from this state directory.

use serde_json::{Value, json};

use super::failed;
use crate::{
    cli::{CliError, exit},
    state::{EnrolmentRecord, StateDirectory},
};

pub(super) fn run(state: &StateDirectory, as_json: bool) -> Result<u8, CliError> {
    let records = state.enrolments().map_err(|error| failed(&error))?;
    if as_json {
        let hosts: Vec<Value> = records.iter().map(record_json).collect();
        println!("{}", json!({"schema": "scap.enrolments/1", "hosts": hosts}));
        return Ok(exit::DONE);
    }
    if records.is_empty() {
        println!("nobody was enrolled from here yet, as far as is recorded");
    }
    for record in &records {
        println!(
            "{}  {}  {}  by {} {:.10}  valid until {:.10}",
            record.host,
            record.fingerprint(),
            joined(&record.environments),
            record.how,
            record.enrolled.to_string(),
            record.valid_until.to_string(),
        );
    }
    Ok(exit::DONE)
}

/// Names, as they are shown in a line.
pub(super) fn joined<T: ToString>(names: &[T]) -> String {
    let names: Vec<String> = names.iter().map(T::to_string).collect();
    names.join(",")
}

fn record_json(record: &EnrolmentRecord) -> Value {
    json!({
        "host": record.host,
        "key": record.fingerprint(),
        "environments": record.environments,
        "how": record.how,
        "enrolled": record.enrolled,
        "valid_until": record.valid_until,
    })
}
