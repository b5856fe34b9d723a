use std::fs;

use serde_json::json;

use super::save::blob_path;
use crate::manifest::media;
use crate::testing::registry::manifest;
use crate::testing::{Store, archive, config, gzip, name, zstd};
use crate::{Found, ImageError, Silent, digest};

fn load(store: &Store, bytes: &[u8]) -> Result<Vec<Found>, ImageError> {
    let loaded = store.load(&mut &bytes[..], &Silent);
    let left = store.files().into_iter().filter(|it| it.starts_with("tmp/"));
    assert_eq!(left.count(), 0);
    loaded
}

fn saved(store: &Store, references: &[&str]) -> Vec<u8> {
    let references: Vec<_> = references.iter().map(|it| (*it).to_owned()).collect();
    let mut out = Vec::new();
    store.save(&references, &mut out).unwrap();
    out
}

/// An archive of files with binary data.
fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, data) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, *data).unwrap();
    }
    builder.into_inner().unwrap()
}

fn raw_config(archives: &[&[u8]]) -> Vec<u8> {
    let mut config = config();
    config.rootfs.diff_ids = archives.iter().map(|it| digest::of(it)).collect();
    serde_json::to_vec(&config).unwrap()
}

#[test]
fn saved_images_are_loaded_unchanged() {
    let store = Store::new();
    let one = store.make("one:1", &[&[("a", "1"), ("b", "lower")], &[("b", "upper")]]);
    store.tag("one:1", &name("localhost:5000/one:2")).unwrap();
    store.make("two", &[&[("a", "1"), ("b", "lower")], &[("c", "2")]]);
    let bytes = saved(&store, &["one:1", "localhost:5000/one:2", "two"]);
    assert_eq!(bytes, saved(&store, &["one:1", "localhost:5000/one:2", "two"]));
    for bytes in [bytes.clone(), gzip(&bytes), zstd(&bytes)] {
        let other = Store::new();
        let loaded = load(&other, &bytes).unwrap();
        let names: Vec<_> =
            loaded.iter().map(|it| it.reference.clone().unwrap().familiar()).collect();
        assert_eq!(names, ["one:1", "localhost:5000/one:2", "two:latest"]);
        let image = &loaded[0].image;
        assert_eq!((&image.id, &image.manifest_digest), (&one.id, &one.manifest_digest));
        assert_eq!(image.tags.len(), 2);
        assert_eq!(other.read(image, "/b").as_deref(), Some("upper"));
        assert_eq!(other.read(&loaded[2].image, "/c").as_deref(), Some("2"));
        // It's the same again when it's there.
        assert_eq!(load(&other, &bytes).unwrap(), loaded);
    }
}

#[test]
fn image_saved_by_its_identifier_has_no_name() {
    let store = Store::new();
    let image = store.make("one", &[]);
    let loaded = load(&Store::new(), &saved(&store, &[&image.id])).unwrap();
    assert_eq!((loaded.len(), &loaded[0].reference), (1, &None));
    assert!(loaded[0].image.tags.is_empty());
    let missing = store.save(&["nowhere".into()], &mut Vec::new());
    assert!(matches!(missing, Err(ImageError::NotFound { .. })));
}

#[test]
fn damaged_blob_isnt_saved() {
    let store = Store::new();
    let image = store.make("one", &[&[("a", "1")]]);
    fs::write(store.layout.blob(&image.id), b"changed").unwrap();
    let error = store.save(&["one".into()], &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("changed"), "{error}");
}

#[test]
fn dockers_old_archives_are_loaded() {
    let (lower, upper) = (archive(&[("a", "lower")]), archive(&[("a", "upper")]));
    let raw = raw_config(&[&lower, &upper, &lower]);
    let listed = json!([{ "Config": "c.json", "RepoTags": ["old:1", "old:2"],
                          "Layers": ["x/layer.tar", "y/layer.tar", "z/layer.tar"] }]);
    let compressed = gzip(&upper);
    let mut bytes = tar(&[
        ("./x/layer.tar", &lower),
        ("y/layer.tar", &compressed),
        ("c.json", &raw),
        ("manifest.json", listed.to_string().as_bytes()),
    ]);
    // A layer that's there twice is a link.
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "z/layer.tar", "../x/layer.tar").unwrap();
    bytes.splice(0..0, builder.get_ref().clone());
    let store = Store::new();
    let loaded = load(&store, &bytes).unwrap();
    assert_eq!(loaded.len(), 2);
    let image = &loaded[0].image;
    assert_eq!(image.id, digest::of(&raw));
    assert_eq!(store.read(image, "/a").as_deref(), Some("lower"));
    // It can be saved, though it came without a manifest.
    load(&Store::new(), &saved(&store, &["old:1"])).unwrap();
}

/// The files of an OCI layout of one image, with what its index says of it.
fn layout(annotations: &serde_json::Value) -> Vec<(String, Vec<u8>)> {
    let layer = archive(&[("a", "oci")]);
    let (raw, blob) = (raw_config(&[&layer]), zstd(&layer));
    let manifest = manifest(&raw, std::slice::from_ref(&blob));
    let index = json!({ "schemaVersion": 2, "manifests": [{
        "mediaType": media::OCI_MANIFEST, "digest": digest::of(&manifest), "size": manifest.len(),
        "annotations": annotations }] });
    let mut files: Vec<_> =
        [raw, blob, manifest].into_iter().map(|it| (blob_path(&it), it)).collect();
    files.push(("index.json".into(), index.to_string().into_bytes()));
    files
}

fn tar_of(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let files: Vec<_> = files.iter().map(|(path, bytes)| (path.as_str(), &bytes[..])).collect();
    tar(&files)
}

#[test]
fn oci_layouts_are_loaded_from_archives_and_directories() {
    let named = json!({ "org.opencontainers.image.ref.name": "docker.io/library/app:1" });
    let files = layout(&named);
    let directory = tempfile::tempdir().unwrap();
    for (path, bytes) in &files {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let (one, other) = (Store::new(), Store::new());
    let loaded = load(&one, &tar_of(&files)).unwrap();
    assert_eq!(loaded, other.load_directory(directory.path()).unwrap());
    assert_eq!(loaded[0].reference.as_ref().unwrap().familiar(), "app:1");
    for store in [&one, &other] {
        assert_eq!(store.read(&loaded[0].image, "/a").as_deref(), Some("oci"));
    }
    // The directory is as it was.
    assert!(
        files.iter().all(|(path, bytes)| fs::read(directory.path().join(path)).unwrap() == *bytes)
    );
    // A tag alone is no name.
    let tagged = layout(&json!({ "org.opencontainers.image.ref.name": "latest" }));
    assert_eq!(load(&Store::new(), &tar_of(&tagged)).unwrap()[0].reference, None);
}

#[test]
fn damaged_archives_are_refused_and_leave_nothing() {
    let files = layout(&json!({}));
    let whole = tar_of(&files);
    let mut cases: Vec<(Vec<u8>, &str)> = vec![
        (Vec::new(), "neither an index.json nor a manifest.json"),
        (b"no archive ".repeat(100), "checksum"),
        (whole[..whole.len() / 2].to_vec(), ""),
        (gzip(&whole)[..200].to_vec(), ""),
        (tar(&[("index.json", b"{")]), "JSON"),
        (tar(&[("manifest.json", b"{}")]), "manifest.json"),
        (tar(&[("manifest.json", br#"[{"Config":"../../etc/passwd"}]"#)]), "no file"),
        (tar(&[("manifest.json", br#"[{"Config":"c","RepoTags":["A"]}]"#)]), "lowercase"),
    ];
    for at in 0..3 {
        let mut damaged = files.clone();
        damaged[at].1.push(b' ');
        cases.push((tar_of(&damaged), "has the digest"));
        damaged.remove(at);
        cases.push((tar_of(&damaged), "no file"));
    }
    for (bytes, reason) in cases {
        let store = Store::new();
        let error = load(&store, &bytes).expect_err(reason).to_string();
        assert!(error.contains(reason), "{reason}: {error}");
        assert!(store.list().unwrap().is_empty());
    }
}

#[test]
fn archives_layers_must_be_the_configurations() {
    let (layer, other) = (archive(&[("a", "1")]), archive(&[("a", "2")]));
    let raw = raw_config(&[&layer]);
    let listed = |layers: &[&str]| json!([{ "Config": "c", "Layers": layers }]).to_string();
    for (bytes, reason) in [(other.clone(), "not sha256:"), (gzip(&other), "not sha256:")] {
        let listed = listed(&["l"]);
        let bytes = tar(&[("c", &raw), ("l", &bytes), ("manifest.json", listed.as_bytes())]);
        let error = load(&Store::new(), &bytes).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let listed = listed(&["l", "l"]);
    let bytes = tar(&[("c", &raw), ("l", &layer), ("manifest.json", listed.as_bytes())]);
    assert!(load(&Store::new(), &bytes).unwrap_err().to_string().contains("2 layers"));
}

#[test]
fn hostile_layers_in_archives_are_refused() {
    let evil = archive(&[("../evil", "x")]);
    let raw = raw_config(&[&evil]);
    let listed = json!([{ "Config": "c", "Layers": ["l"] }]).to_string();
    for layer in [evil.clone(), gzip(&evil), zstd(&evil)] {
        let store = Store::new();
        let bytes = tar(&[("c", &raw), ("l", &layer), ("manifest.json", listed.as_bytes())]);
        let error = load(&store, &bytes).unwrap_err().to_string();
        assert!(error.contains("\"..\" component"), "{error}");
        assert!(store.list().unwrap().is_empty());
    }
}

#[test]
fn links_that_lead_around_or_out_are_no_files() {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, target) in
        [("a", "b"), ("b", "a"), ("out", "../../../etc/passwd"), ("abs", "/etc/passwd")]
    {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, path, target).unwrap();
    }
    let links = builder.get_ref().clone();
    for path in ["a", "out", "abs"] {
        let listed = json!([{ "Config": path, "Layers": [] }]).to_string();
        let mut bytes = links.clone();
        bytes.extend(tar(&[("manifest.json", listed.as_bytes())]));
        let error = load(&Store::new(), &bytes).unwrap_err().to_string();
        assert!(error.contains("no file"), "{path}: {error}");
    }
}
