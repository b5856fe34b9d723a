use std::fs;
use std::io::Read;
use std::os::unix::fs::FileExt;

use erofs::Limits;

use crate::testing::{Store, archive, config, file_of, gzip, name};
use crate::{ImageError, Images, NewImage, RootFiles};

fn nobody(_: &str) -> Option<String> {
    None
}

fn total(root: &RootFiles) -> u64 {
    root.files.iter().map(|it| fs::metadata(it).unwrap().len()).sum()
}

#[test]
fn added_image_is_found_by_each_of_its_names() {
    let store = Store::new();
    let image = store.make("app:1", &[&[("a", "lower"), ("b", "kept")], &[("a", "upper")]]);
    for text in ["app:1", "docker.io/library/app:1", &image.id, &image.id[7..], &image.id[7..19]] {
        let found = store.find(text).unwrap();
        assert_eq!(found.image, image, "{text}");
        assert_eq!(found.reference.is_some(), text.contains("app"), "{text}");
    }
    assert_eq!(store.read(&image, "/a").as_deref(), Some("upper"));
    assert_eq!(store.read(&image, "/b").as_deref(), Some("kept"));
    assert_eq!(store.list().unwrap(), [image]);
}

#[test]
fn unknown_and_ambiguous_names_are_errors_that_say_so() {
    let store = Store::new();
    for at in 0..20 {
        store.make(&format!("app:{at}"), &[&[("a", &at.to_string())]]);
    }
    let missing = store.find("nowhere:1").unwrap_err();
    assert_eq!(missing.to_string(), "no such image: nowhere:1");
    let first = |digit: char| {
        store.list().unwrap().iter().filter(|it| it.id[7..].starts_with(digit)).count()
    };
    let digit = "0123456789abcdef".chars().find(|digit| first(*digit) > 1).unwrap();
    assert!(matches!(store.find(&digit.to_string()), Err(ImageError::Ambiguous { .. })));
    assert!(matches!(store.find("Nginx"), Err(ImageError::Reference(_))));
    assert!(matches!(store.find(&"0".repeat(64)), Err(ImageError::NotFound { .. })));
}

#[test]
fn image_without_layers_has_an_empty_root() {
    let store = Store::new();
    let image = store.make("scratch-like", &[]);
    assert_eq!(image.size_bytes, 0);
    assert_eq!(store.root_files(&image.id).unwrap().files.len(), 1);
    assert_eq!(store.read(&image, "/a"), None);
}

#[test]
fn image_on_a_base_shares_its_layers() {
    let store = Store::new();
    let base = store.make("base", &[&[("a", "1")]]);
    let new = NewImage {
        base: Some(base.id.clone()),
        layers: vec![file_of(&archive(&[("b", "2")]))],
        config: config(),
        tags: vec![name("derived")],
    };
    let image = store.add(new).unwrap();
    let (lower, upper) =
        (store.root_files(&base.id).unwrap().files, store.root_files(&image.id).unwrap().files);
    assert_eq!(lower[1], upper[1]);
    assert_eq!(image.config.rootfs.diff_ids[0], base.config.rootfs.diff_ids[0]);
    assert_eq!(store.read(&image, "/a").as_deref(), Some("1"));
    assert_eq!(store.read(&image, "/b").as_deref(), Some("2"));
    let missing = NewImage { base: Some("sha256:0".into()), ..NewImage::default() };
    assert!(matches!(store.add(missing), Err(ImageError::NotFound { .. })));
}

#[test]
fn root_files_need_no_padding_to_be_one_disk() {
    let store = Store::new();
    let image = store.make("app", &[&[("a", &"x".repeat(5000))], &[("b", "y")]]);
    let root = store.root_files(&image.id).unwrap();
    for file in &root.files {
        assert_eq!(fs::metadata(file).unwrap().len() % 4096, 0, "{}", file.display());
    }
    let reader = erofs::Reader::open(fs::File::open(&root.files[0]).unwrap()).unwrap();
    assert_eq!(reader.len_bytes(), total(&root));
}

#[test]
fn same_archives_make_the_same_image_and_root() {
    let one = Store::new();
    let other = Store::new();
    let layers: &[&[(&str, &str)]] = &[&[("a", "1")], &[("b", "2")]];
    let (first, second) = (one.make("a", layers), other.make("b", layers));
    assert_eq!((&first.id, &first.manifest_digest), (&second.id, &second.manifest_digest));
    let keys = (one.root_files(&first.id).unwrap().key, other.root_files(&second.id).unwrap().key);
    assert_eq!(keys.0, keys.1);
}

#[test]
fn removing_names_removes_the_image_with_the_last() {
    let store = Store::new();
    let image = store.make("app:1", &[&[("a", "1")]]);
    store.tag("app:1", &name("other/app:2")).unwrap();
    let removal = store.remove("app:1", false, &nobody).unwrap();
    assert_eq!((removal.untagged, removal.deleted.len()), (vec!["app:1".to_owned()], 0));
    assert_eq!(store.read(&image, "/a").as_deref(), Some("1"));
    let removal = store.remove("other/app:2", false, &nobody).unwrap();
    assert_eq!(removal.deleted, [image.id.clone(), image.config.rootfs.diff_ids[0].clone()]);
    assert!(removal.freed_bytes > 0);
    assert!(store.files().is_empty(), "{:?}", store.files());
    assert!(matches!(store.remove("app:1", false, &nobody), Err(ImageError::NotFound { .. })));
}

#[test]
fn removal_keeps_layers_that_another_image_has() {
    let store = Store::new();
    let one = store.make("one", &[&[("a", "1")], &[("b", "2")]]);
    let two = store.make("two", &[&[("a", "1")]]);
    let removal = store.remove("one", false, &nobody).unwrap();
    assert_eq!(removal.deleted, [one.id, one.config.rootfs.diff_ids[1].clone()]);
    assert_eq!(store.read(&two, "/a").as_deref(), Some("1"));
}

#[test]
fn used_image_is_removed_by_force_only() {
    let store = Store::new();
    let image = store.make("app", &[]);
    let user = |id: &str| (id == image.id).then(|| "0123456789ab".to_owned());
    for text in ["app", &image.id] {
        let error = store.remove(text, false, &user).unwrap_err().to_string();
        assert!(error.contains("0123456789ab") && error.contains("conflict"), "{error}");
    }
    assert!(store.prune(true, &|_| true, &user).unwrap().deleted.is_empty());
    assert_eq!(store.remove("app", true, &user).unwrap().deleted.len(), 1);
}

#[test]
fn identifier_of_an_image_in_several_repositories_needs_force() {
    let store = Store::new();
    let image = store.make("one:1", &[]);
    store.tag("one:1", &name("one:2")).unwrap();
    store.tag("one:1", &name("two:1")).unwrap();
    let error = store.remove(&image.id, false, &nobody).unwrap_err().to_string();
    assert!(error.contains("multiple repositories"), "{error}");
    let removal = store.remove(&image.id[7..20], true, &nobody).unwrap();
    assert_eq!(removal.untagged, ["one:1", "one:2", "two:1"]);
}

#[test]
fn moved_tag_leaves_an_image_that_prune_removes() {
    let store = Store::new();
    let old = store.make("app", &[&[("a", "old")]]);
    let new = store.make("app", &[&[("a", "new")]]);
    assert_eq!(store.find("app").unwrap().image.id, new.id);
    assert!(store.find(&old.id).unwrap().image.tags.is_empty());
    let removal = store.prune(false, &|_| true, &nobody).unwrap();
    assert_eq!(removal.deleted[0], old.id);
    assert!(store.prune(true, &|_| false, &nobody).unwrap().deleted.is_empty());
    assert_eq!(store.prune(true, &|_| true, &nobody).unwrap().untagged, ["app:latest"]);
    assert!(store.files().is_empty(), "{:?}", store.files());
}

#[test]
fn files_of_who_is_adding_are_left_alone() {
    let store = Store::new();
    store.make("app", &[&[("a", "1")]]);
    let before = store.files();
    let lock = store.layout.lock().unwrap();
    assert_eq!(store.remove("app", false, &nobody).unwrap().freed_bytes, 0);
    assert_eq!(store.files(), before);
    drop(lock);
    assert!(store.prune(false, &|_| true, &nobody).unwrap().freed_bytes > 0);
    assert!(store.files().is_empty());
}

#[test]
fn what_the_killed_left_goes_unless_somebody_else_is_at_work() {
    let store = Store::new();
    let left = store.path("tmp/.tmpAbCdEf");
    fs::write(&left, "half a layer").unwrap();
    let first = store.layout.lock().unwrap();
    assert!(!left.exists());
    fs::write(&left, "half a layer").unwrap();
    let second = store.layout.lock().unwrap();
    assert!(left.exists());
    drop((first, second));
    store.make("app", &[]);
    assert!(!left.exists());
}

#[test]
fn tag_with_a_digest_is_refused() {
    let store = Store::new();
    let image = store.make("app", &[]);
    let wrong = name(&format!("app@{}", image.id));
    assert!(matches!(store.tag("app", &wrong), Err(ImageError::Request { .. })));
}

#[test]
fn damaged_file_systems_are_made_again() {
    let store = Store::new();
    let image = store.make("app", &[&[("a", "1")], &[("b", "2")]]);
    let root = store.root_files(&image.id).unwrap();
    for path in &root.files {
        let whole = fs::read(path).unwrap();
        let damages: [&dyn Fn(); 4] = [
            &|| fs::remove_file(path).unwrap(),
            &|| fs::write(path, b"").unwrap(),
            &|| fs::write(path, &whole[..whole.len() - 4096]).unwrap(),
            &|| {
                fs::File::options()
                    .write(true)
                    .open(path)
                    .unwrap()
                    .write_all_at(b"x", 1030)
                    .unwrap()
            },
        ];
        for damage in damages {
            damage();
            assert_eq!(store.root_files(&image.id).unwrap(), root);
            assert_eq!(fs::read(path).unwrap(), whole, "{}", path.display());
        }
    }
}

#[test]
fn damaged_layer_is_an_error_that_names_it() {
    let store = Store::new();
    let image = store.make("app", &[&[("a", "1")]]);
    let layer = store.root_files(&image.id).unwrap().files[1].clone();
    let blob = store.layout.blob(&store.find("app").unwrap().image.manifest_digest);
    let manifest: crate::manifest::Manifest =
        serde_json::from_slice(&fs::read(blob).unwrap()).unwrap();
    let blob = store.layout.blob(&manifest.layers[0].digest);
    fs::remove_file(&layer).unwrap();
    fs::write(&blob, gzip(&archive(&[("a", "other")]))).unwrap();
    let error = store.root_files(&image.id).unwrap_err().to_string();
    assert!(error.contains("was changed") && error.contains(&image.id[7..19]), "{error}");
    assert!(!layer.exists());
    fs::remove_file(&blob).unwrap();
    assert!(store.root_files(&image.id).unwrap_err().to_string().contains("can't be read"));
}

#[test]
fn hostile_and_broken_archives_leave_nothing() {
    let store = Store::new();
    let cut = archive(&[("a", &"x".repeat(5000))])[..3000].to_vec();
    for (bytes, reason) in [
        (archive(&[("../a", "x")]), "\"..\" component"),
        (b"no archive at all, but long enough for a header".repeat(20), "checksum"),
        (cut, "cut off"),
    ] {
        let new = NewImage {
            layers: vec![file_of(&bytes)],
            tags: vec![name("x")],
            ..NewImage::default()
        };
        let error = store.add(new).unwrap_err();
        assert!(matches!(error, ImageError::Invalid { .. }), "{error:?}");
        assert!(error.to_string().contains(reason), "{error}");
    }
    assert!(store.list().unwrap().is_empty());
    assert!(store.files().iter().all(|it| it.starts_with("partial/")), "{:?}", store.files());
}

#[test]
fn bombs_are_refused_by_their_size() {
    let mut store = Store::new();
    store.images.limits = Limits { archive_bytes: 100_000, ..Limits::default() };
    let new = NewImage {
        layers: vec![file_of(&archive(&[("a", &"0".repeat(200_000))]))],
        ..NewImage::default()
    };
    let error = store.add(new).unwrap_err().to_string();
    assert!(error.contains("100000 bytes"), "{error}");
}

#[test]
fn stores_of_many_threads_are_one() {
    let directory = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for at in 0..8 {
            let directory = &directory;
            scope.spawn(move || {
                let images = Images::open(directory.path()).unwrap();
                for round in 0..3 {
                    let layer = archive(&[("a", &format!("{at} {round}"))]);
                    let tag = name(&format!("app:{at}"));
                    let layers = vec![file_of(&layer), file_of(&archive(&[("b", "shared")]))];
                    let new = NewImage { layers, tags: vec![tag], config: config(), base: None };
                    let image = images.add(new).unwrap();
                    images.root_files(&image.id).unwrap();
                    images.prune(false, &|_| true, &nobody).unwrap();
                }
            });
        }
    });
    let images = Images::open(directory.path()).unwrap();
    assert_eq!(images.list().unwrap().len(), 8);
    for image in images.list().unwrap() {
        images.root_files(&image.id).unwrap();
    }
}

#[test]
fn database_of_another_version_or_none_is_an_error() {
    let store = Store::new();
    let path = store.layout.database();
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let error = Images::open(store.directory.path()).unwrap_err();
    assert!(matches!(error, ImageError::Store { .. }), "{error:?}");
    fs::write(&path, "no database ".repeat(1000)).unwrap();
    assert!(matches!(Images::open(store.directory.path()), Err(ImageError::Store { .. })));
}

#[test]
fn usage_counts_images_and_bytes() {
    let store = Store::new();
    let before = store.usage().unwrap();
    let mut text = String::new();
    fs::File::open("/proc/self/maps").unwrap().read_to_string(&mut text).unwrap();
    store.make("app", &[&[("a", &text)]]);
    let after = store.usage().unwrap();
    assert_eq!((before.images, after.images), (0, 1));
    assert!(after.size_bytes >= before.size_bytes + text.len() as u64);
}
