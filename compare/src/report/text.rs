//! Texts that somebody else wrote, made fit to be shown.

use std::fmt::Write as _;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Whether a character does something other than being seen: controls, direction, joiners, tags.
fn acts(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// Replaces the characters that a terminal or a browser would obey rather than show.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => shown.push_str("\\n"),
            '\t' => shown.push_str("\\t"),
            '\r' => shown.push_str("\\r"),
            '\u{1b}' => shown.push_str("\\e"),
            _ if acts(character) => {
                // Writing to a string can't fail.
                let _ = write!(shown, "\\u{{{:x}}}", u32::from(character));
            }
            _ => shown.push(character),
        }
    }
    shown
}

/// How many columns of a terminal a text takes.
pub fn columns(text: &str) -> usize {
    text.width()
}

/// Cuts a text to so many columns, with an ellipsis where something is missing.
pub fn cut(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut taken = 0;
    for character in text.chars() {
        taken += character.width().unwrap_or(0);
        if taken >= width {
            break;
        }
        kept.push(character);
    }
    if width > 0 {
        kept.push('…');
    }
    kept
}

/// Fills a text up to so many columns.
pub fn pad(text: &str, width: usize) -> String {
    let missing = width.saturating_sub(columns(text));
    format!("{text}{}", " ".repeat(missing))
}

/// Breaks a text into lines of at most so many columns.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let options = textwrap::Options::new(width.max(1))
        .word_splitter(textwrap::WordSplitter::NoHyphenation)
        .wrap_algorithm(textwrap::WrapAlgorithm::FirstFit);
    textwrap::wrap(text, options).into_iter().map(std::borrow::Cow::into_owned).collect()
}

/// Breaks a text into at most so many lines; the last one says by an ellipsis that there was more.
pub fn wrap_to(text: &str, width: usize, lines: usize) -> Vec<String> {
    let mut wrapped = wrap(text, width);
    if wrapped.len() > lines {
        wrapped.truncate(lines);
        if let Some(last) = wrapped.last_mut() {
            *last = cut(&format!("{last} …"), width);
        }
    }
    wrapped
}

/// The same in ASCII, of the same width.
pub fn ascii(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '–' | '—' | '─' | '‑' => plain.push('-'),
            '…' => plain.push('.'),
            '‘' | '’' => plain.push('\''),
            '“' | '”' => plain.push('"'),
            'µ' => plain.push('u'),
            '×' => plain.push('x'),
            _ if character.is_ascii() => plain.push(character),
            _ => plain.push_str(&"?".repeat(character.width().unwrap_or(0))),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_gets_through() {
        let hostile = "a\u{1b}[2J\u{7}b\u{9b}31mc\r\nd\u{202e}e\u{200b}\u{e0041}";
        let shown = visible(hostile);
        assert_eq!(shown, "a\\e[2J\\u{7}b\\u{9b}31mc\\r\\nd\\u{202e}e\\u{200b}\\u{e0041}");
        assert!(!shown.chars().any(acts));
        assert_eq!(visible("größer 漢字"), "größer 漢字");
    }

    #[test]
    fn wide_characters_are_cut_by_the_columns_they_take() {
        assert_eq!(cut("漢字漢字", 8), "漢字漢字");
        assert_eq!(cut("漢字漢字", 7), "漢字漢…");
        assert_eq!(cut("漢字漢字", 6), "漢字…");
        assert_eq!(cut("abc", 0), "");
        for width in 0..9 {
            assert!(columns(&cut("a漢b字c", width)) <= width);
            assert!(columns(&pad("漢", width)) >= width);
        }
    }

    #[test]
    fn long_texts_end_in_an_ellipsis() {
        assert_eq!(wrap_to("one two three four", 9, 2), ["one two", "three …"]);
        assert_eq!(wrap_to("one two", 9, 2), ["one two"]);
        assert!(wrap_to(&"x".repeat(50), 9, 2).iter().all(|line| columns(line) <= 9));
    }

    #[test]
    fn ascii_is_as_wide_as_what_it_stands_for() {
        let text = "± 38–41 µs … 漢字 é";
        assert_eq!(ascii(text), "? 38-41 us . ???? ?");
        assert_eq!(columns(&ascii(text)), columns(text));
    }
}
