//! Whatever a caller sends, decoding and checking it ends in a plan or an error: thousands of requests, changed at random from ones
//! that make sense. The seed is fixed, so a failure shows again.

use std::panic::catch_unwind;

use agent_protocol::agent::{
    CreateContainerRequest, ExecProcessRequest, NetworkAddress, NetworkInterface, NetworkNeighbour, NetworkRoute,
    UpdateContainerRequest, UpdateNetworkRequest,
};
use protobuf::Message;

use crate::fuzzing::take;
use crate::spec::Plan;

const SPEC: &str = include_str!("../../fuzz/seeds/guest.json");

/// What may stand in the place of a value.
const VALUES: [&str; 26] = [
    "null",
    "true",
    "0",
    "-1",
    "1",
    "4096",
    "-9223372036854775808",
    "9223372036854775807",
    "18446744073709551615",
    "1e999",
    "0.5",
    "\"\"",
    "\"/\"",
    "\"..\"",
    "\"a\\u0000b\"",
    "\"0-4294967295\"",
    "\"a:b:c\"",
    "\"max\"",
    "\"SCMP_ACT_NOTIFY\"",
    "\"/../../x\"",
    "\"rshared\"",
    "[]",
    "{}",
    "[[]]",
    "[null]",
    "\"\u{ff}\u{10ffff}\"",
];

/// xorshift64*: enough to be different each time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit.max(1)
    }
}

fn mutate_bytes(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(5) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.below(256) as u8,
            2 => bytes.truncate(at),
            3 => bytes.insert(at, random.below(256) as u8),
            _ => {
                let end = (at + random.below(40)).min(bytes.len());
                let piece: Vec<u8> = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, piece);
            }
        }
    }
}

/// Puts other values in the places of some.
fn mutate_json(value: &mut serde_json::Value, random: &mut Random) {
    use serde_json::Value;
    if random.below(60) == 0 {
        let other = VALUES[random.below(VALUES.len())];
        *value = serde_json::from_str(other).unwrap_or(Value::Null);
        return;
    }
    match value {
        Value::Array(list) => {
            if random.below(40) == 0 {
                let repeated: Vec<Value> = list.iter().cycle().take(list.len() * random.below(50)).cloned().collect();
                *list = repeated;
            }
            list.iter_mut().for_each(|v| mutate_json(v, random));
        }
        Value::Object(map) => {
            if random.below(40) == 0
                && let Some(key) = map.keys().nth(random.below(map.len())).cloned()
            {
                map.remove(&key);
            }
            map.values_mut().for_each(|v| mutate_json(v, random));
        }
        _ => {}
    }
}

/// An input for [`take`]: a byte for the kind of request, and the request.
fn message(kind: u8, spec: &serde_json::Value) -> Vec<u8> {
    let part = |pointer: &str| spec.pointer(pointer).map(ToString::to_string).unwrap_or_default().into_bytes();
    let id = "box".to_owned();
    let message = match kind {
        0 => CreateContainerRequest {
            container_id: id,
            spec_json: part(""),
            state_json: br#"{"id":"box"}"#.to_vec(),
            ..Default::default()
        }
        .write_to_bytes(),
        1 => ExecProcessRequest { container_id: id, process_json: part("/process"), ..Default::default() }
            .write_to_bytes(),
        2 => {
            UpdateContainerRequest { container_id: id, resources_json: part("/linux/resources"), ..Default::default() }
                .write_to_bytes()
        }
        _ => UpdateNetworkRequest { container_id: id, ..network() }.write_to_bytes(),
    };
    [vec![kind], message.unwrap()].concat()
}

fn network() -> UpdateNetworkRequest {
    let interface = "eth0".to_owned();
    let address = NetworkAddress { address: vec![10, 0, 0, 2], prefix_length: 24, scope: 253, ..Default::default() };
    UpdateNetworkRequest {
        interfaces: vec![NetworkInterface {
            window: 5,
            name: interface.clone(),
            mac: vec![2, 0, 0, 0, 0, 1],
            mtu: 1500,
            addresses: vec![address; 2],
            ..Default::default()
        }],
        routes: vec![
            NetworkRoute { interface: interface.clone(), gateway: vec![10, 0, 0, 1], metric: 7, ..Default::default() },
            NetworkRoute {
                interface: interface.clone(),
                ipv6: true,
                destination: vec![0xfd; 16],
                prefix_length: 64,
                ..Default::default()
            },
        ],
        neighbours: vec![NetworkNeighbour {
            interface,
            address: vec![10, 0, 0, 9],
            mac: vec![2; 6],
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[test]
fn no_request_makes_the_agent_panic() {
    let spec: serde_json::Value = serde_json::from_str(SPEC).unwrap();
    let random = &mut Random(0x5eed);
    assert!(crate::network::check(&network()).is_ok());
    let mut accepted = 0;
    for round in 0..6000 {
        let mut json = spec.clone();
        mutate_json(&mut json, random);
        accepted += usize::from(round % 16 == 1 && Plan::new(json.to_string().as_bytes()).is_ok());
        let kind = random.below(4) as u8;
        let mut message = message(kind, &json);
        if round % 2 == 0 {
            mutate_bytes(&mut message, random);
            message.splice(..message.len().min(1), [kind]);
        }
        let taken = catch_unwind(|| take(&message));
        assert!(taken.is_ok(), "round {round}: {}", String::from_utf8_lossy(&message));
    }
    assert!(accepted > 10, "only {accepted} configs were still good: the test tests nothing");
}
