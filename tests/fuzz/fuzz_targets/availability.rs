#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| scap_tests::fuzz::messages::availability(bytes));
