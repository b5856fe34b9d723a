//! Patterns of names: `*` stands for any letters but a slash, `?` for one of them, `[a-z]` for one
//! of several.

/// Whether a name is what a pattern says.
///
/// It goes back to the last star only, so no pattern takes longer than both lengths' product.
pub(super) fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<_>, Vec<_>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut letter) = (0, 0);
    let mut star = None;
    while letter < name.len() {
        if pattern.get(at) == Some(&'*') {
            star = Some((at + 1, letter));
            at += 1;
        } else if let Some(width) = one(&pattern[at.min(pattern.len())..], name[letter]) {
            at += width;
            letter += 1;
        } else {
            match star {
                Some((after, from)) if name[from] != '/' => {
                    star = Some((after, from + 1));
                    (at, letter) = (after, from + 1);
                }
                _ => return false,
            }
        }
    }
    pattern[at.min(pattern.len())..].iter().all(|char| *char == '*')
}

/// How much of a pattern's beginning stands for this letter.
fn one(pattern: &[char], letter: char) -> Option<usize> {
    match pattern.first()? {
        '?' => (letter != '/').then_some(1),
        '[' => class(pattern, letter),
        '\\' => (pattern.get(1) == Some(&letter)).then_some(2),
        char => (*char == letter).then_some(1),
    }
}

fn class(pattern: &[char], letter: char) -> Option<usize> {
    let end = pattern.iter().position(|char| *char == ']')?;
    let inside = &pattern[1..end];
    let (inside, negated) = match inside.split_first() {
        Some(('^', rest)) => (rest, true),
        _ => (inside, false),
    };
    let mut found = false;
    let mut at = 0;
    while let Some(first) = inside.get(at) {
        let is_range = inside.get(at + 1) == Some(&'-') && inside.len() > at + 2;
        let last = if is_range { inside[at + 2] } else { *first };
        found |= (*first..=last).contains(&letter);
        at += if is_range { 3 } else { 1 };
    }
    (found != negated && letter != '/').then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn patterns_are_gos_paths() {
        for (pattern, name, expected) in [
            ("nginx", "nginx", true),
            ("ngin", "nginx", false),
            ("ng*", "nginx", true),
            ("*", "nginx:latest", true),
            ("*:latest", "nginx:latest", true),
            ("*:1.?", "nginx:1.7", true),
            ("*", "user/nginx", false),
            ("*/*", "user/nginx", true),
            ("user/*x", "user/nginx", true),
            ("*a*b", "aXbYaZb", true),
            ("*a*b", "aXbYaZ", false),
            ("[m-o]ginx", "nginx", true),
            ("[^n]ginx", "nginx", false),
            ("[n", "n", false),
            ("", "", true),
            ("", "a", false),
            ("***", "", true),
            (r"\*", "*", true),
            ("nginx?", "nginx", false),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn pattern_of_many_stars_ends_soon() {
        assert!(!fits(&"*a".repeat(200), &"a".repeat(199)));
        assert!(!fits(&("*".repeat(1000) + "b"), &"a".repeat(5000)));
    }
}
