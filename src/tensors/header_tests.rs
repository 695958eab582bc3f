//! Headers that break a rule, and a hundred thousand that were damaged at random.

use std::collections::BTreeSet;
use std::time::Instant;

use safetensors::SafeTensors;

use super::super::load;
use super::*;

/// A whole file.
fn file(json: &str, data: usize) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn read(bytes: &[u8]) -> Result<Header, String> {
    Header::from_reader(&mut &bytes[..], bytes.len() as u64).map_err(|problem| match problem {
        Problem::Io(e) => e.to_string(),
        Problem::Format(message) => message,
    })
}

const TWO: &str = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"U8","shape":[],"data_offsets":[24,25]}}"#;

#[test]
fn a_good_header_is_read() {
    let header = read(&file(TWO, 25)).unwrap();
    assert_eq!(header.metadata["format"], "pt");
    assert_eq!(header.data_start, 8 + TWO.len() as u64);
    assert_eq!(header.entries.len(), 2);
    let a = header.find("a").unwrap();
    assert_eq!((a.shape.as_slice(), a.dtype, a.start, a.end), (&[2, 3][..], Dtype::F32, 0, 24));
    assert_eq!(header.find("b").unwrap().elements(), 1);
    assert!(header.find("c").is_none());
    for good in [
        "{}",
        "{}    ",
        r#"{"a":{"dtype":"F32","shape":[0,4],"data_offsets":[0,0]}}"#,
        r#"{"a":{"dtype":"F4","shape":[2,3],"data_offsets":[0,3]}}"#,
    ] {
        let data = if good.contains("F4") { 3 } else { 0 };
        read(&file(good, data)).unwrap();
    }
}

#[test]
fn every_rule_has_a_header_that_breaks_it() {
    let entry = |dtype: &str, shape: &str, start: u64, end: u64| {
        format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#)
    };
    let one = |body: &str| format!(r#"{{"a":{body}}}"#);
    let two = |a: &str, b: &str| format!(r#"{{"a":{a},"b":{b}}}"#);
    let f32s = |start, end| entry("F32", &format!("[{}]", (end - start) / 4), start, end);
    let big = (1u64 << 61) - 1;
    let huge = (0..9).fold(String::new(), |text, i| {
        let (start, end) = if i < 8 { (i * big, (i + 1) * big) } else { (8 * big, u64::MAX) };
        let comma = if i == 0 { "" } else { "," };
        text + &format!("{comma}\"{i}\":{}", entry("U8", &format!("[{}]", end - start), start, end))
    });
    for (json, data, says) in [
        (String::new(), 0, "EOF"),
        ("[]".into(), 0, "begins with {, got byte 0x5b"),
        (" {}".into(), 0, "0x20"),
        ("{".into(), 0, "header: EOF"),
        ("{}\0\0\0\0".into(), 0, "after the JSON, got byte 0x00 at 2"),
        ("{}x".into(), 0, "after the JSON"),
        ("{}}".into(), 0, "after the JSON"),
        ("{]".into(), 0, "header:"),
        (r#"{"__metadata__"}"#.into(), 0, "header:"),
        (one("[[[[1]]]]"), 0, "at most 3 levels"),
        ("{\"a\":".repeat(100_000), 0, "at most 3 levels"),
        ("{".repeat(1_000_000), 0, "at most 3 levels"),
        (one("1"), 0, "a: "),
        (one("null"), 0, "a: "),
        (one("{}"), 0, "dtype"),
        (one(r#"{"dtype":"F32","shape":[1]}"#), 4, "data_offsets"),
        (one(r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}"#), 4, "unknown field `x`"),
        (one(r#"{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}"#), 4, "duplicate"),
        (one(r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}"#), 4, "header: a"),
        (one(r#"{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}"#), 4, "-1"),
        (one(r#"{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}"#), 4, "1.0"),
        (one(&entry("F32", "[18446744073709551616]", 0, 4)), 4, "header: a"),
        (one(&entry("F33", "[1]", 0, 4)), 4, "expected one of BOOL, F4"),
        (one(&entry("F33", "[1]", 0, 4)), 4, "tensor a: dtype"),
        (one(&entry("f32", "[1]", 0, 4)), 4, "got f32"),
        (one(&entry("F32", "[2]", 0, 4)), 4, "expected 8 bytes for F32 [2], got 4"),
        (one(&entry("F4", "[3]", 0, 2)), 2, "expected 1.5 bytes for F4"),
        (one(&entry("F32", "[1]", 4, 0)), 4, "start ≤ end, got [4, 0]"),
        (one(&entry("U8", "[1,1,1,1,1,1,1,1,1]", 0, 1)), 1, "at most 8 dimensions"),
        (one(&entry("U8", "[4294967296,4294967296]", 0, 0)), 0, "can be counted"),
        (one(&entry("U8", "[0,4294967296,4294967296]", 0, 0)), 0, "can be counted"),
        (one(&entry("F64", "[2305843009213693952]", 0, 0)), 0, "can be counted"),
        (one(&f32s(4, 8)), 8, "a: follows a hole: expected its data to begin at 0, got 4"),
        (two(&f32s(0, 4), &f32s(8, 12)), 12, "b: follows a hole"),
        (
            two(&f32s(0, 8), &f32s(4, 12)),
            12,
            "b: overlaps another: expected its data to begin at 8",
        ),
        (two(&f32s(0, 8), &f32s(0, 8)), 8, "overlaps"),
        (one(&f32s(0, 4)), 5, "expected 4 bytes of data, got 5; bytes follow"),
        (one(&f32s(0, 4)), 3, "expected 4 bytes of data, got 3; the file is truncated"),
        ("{}".into(), 1, "expected 0 bytes of data, got 1"),
        (format!("{{{huge}}}"), 64, "tensor 0: shape: expected a number of elements"),
        (two(&f32s(0, 4), &f32s(4, 8)).replace("\"b\"", "\"a\""), 8, "a: expected each name once"),
        (r#"{"__metadata__":{"k":"1","k":"2"}}"#.into(), 0, "k: expected each key once"),
        (r#"{"__metadata__":{},"__metadata__":{}}"#.into(), 0, "__metadata__: expected each name"),
        (r#"{"__metadata__":{"k":1}}"#.into(), 0, "__metadata__"),
        (format!(r#"{{"{}":{}}}"#, "n".repeat(1025), f32s(0, 4)), 4, "at most 1024 bytes"),
        (format!(r#"{{"{}":{}}}"#, "\u{1}", f32s(0, 4)), 4, "control character"),
    ] {
        let error = read(&file(&json, data)).unwrap_err();
        let head: String = json.chars().take(80).collect();
        assert!(error.contains(says), "{head}: {error}");
        assert!(error.len() < 400 && !error.contains('\n'), "{head}: {error}");
    }
    // Not UTF-8 in a name.
    let mut bytes = file(&one(&f32s(0, 4)), 4);
    bytes[10] = 0xff;
    assert!(read(&bytes).unwrap_err().contains("header:"));
}

#[test]
fn lengths_are_compared_before_anything_else() {
    for (len, says) in [(0, "got 0 bytes"), (7, "got 7 bytes")] {
        assert!(read(&vec![0; len]).unwrap_err().contains(says));
    }
    let mut bytes = file("{}", 0);
    bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(read(&bytes).unwrap_err().contains("expected 18446744073709551615 bytes"));
    // Too long, and as long as the file says: nothing is read of it.
    let claimed = 99_000_000u64;
    let mut prefix = &claimed.to_le_bytes()[..];
    let error = Header::from_reader(&mut prefix, 8 + claimed);
    assert!(matches!(error, Err(Problem::Format(m)) if m.contains("at most 16000000 bytes")));
    // A header of 0x280 bytes begins like a pickle.
    let long = file(&format!("{{}}{}", " ".repeat(0x27e)), 0);
    assert_eq!(long[..2], [0x80, 2]);
    read(&long).unwrap();
    for mark in
        [&b"\x80\x02}q\x00(X\x01"[..], b"\x80\x04\x95\x64\0\0\0\0", b"PK\x03\x04\0\0\x08\x08"]
    {
        assert!(read(&[mark, &[0; 64][..]].concat()).unwrap_err().contains("a pickle"));
    }
    // A file cut at every byte.
    let whole = file(TWO, 25);
    for len in 0..whole.len() {
        read(&whole[..len]).unwrap_err();
    }
}

#[test]
fn many_empty_tensors_are_counted_before_they_are_parsed() {
    let many = |count: usize, pad: usize| {
        let mut json = String::from("{");
        for i in 0..count {
            let comma = if i == 0 { "" } else { "," };
            json += &format!(
                r#"{comma}"{i:0pad$}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#
            );
        }
        file(&(json + "}"), 0)
    };
    let timed = |bytes: &[u8]| {
        let start = Instant::now();
        let out = read(bytes).map(|header| header.entries.len());
        println!("{} bytes of header: {:?} in {:?}", bytes.len(), out, start.elapsed());
        out
    };
    assert_eq!(timed(&many(MAX_TENSORS, 1)), Ok(MAX_TENSORS));
    for count in [MAX_TENSORS + 1, MAX_TENSORS + 2, 230_000] {
        assert!(timed(&many(count, 1)).unwrap_err().contains("at most 65536 tensors"));
    }
    assert_eq!(timed(&many(1000, 900)), Ok(1000));
    assert!(timed(&many(1000, 1000)).unwrap_err().contains("for 1000 tensors"));
    assert_eq!(timed(&many(1001, 1000)), Ok(1001));
}

#[test]
fn names_are_printed_in_one_line() {
    assert_eq!(shown("a.weight"), "a.weight");
    assert_eq!(shown("a\n\u{1b}[31m"), "a\\n\\u{1b}[31m");
    assert_eq!(shown(&"ä".repeat(1000)).chars().count(), 101);
}

/// What makes this module necessary.
#[test]
fn the_crate_safetensors_takes_two_tensors_of_one_name() {
    let entry = r#""a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#;
    let twice = file(&format!("{{{entry},{entry}}}"), 4);
    assert!(SafeTensors::deserialize(&twice).is_ok(), "safetensors is repaired");
    assert!(read(&twice).is_err());
}

/// Random damage: bytes, digits, cuts, insertions, copies. Nothing panics (sums overflow loudly in
/// this build), and what is let through keeps the rules and can be read to the end.
/// `PATHLINE_MUTANTS` sets the number.
#[test]
fn damaged_headers_are_refused_or_harmless() {
    let count = std::env::var("PATHLINE_MUTANTS").map_or(200_000, |n| n.parse().unwrap());
    let seeds = [
        file(TWO, 25),
        file(
            r#"{"x.weight":{"dtype":"F16","shape":[2,0,3],"data_offsets":[0,0]},"x.bias":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]},"y":{"dtype":"I64","shape":[1],"data_offsets":[8,16]}}"#,
            16,
        ),
        file("{}", 0),
    ];
    let words: [&[u8]; 12] = [
        b"\"a\"",
        b"[",
        b"{",
        b"}",
        b"18446744073709551615",
        b"-1",
        b"0",
        b"null",
        b"\"F64\"",
        b"\"BOOL\"",
        b",",
        b"\\",
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mutant.safetensors");
    let (mut taken, mut refused, mut reasons) = (0, 0, BTreeSet::new());
    for mutant in 0..count {
        let mut dice = Dice { key: mutant, at: 0 };
        let mut bytes = seeds[dice.below(seeds.len())].clone();
        for _ in 0..1 + dice.below(3) {
            let at = dice.below(bytes.len().max(1));
            match dice.below(8) {
                0 if !bytes.is_empty() => bytes[at] = dice.below(256) as u8,
                1 if !bytes.is_empty() => bytes[at] ^= 1 << dice.below(8),
                2 => bytes.truncate(at),
                3 => drop(bytes.splice(at..at, words[dice.below(words.len())].iter().copied())),
                4 => {
                    let end = (at + dice.below(40)).min(bytes.len());
                    let part = bytes[at..end].to_vec();
                    let to = dice.below(bytes.len() + 1);
                    drop(bytes.splice(to..to, part));
                }
                5 => {
                    // A digit becomes another.
                    let digits: Vec<usize> =
                        (8..bytes.len()).filter(|&i| bytes[i].is_ascii_digit()).collect();
                    if !digits.is_empty() {
                        bytes[digits[dice.below(digits.len())]] = b'0' + dice.below(10) as u8;
                    }
                }
                6 => drop(bytes.drain(at..(at + dice.below(8)).min(bytes.len()))),
                _ => bytes.resize(bytes.len() + dice.below(9), 0),
            }
            // Mostly with a length that is right, else only lengths would be tested.
            if bytes.len() > 8 && dice.below(4) > 0 {
                let end = bytes.iter().rposition(|&b| b == b'}').unwrap_or(8).max(8);
                let len = (end + 1 - 8).min(bytes.len() - 8) as u64;
                bytes[..8].copy_from_slice(&len.to_le_bytes());
            }
        }
        match read(&bytes) {
            Err(error) => {
                refused += 1;
                assert!(error.len() < 600 && !error.contains('\n'), "{error}");
                reasons.insert(error.split(':').next().unwrap().to_owned());
            }
            Ok(header) => {
                taken += 1;
                let theirs = SafeTensors::deserialize(&bytes).unwrap();
                assert_eq!(theirs.len(), header.entries.len());
                let sum: u64 = header.entries.iter().map(|e| e.end - e.start).sum();
                assert_eq!(header.data_start + sum, bytes.len() as u64);
                if taken % 16 == 0 {
                    std::fs::write(&path, &bytes).unwrap();
                    match load(&path, &candle_core::Device::Cpu) {
                        Ok(tensors) => assert_eq!(tensors.len(), header.entries.len()),
                        Err(error) => assert!(error.to_string().contains("expected BOOL, U8")),
                    }
                }
            }
        }
    }
    println!("{count} mutants: {taken} taken, {refused} refused, {} first words", reasons.len());
    assert!(taken > count / 100 && refused > count / 2, "{taken} {refused}");
}

/// Numbers for one mutant.
struct Dice {
    key: u64,
    at: u64,
}

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.at += 1;
        (mix(self.key.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(self.at)) % n as u64)
            as usize
    }
}

/// The finaliser of splitmix64.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
