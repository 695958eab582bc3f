//! The merges of a byte-pair tokenizer: read, written, and learned from words.
//!
//! Learning: the pair of neighbours that is seen most often becomes one token, again and again. Of
//! pairs seen equally often the one whose tokens came first wins, so the result depends on the words
//! alone. Source: Sennrich et al. 2016, algorithm 1.

use std::collections::BTreeMap;
use std::path::Path;

use super::tokenizer::{BOS, END, EOS};
use crate::{Error, Result};

/// What stands above the merges.
const HEADER: &str = "#version: 0.2";

/// The merges of a merges.txt: one pair a line, below an optional header.
pub(super) fn parse(text: &str, path: &Path) -> Result<Vec<(String, String)>> {
    let lines = text.lines().enumerate();
    let lines =
        lines.filter(|(i, line)| !(line.is_empty() || *i == 0 && line.starts_with("#version")));
    let read = |(i, line)| {
        pair(line).map_err(|message| Error::config(path, format!("line {}: {message}", i + 1)))
    };
    lines.map(read).collect()
}

/// Two tokens with a space between them.
pub(super) fn pair(line: &str) -> Result<(String, String), String> {
    match line.split(' ').collect::<Vec<_>>()[..] {
        [a, b] if !a.is_empty() && !b.is_empty() => Ok((a.to_owned(), b.to_owned())),
        _ => Err(format!("expected two tokens with a space between them, got {line:?}")),
    }
}

/// The text of a merges.txt.
pub(super) fn print(merges: &[(String, String)]) -> String {
    let mut text = format!("{HEADER}\n");
    for (a, b) in merges {
        text += &format!("{a} {b}\n");
    }
    text
}

/// The letters that stand for the 256 bytes, in CLIP's order: those that can be seen come first.
/// Source: Radford et al. 2019, `bytes_to_unicode`.
fn letters() -> Vec<char> {
    let is_shown = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let shown = (0..256).filter(|byte| is_shown(*byte)).filter_map(char::from_u32);
    // The 68 others are the letters from 256 on.
    shown.chain((256..256 + 68).filter_map(char::from_u32)).collect()
}

/// CLIP's vocabulary of these merges: bytes inside a word, bytes that end one, merges, BOS and EOS.
pub(super) fn vocabulary(merges: &[(String, String)]) -> BTreeMap<String, u32> {
    let letters = letters();
    let inside = letters.iter().map(char::to_string);
    let ending = letters.iter().map(|letter| format!("{letter}{END}"));
    let merged = merges.iter().map(|(a, b)| format!("{a}{b}"));
    let all = inside.chain(ending).chain(merged).chain([BOS.to_owned(), EOS.to_owned()]);
    let mut vocab = BTreeMap::new();
    for token in all {
        let next = vocab.len() as u32;
        vocab.entry(token).or_insert(next);
    }
    vocab
}

/// At most `most` merges of words, each with how often it was seen. A pair that was seen once is none.
pub(super) fn learn(words: BTreeMap<Vec<String>, usize>, most: usize) -> Vec<(String, String)> {
    let mut names: Vec<String> = Vec::new();
    let mut ids: BTreeMap<String, usize> = BTreeMap::new();
    let mut id = |name: String, names: &mut Vec<String>| {
        *ids.entry(name.clone()).or_insert_with(|| {
            names.push(name);
            names.len() - 1
        })
    };
    let mut texts: Vec<(Vec<usize>, usize)> = words
        .into_iter()
        .map(|(word, count)| (word.into_iter().map(|name| id(name, &mut names)).collect(), count))
        .collect();
    let mut counts: BTreeMap<(usize, usize), isize> = BTreeMap::new();
    let count_all = |word: &[usize], by: isize, counts: &mut BTreeMap<_, isize>| {
        for pair in word.windows(2) {
            *counts.entry((pair[0], pair[1])).or_insert(0) += by;
        }
    };
    for (word, count) in &texts {
        count_all(word, *count as isize, &mut counts);
    }
    let mut merges = Vec::new();
    while merges.len() < most {
        // The largest count, and of those the first pair.
        let Some((&(a, b), &best)) = counts.iter().max_by(|x, y| x.1.cmp(y.1).then(y.0.cmp(x.0)))
        else {
            break;
        };
        if best < 2 {
            break;
        }
        let merged = id(format!("{}{}", names[a], names[b]), &mut names);
        merges.push((names[a].clone(), names[b].clone()));
        for (word, count) in &mut texts {
            if !word.windows(2).any(|pair| pair == [a, b]) {
                continue;
            }
            count_all(word, -(*count as isize), &mut counts);
            let mut joined = Vec::with_capacity(word.len());
            let mut i = 0;
            while i < word.len() {
                let is_pair = word[i..].starts_with(&[a, b]);
                joined.push(if is_pair { merged } else { word[i] });
                i += 1 + usize::from(is_pair);
            }
            *word = joined;
            count_all(word, *count as isize, &mut counts);
        }
        counts.retain(|_, count| *count > 0);
    }
    merges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_256_and_the_shown_stand_for_themselves() {
        let letters = letters();
        assert_eq!(
            (letters.len(), letters[0], letters[187], letters[188], letters[255]),
            (256, '!', 'ÿ', 'Ā', 'Ń')
        );
        let vocab = vocabulary(&[("a".into(), "b</w>".into())]);
        assert_eq!((vocab["!"], vocab["!</w>"], vocab["ab</w>"]), (0, 256, 512));
        assert_eq!((vocab[BOS], vocab[EOS]), (513, 514));
    }

    #[test]
    fn the_most_frequent_pair_is_merged_first() {
        let word = |text: &str| text.chars().map(String::from).collect::<Vec<_>>();
        let words =
            BTreeMap::from([(word("abab"), 3), (word("aba"), 2), (word("cd"), 7), (word("xy"), 1)]);
        let merges = learn(words, 9);
        let merges: Vec<String> = merges.iter().map(|(a, b)| format!("{a} {b}")).collect();
        // ab 8 times, cd 7, then abab 3 and aba 2; xy once.
        assert_eq!(merges, ["a b", "c d", "ab ab", "ab a"]);
    }

    #[test]
    fn lines_are_pairs() {
        let path = Path::new("merges.txt");
        let merges = parse("#version: 0.2\na b\nab c</w>\n\n", path).unwrap();
        assert_eq!(parse(&print(&merges), path).unwrap(), merges);
        let error = parse("a b\na b c\n", path).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("a b c"), "{error}");
    }
}
