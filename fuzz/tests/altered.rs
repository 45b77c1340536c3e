//! Some thousands of inputs for each target, made from its seeds by what usually breaks parsers. The same in each run,
//! but for what is signed anew.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs, reason = "tests")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use hauberk_fuzz::{Target, targets};

/// How many for each target; `HAUBERK_FUZZ_INPUTS` tries more.
const INPUTS: u64 = 10_000;
/// What means something to one parser or another.
const TOKENS: [&[u8]; 18] = [
    b"\x00",
    b"\xff",
    b"\x80",
    b"\x30\x80",
    b"\x30\x84\xff\xff\xff\xff",
    b"\x02\x00",
    b"%2e",
    b"%2f",
    b"%00",
    b"..",
    b";",
    b"//",
    b"\\",
    b"{",
    b"\"",
    b"*",
    b".",
    b"\xc0\xaf",
];

/// Numbers that look random and are the same in each run (Marsaglia's xorshift).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).unwrap()
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        let index = self.below(all.len());
        all.get(index).unwrap()
    }
}

fn altered(target: &Target, numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = numbers.one_of(&target.seeds).clone();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(bytes.len());
        let end = (at + 1 + numbers.below(16)).min(bytes.len());
        match numbers.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << numbers.below(8),
            1 if at < bytes.len() => bytes[at] = bytes[at].wrapping_add(1),
            2 => drop(bytes.drain(at.min(end)..end)),
            3 => {
                let again = bytes[at.min(end)..end].to_vec();
                bytes.splice(at..at, again);
            }
            4 => _ = bytes.splice(at..at, numbers.one_of(&TOKENS).iter().copied()),
            5 => {
                let other = numbers.one_of(&target.seeds);
                let from = numbers.below(other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}

#[test]
fn altered_inputs_break_nothing() {
    let inputs = std::env::var("HAUBERK_FUZZ_INPUTS").map_or(INPUTS, |text| text.parse().unwrap());
    for target in targets() {
        for seed in &target.seeds {
            assert!(target.check(seed), "{} takes no {:?}", target.name, String::from_utf8_lossy(seed));
        }
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        for _ in 0..inputs {
            let bytes = altered(&target, &mut numbers);
            if catch_unwind(AssertUnwindSafe(|| target.check(&bytes))).is_err() {
                panic!("{} is broken by {:?}", target.name, String::from_utf8_lossy(&bytes));
            }
        }
    }
}

/// Each binary of `cargo fuzz` runs one of the targets, and each target has one.
#[test]
fn every_target_has_a_binary() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz_targets");
    let mut binaries: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    binaries.sort();
    let mut expected: Vec<_> = targets().iter().map(|target| format!("{}.rs", target.name)).collect();
    expected.sort();
    assert_eq!(binaries, expected);
    // It runs what is declared here, whatever lies in the folder.
    let manifest = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
    let paths = manifest.lines().filter_map(|line| line.strip_prefix("path = \"fuzz_targets/"));
    let mut declared: Vec<_> = paths.map(|path| path.trim_end_matches('"')).collect();
    declared.sort_unstable();
    assert_eq!(declared, expected);
    for target in targets() {
        let text = std::fs::read_to_string(format!("{folder}/{}.rs", target.name)).unwrap();
        assert!(text.contains(&format!("target!(\"{}\")", target.name)), "{text}");
    }
}
