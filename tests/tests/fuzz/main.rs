//! Every target of [`scap_tests::fuzz`] with its committed corpus, and for a short time with what is made from that.
//!
//! `SCAP_FUZZ_SECONDS` gives each target so long, `SCAP_FUZZ_SEED` other inputs, `SCAP_FUZZ_TARGET` takes only one.
//! `SCAP_FUZZ_WRITE_SEEDS=1` writes the corpora again that [`seeds`] makes.

mod seeds;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use scap_tests::fuzz::{
    TARGETS, Target,
    campaign::{Budget, Campaign, Failure},
};

/// Most bytes of all corpora: they are seeds, not what long runs find.
const CORPORA_BYTES_MAX: u64 = 300 * 1024;

/// What a target gets unless `SCAP_FUZZ_SECONDS` says otherwise.
const SHORT: Budget = Budget {
    time: Duration::from_millis(900),
    inputs: 20_000,
};

#[test]
fn every_committed_input_passes_its_target() {
    for target in targets() {
        let corpus = corpus(target);
        assert!(!corpus.is_empty(), "{} has no corpus", target.name);
        let inputs = corpus.iter().map(|(_, input)| input.as_slice());
        passed(target, campaign(target, "replayed").replay(inputs));
    }
}

#[test]
fn no_target_fails_on_what_is_made_from_its_corpus() {
    let seed = from_env("SCAP_FUZZ_SEED").unwrap_or(1);
    let budget = from_env("SCAP_FUZZ_SECONDS").map_or(SHORT, |seconds| Budget {
        time: Duration::from_secs(seconds),
        inputs: u64::MAX,
    });
    println!("SCAP_FUZZ_SEED={seed}");
    let mut failed = Vec::new();
    for target in targets() {
        let corpus: Vec<_> = corpus(target).into_iter().map(|(_, input)| input).collect();
        match campaign(target, "made").fuzz(&corpus, seed, budget) {
            Ok(tried) => {
                println!("{:16} {tried} inputs", target.name);
                // Else it was so slow that it hardly was fuzzed.
                assert!(tried >= 20, "{}: {tried} inputs", target.name);
            }
            Err(failure) => failed.push(told(target, &failure)),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn each_target_is_one_of_cargo_fuzz_and_has_a_corpus_and_nothing_else_has() {
    let expected: BTreeSet<String> = TARGETS.iter().map(|it| it.name.to_owned()).collect();
    assert_eq!(expected.len(), TARGETS.len(), "a name is there twice");
    let sources = entries(&root().join("fuzz_targets")).into_iter();
    let sources: BTreeSet<String> = sources
        .map(|name| name.trim_end_matches(".rs").to_owned())
        .collect();
    assert_eq!(sources, expected);
    assert_eq!(entries(&root().join("corpus")), expected);
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("it is there");
    let manifest: toml::Table = manifest.parse().expect("it is TOML");
    let bins = manifest["bin"].as_array().into_iter().flatten();
    let bins: BTreeSet<String> = bins
        .filter_map(|bin| Some(bin.get("name")?.as_str()?.to_owned()))
        .collect();
    assert_eq!(bins, expected);
}

#[test]
fn the_corpora_are_small() {
    let corpora = TARGETS.iter().flat_map(corpus);
    let bytes: u64 = corpora.map(|(_, input)| input.len() as u64).sum();
    assert!(bytes <= CORPORA_BYTES_MAX, "{bytes} bytes");
}

/// Else mutations are of what is refused at the first byte, and find nothing behind it.
#[test]
fn seeds_are_made_of_what_is_read_and_each_target_has_some() {
    let seeds = seeds::all();
    for target in TARGETS {
        assert!(
            seeds.iter().any(|seed| seed.target == target.name),
            "{}",
            target.name
        );
    }
    if from_env::<u8>("SCAP_FUZZ_WRITE_SEEDS") == Some(1) {
        for seed in &seeds {
            let directory = root().join("corpus").join(seed.target);
            fs::create_dir_all(&directory).expect("the corpora can be written");
            fs::write(directory.join(&seed.name), &seed.bytes).expect("a seed can be written");
        }
    }
    for seed in seeds {
        let target = scap_tests::fuzz::named(seed.target);
        let inputs = [seed.bytes.as_slice()];
        passed(target, campaign(target, "seeds").replay(inputs));
    }
}

/// The result, where there is no failure.
fn passed<T>(target: &Target, result: Result<T, Failure>) -> T {
    result.unwrap_or_else(|failure| panic!("{}", told(target, &failure)))
}

fn told(target: &Target, Failure { input, problem }: &Failure) -> String {
    let (name, input) = (target.name, input.display());
    format!("{name} fails on the bytes in {input}: {problem}")
}

/// Each test has inputs of its own in hand: they run side by side.
fn campaign<'a>(target: &'a Target, of: &str) -> Campaign<'a> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz").join(of);
    Campaign::new(target, &directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
}

fn targets() -> Vec<&'static Target> {
    match from_env::<String>("SCAP_FUZZ_TARGET") {
        Some(name) => vec![scap_tests::fuzz::named(&name)],
        None => TARGETS.iter().collect(),
    }
}

/// The inputs of a target by their file names, in order: which comes first decides what a seed makes.
fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let directory = root().join("corpus").join(target.name);
    let read = |name: String| {
        let path = directory.join(&name);
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (name, bytes)
    };
    entries(&directory).into_iter().map(read).collect()
}

fn entries(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory);
    let entries = entries.unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let name = |entry: std::io::Result<fs::DirEntry>| {
        let name = entry.expect("a directory can be read").file_name();
        name.into_string().expect("names of ours are text")
    };
    entries.map(name).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn from_env<T: FromStr>(variable: &str) -> Option<T> {
    let text = std::env::var(variable).ok()?;
    let value = text.parse().ok();
    Some(value.unwrap_or_else(|| panic!("{variable}={text} is not such a value")))
}
