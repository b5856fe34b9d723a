use super::*;
use agent_proto::ChangeReader;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, mknodat};

struct Dirs(tempfile::TempDir);

impl Dirs {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for file in ["lower/etc/passwd", "lower/etc/gone", "lower/opt/old/a", "lower/opt/old/b"] {
            let file = dir.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "lower").unwrap();
        }
        fs::create_dir_all(dir.path().join("upper/etc")).unwrap();
        Self(dir)
    }

    fn upper(&self, path: &str, content: &str) {
        let file = self.0.path().join("upper").join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
    }

    fn changes(&self, made: &[&str]) -> Vec<String> {
        let (upper, lower) = (self.0.path().join("upper"), self.0.path().join("lower"));
        let made: Vec<PathBuf> = made.iter().map(PathBuf::from).collect();
        let mut bytes = Vec::new();
        list(Overlay { upper: &upper, lower: &lower, made: &made }, &mut bytes).unwrap();
        let mut reader = ChangeReader::new(&bytes[..]);
        let mut lines = Vec::new();
        while let Some(batch) = reader.next_batch().unwrap() {
            lines.extend(
                batch.into_iter().map(|change| format!("{:?} {}", change.kind, change.path)),
            );
        }
        lines
    }
}

#[test]
fn additions_and_modifications_are_told_apart() {
    let dirs = Dirs::new();
    dirs.upper("etc/passwd", "new");
    dirs.upper("etc/new", "new");
    dirs.upper("srv/file", "");
    let expected = [
        "Modified /etc",
        "Added /srv",
        "Added /etc/new",
        "Modified /etc/passwd",
        "Added /srv/file",
    ];
    assert_eq!(dirs.changes(&[]), expected);
}

#[test]
fn what_was_made_to_mount_on_is_no_change() {
    let dirs = Dirs::new();
    dirs.upper("etc/hosts", "");
    fs::create_dir_all(dirs.0.path().join("upper/data/deep")).unwrap();
    assert!(dirs.changes(&["etc/hosts", "data"]).is_empty());
    dirs.upper("data/deep/file", "now it's used");
    assert_eq!(dirs.changes(&["etc/hosts", "data"]).len(), 3);
    dirs.upper("etc/hosts", "changed");
    assert!(dirs.changes(&["etc/hosts", "data"]).contains(&"Added /etc/hosts".to_owned()));
}

#[test]
fn deletions_are_whiteouts_and_hidden_files() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root may make whiteouts");
        return;
    }
    let dirs = Dirs::new();
    let upper = dirs.0.path().join("upper");
    for name in ["etc/gone", "etc/never"] {
        let mode = Mode::empty();
        if let Err(error) = mknodat(CWD, upper.join(name), FileType::CharacterDevice, mode, 0) {
            println!("skipped: this machine makes no whiteouts: {error}");
            return;
        }
    }
    dirs.upper("opt/old/b", "upper");
    let opaque =
        lsetxattr(upper.join("opt/old"), "trusted.overlay.opaque", b"y", XattrFlags::empty());
    if let Err(error) = opaque {
        println!("skipped: this file system keeps no such attributes: {error}");
        return;
    }
    let changes = dirs.changes(&[]);
    for expected in
        ["Deleted /etc/gone", "Modified /opt/old", "Deleted /opt/old/a", "Added /opt/old/b"]
    {
        assert!(changes.iter().any(|change| change == expected), "{expected}: {changes:?}");
    }
    assert!(!changes.iter().any(|change| change.contains("never")), "{changes:?}");

    let lower = dirs.0.path().join("lower");
    let mut bytes = Vec::new();
    pack_layer(Overlay { upper: &upper, lower: &lower, made: &[] }, &mut bytes).unwrap();
    let mut archive = tar::Archive::new(&bytes[..]);
    let names: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    for expected in ["etc/.wh.gone", "opt/old/.wh..wh..opq", "opt/old/b"] {
        assert!(names.iter().any(|name| name == expected), "{expected}: {names:?}");
    }
}
