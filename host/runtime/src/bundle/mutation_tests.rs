//! Good configurations with seeded mistakes: whatever they become, there is an answer, and it is one line.

use std::panic::catch_unwind;

use serde_json::Value;

use super::*;

const SEEDS: [&str; 3] = [
    include_str!("../spec/config.json"),
    include_str!("../../../../fuzz/seeds/process.json"),
    include_str!("../../../../fuzz/seeds/resources.json"),
];

/// xorshift64*: the same sequence for the same seed, everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

fn strange(random: &mut Random) -> Value {
    let values = [
        "null",
        "true",
        "-1",
        "0",
        "1e400",
        "1.5",
        "9223372036854775808",
        "18446744073709551615",
        "-9223372036854775809",
        "\"\"",
        "\"../../../etc/passwd\"",
        "\"a\\u0000b\"",
        "\"\\u001b[2J\\n\"",
        "[]",
        "{}",
        "[null]",
        "[[[]]]",
        "{\"\":0}",
        "\"\\ud83e\\udd80\"",
        "[\"a\",1]",
        "{\"type\":\"mount\",\"path\":\"x\"}",
        "4294967296",
    ];
    serde_json::from_str(values[random.below(values.len())]).unwrap_or_else(|_| Value::from("x".repeat(5000)))
}

/// Replaces, removes or doubles one value somewhere in the tree.
fn mutate(value: &mut Value, random: &mut Random) {
    let leave = random.below(4) == 0;
    match value {
        Value::Array(list) if !leave && !list.is_empty() => {
            let index = random.below(list.len());
            match random.below(8) {
                0 => drop(list.remove(index)),
                1 => list.push(list[index].clone()),
                _ => mutate(&mut list[index], random),
            }
        }
        Value::Object(map) if !leave && !map.is_empty() => {
            let key = map.keys().nth(random.below(map.len())).unwrap().clone();
            match random.below(8) {
                0 => drop(map.remove(&key)),
                1 => drop(map.insert(format!("{key}x"), strange(random))),
                _ => mutate(map.get_mut(&key).unwrap(), random),
            }
        }
        other => *other = strange(random),
    }
}

/// Changes bytes of the text: mostly not JSON afterwards.
fn scramble(text: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        let place = random.below(text.len());
        match random.below(4) {
            0 => text.truncate(place),
            1 => drop(text.splice(place..place, [random.next() as u8])),
            2 => drop(text.splice(place..(place + 1).min(text.len()), [])),
            _ => {
                if let Some(byte) = text.get_mut(place) {
                    *byte = random.next() as u8;
                }
            }
        }
    }
}

#[test]
fn no_configuration_is_without_an_answer() {
    let seed = std::env::var("SANDBOX_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x5eed_u64).max(1);
    let mut random = Random(seed);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    let (mut refused, mut accepted) = (0, 0);
    for round in 0..3000 {
        let good = SEEDS[round % SEEDS.len()];
        let mut text = good.as_bytes().to_vec();
        if round % 4 == 0 {
            scramble(&mut text, &mut random);
        } else {
            let mut value: Value = serde_json::from_str(good).unwrap();
            (0..=random.below(3)).for_each(|_| mutate(&mut value, &mut random));
            text = value.to_string().into_bytes();
        }
        fs::write(&path, &text).unwrap();
        let result = catch_unwind(|| Bundle::load(directory.path()).map(drop).map_err(|error| error.to_string()));
        let shown = || format!("seed {seed}, round {round}: {}", String::from_utf8_lossy(&text));
        match result.unwrap_or_else(|_| panic!("{}", shown())) {
            Ok(()) => accepted += 1,
            Err(sentence) => {
                assert!(!sentence.is_empty() && sentence.len() < 2000, "{}\n{sentence}", shown());
                assert!(!sentence.contains(char::is_control), "{}\n{sentence:?}", shown());
                refused += 1;
            }
        }
    }
    assert!(refused > 500 && accepted > 50, "{refused} refused, {accepted} accepted");
}

#[test]
fn the_seeds_are_good() {
    for seed in SEEDS {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("config.json"), seed).unwrap();
        Bundle::load(directory.path()).unwrap();
    }
}
