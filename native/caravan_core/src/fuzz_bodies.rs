//! Runs the bodies of the fuzz targets as property tests, and once with each of their seeds.

#[path = "../fuzz/bodies.rs"]
mod bodies;

use std::env;
use std::fs;
use std::path::Path;

use proptest::prelude::*;

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(target);
    let entries = fs::read_dir(dir).expect("a directory of seeds");
    let files = entries.map(|entry| fs::read(entry.expect("an entry").path()).expect("a seed"));
    let seeds: Vec<_> = files.collect();
    assert!(!seeds.is_empty());
    seeds
}

/// The number of cases. `.ci/fuzz` sets a higher one.
fn cases() -> u32 {
    let cases = env::var("PROPTEST_CASES").ok();
    cases.and_then(|text| text.parse().ok()).unwrap_or(2_000)
}

/// Returns inputs. Three of four inputs are a seed in which octets were changed, inserted, removed or repeated. The
/// others are random octets.
fn input(target: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 0..8);
    let mutated = (prop::sample::select(seeds(target)), changes).prop_map(|(mut seed, changes)| {
        for (index, byte, change) in changes {
            if seed.is_empty() {
                break;
            }
            let at = index.index(seed.len());
            match change {
                0 => seed[at] = byte,
                1 => seed.truncate(at),
                2 => seed.insert(at, byte),
                _ => seed.extend_from_within(at..),
            }
        }
        seed
    });
    prop_oneof![3 => mutated, 1 => prop::collection::vec(any::<u8>(), 0..600)]
}

macro_rules! targets {
    ($($target:ident: $body:path),+ $(,)?) => {$(
        mod $target {
            use super::*;

            #[test]
            fn accepts_its_seeds() {
                super::seeds(stringify!($target)).iter().for_each(|seed| $body(seed));
            }

            proptest! {
                #![proptest_config(ProptestConfig::with_cases(cases()))]

                #[test]
                fn accepts_any_input(data in input(stringify!($target))) {
                    $body(&data);
                }
            }
        }
    )+};
}

targets! {
    port: bodies::check_port,
    config: bodies::check_config,
    answer: bodies::check_answer,
}
