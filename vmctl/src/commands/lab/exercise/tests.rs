use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use tempfile::TempDir;

use super::*;

/// A directory with one exercise that's well-formed.
fn labs() -> (TempDir, Labs) {
    let dir = tempfile::tempdir().unwrap();
    write_exercise(&dir.path().join("02-good"));
    let labs = Labs { dirs: vec![dir.path().to_owned()] };
    (dir, labs)
}

fn write_exercise(dir: &Path) {
    fs::create_dir(dir).unwrap();
    fs::write(dir.join("lab.toml"), "title = 'T'\nminutes = 1\n").unwrap();
    fs::write(dir.join("text.md"), "# T\n").unwrap();
    for script in SCRIPTS {
        fs::write(dir.join(script), "#!/bin/sh\n").unwrap();
        fs::set_permissions(dir.join(script), Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn exercise_is_found_by_its_name_and_its_number() {
    let (_dir, labs) = labs();
    for name in ["02-good", "good", "2", "02"] {
        assert_eq!(labs.exercise(name).unwrap().name, "02-good", "{name}");
    }
    assert_eq!(labs.exercise("good").unwrap().prefix(), "lab-good");
    for name in ["goo", "3", "02-", "0x2"] {
        assert!(labs.exercise(name).is_err(), "{name}");
    }
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let (_dir, labs) = labs();
    for name in ["..", ".", "", "../02-good", "02-good/", "/etc", "-x", "a\0b", "a\nb", "ü"] {
        let error = labs.exercise(name).unwrap_err();
        assert!(matches!(error, LabError::BadName(_)), "{name:?}: {error}");
    }
    assert!(matches!(labs.exercise(&"a".repeat(41)), Err(LabError::BadName(_))));
}

#[test]
fn link_is_no_exercise() {
    let (dir, labs) = labs();
    let elsewhere = tempfile::tempdir().unwrap();
    write_exercise(&elsewhere.path().join("real"));
    symlink(elsewhere.path().join("real"), dir.path().join("linked")).unwrap();
    let error = labs.exercise("linked").unwrap_err();
    assert!(error.to_string().contains("is a link"), "{error}");
    // The others are listed all the same.
    let all = labs.all().unwrap();
    assert_eq!(all.iter().filter(|it| it.is_ok()).count(), 1);
    assert_eq!(all.len(), 2);
}

#[test]
fn exercise_that_lacks_a_part_is_refused_with_the_reason() {
    type Spoil = fn(&Path);
    let spoils: [(Spoil, &str); 10] = [
        (|dir| fs::remove_file(dir.join("check")).unwrap(), "the script check is missing"),
        (|dir| fs::remove_file(dir.join("text.md")).unwrap(), "text.md is missing"),
        (|dir| fs::remove_file(dir.join("lab.toml")).unwrap(), "lab.toml is missing"),
        (
            |dir| fs::set_permissions(dir.join("setup"), Permissions::from_mode(0o644)).unwrap(),
            "setup isn't executable",
        ),
        (
            |dir| fs::set_permissions(dir.join("reset"), Permissions::from_mode(0o777)).unwrap(),
            "reset may be changed by everybody",
        ),
        (
            |dir| {
                fs::remove_file(dir.join("check")).unwrap();
                symlink("/bin/true", dir.join("check")).unwrap();
            },
            "check is a link",
        ),
        (
            |dir| {
                fs::remove_file(dir.join("lab.toml")).unwrap();
                symlink("/etc/shadow", dir.join("lab.toml")).unwrap();
            },
            "lab.toml is a link",
        ),
        (|dir| fs::write(dir.join("text.md"), [0xff, 0xfe]).unwrap(), "text.md can't be read"),
        (
            |dir| fs::write(dir.join("lab.toml"), vec![b'#'; 65 << 10]).unwrap(),
            "lab.toml is longer than",
        ),
        (
            |dir| {
                fs::remove_file(dir.join("text.md")).unwrap();
                fs::create_dir(dir.join("text.md")).unwrap();
            },
            "text.md is no plain file",
        ),
    ];
    for (spoil, reason) in spoils {
        let (dir, labs) = labs();
        spoil(&dir.path().join("02-good"));
        let error = labs.exercise("good").unwrap_err().to_string();
        assert!(error.contains(reason), "{reason}: {error}");
    }
}

/// Those that come with `vmctl`.
fn own() -> Vec<Exercise> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../resources/labs");
    let labs = Labs { dirs: vec![dir] };
    labs.all().unwrap().into_iter().map(Result::unwrap).collect()
}

#[test]
fn own_exercises_are_well_formed_and_fit_a_terminal() {
    let exercises = own();
    assert!(!exercises.is_empty());
    for exercise in exercises {
        let name = &exercise.name;
        assert!(exercise.dir.join("solution").is_file(), "{name} has no solution");
        assert!(exercise.text.starts_with("# "), "{name}");
        let mut in_code = false;
        for line in exercise.text.lines() {
            in_code ^= line.starts_with("```");
            // Commands are indented when they're shown.
            let width = if in_code { 76 } else { 80 };
            assert!(line.chars().count() <= width, "{name}: {line}");
        }
    }
}

/// The commands of a text's blocks, without what a shell does with them.
fn commands(text: &str) -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    let mut in_code = false;
    for line in text.replace("\\\n", " ").lines() {
        if line.starts_with("```") {
            in_code = !in_code;
        } else if in_code {
            let line = line.replace("$i", "1");
            let starts = line.match_indices("vmctl ").map(|(at, _)| at);
            let is_command = |at: &usize| {
                let before = line[..*at].trim_start();
                before.is_empty() || before.ends_with("$(")
            };
            let starts = starts.filter(is_command);
            commands.extend(starts.map(|at| words(&line[at + "vmctl ".len()..])));
        }
    }
    commands
}

/// A shell's words, up to the first operator outside of quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = vec!["vmctl".to_owned(), String::new()];
    let mut quote = None;
    for char in line.chars() {
        match (quote, char) {
            (None, '|' | ';' | '&' | '>' | '<' | ')') => break,
            (None, '\'' | '"') => quote = Some(char),
            (Some(open), _) if open == char => quote = None,
            (None, ' ') => words.push(String::new()),
            _ => words.last_mut().unwrap().push(char),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn commands_of_the_texts_are_accepted_by_the_command_line() {
    use clap::Parser;
    for exercise in own() {
        let commands = commands(&exercise.text);
        assert!(!commands.is_empty(), "{}", exercise.name);
        for command in commands {
            let parsed = crate::cli::Cli::try_parse_from(&command);
            assert!(parsed.is_ok(), "{}: {command:?}: {:?}", exercise.name, parsed.err());
        }
    }
}
