//! `emoji-test.txt`: which sequences of code points are emoji, and what they are called.
//!
//! ```text
//! # group: Food & Drink
//! # subgroup: food-fruit
//! 1F34E        ; fully-qualified     # 🍎 E0.6 red apple
//! ```
//! Fully qualified sequences only: the others are the same emoji without some of their variation
//! selectors. Source: UTS #51, Unicode 15.0 (`unicode-data` of Debian).

/// One emoji.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) characters: Vec<char>,
    /// The Unicode name in lower case, punctuation as the file has it.
    pub(super) caption: String,
    pub(super) subgroup: String,
}

/// Reads the file's text. The error names the line.
pub(super) fn parse(text: &str) -> Result<Vec<Name>, String> {
    let mut subgroup = String::new();
    let mut names = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if let Some(name) = line.strip_prefix("# subgroup: ") {
            name.trim().clone_into(&mut subgroup);
        }
        if line.starts_with('#') || line.trim().is_empty() {
            continue;
        }
        let wrong = || {
            let number = number + 1;
            format!(
                "line {number}: expected `CODE POINTS ; STATUS # EMOJI VERSION NAME`, got {line:?}"
            )
        };
        let (points, rest) = line.split_once(';').ok_or_else(wrong)?;
        let (status, comment) = rest.split_once('#').ok_or_else(wrong)?;
        if status.trim() != "fully-qualified" {
            continue;
        }
        let character = |point: &str| u32::from_str_radix(point, 16).ok().and_then(char::from_u32);
        let characters: Option<Vec<char>> = points.split_whitespace().map(character).collect();
        let characters = characters.filter(|c| !c.is_empty()).ok_or_else(wrong)?;
        let caption = comment.trim().splitn(3, ' ').nth(2).ok_or_else(wrong)?;
        let caption = caption.trim().to_lowercase();
        names.push(Name { characters, caption, subgroup: subgroup.clone() });
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fully_qualified_lines_count() {
        let text = "# emoji-test.txt\n\n# group: Smileys & Emotion\n# subgroup: heart\n\
                    2764 FE0F  ; fully-qualified     # ❤️ E0.6 red heart\n\
                    2764       ; unqualified         # ❤ E0.6 red heart\n# subgroup: keycap\n\
                    0023 FE0F 20E3 ; fully-qualified # #️⃣ E0.6 keycap: #\n";
        let names = parse(text).unwrap();
        assert_eq!(names.len(), 2);
        assert_eq!(names[0].characters, ['\u{2764}', '\u{FE0F}']);
        assert_eq!((names[0].caption.as_str(), names[0].subgroup.as_str()), ("red heart", "heart"));
        assert_eq!(
            (names[1].caption.as_str(), names[1].subgroup.as_str()),
            ("keycap: #", "keycap")
        );
        assert!(parse("1F600 ; fully-qualified").unwrap_err().contains("line 1"));
        assert!(parse("XYZ ; fully-qualified # a b c").unwrap_err().contains("line 1"));
    }
}
