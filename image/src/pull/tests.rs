//! Pulls from a registry that is right, and from one that is wrong in each way.

use std::fs;
use std::sync::Mutex;

use erofs::Limits;
use serde_json::json;

use crate::manifest::media;
use crate::testing::registry::{Access, Act, Server};
use crate::testing::{Store, archive, config, gzip, zstd};
use crate::{
    ImageError, Images, Progress, PullOptions, Pulled, PushOptions, Reference, Silent, digest,
};

fn try_pull(store: &Images, name: &Reference) -> Result<Pulled, ImageError> {
    store.pull(name, &PullOptions::default(), &Silent)
}

/// The error, with its causes.
fn failure(store: &Images, name: &Reference) -> String {
    crate::error::chain(&try_pull(store, name).expect_err("the pull succeeds"))
}

/// Two layers by gzip and one by zstd, with what they must look like.
fn layers() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let text = (0..60_000).map(|it: u32| it.wrapping_mul(2_654_435_761).to_string());
    let archives = vec![
        archive(&[("a", "lower"), ("big", &text.collect::<String>())]),
        archive(&[("a", "upper")]),
        archive(&[("z", "zstd")]),
    ];
    let blobs = vec![gzip(&archives[0]), gzip(&archives[1]), zstd(&archives[2])];
    (archives, blobs)
}

fn served(server: &Server) -> Vec<String> {
    let (archives, blobs) = layers();
    server.image(&archives, &blobs)
}

fn assert_whole(store: &Store, pulled: &Pulled) {
    assert_eq!(store.read(&pulled.image, "/a").as_deref(), Some("upper"));
    assert_eq!(store.read(&pulled.image, "/z").as_deref(), Some("zstd"));
    assert!(store.read(&pulled.image, "/big").unwrap().len() > 100_000);
    let left = store.files().into_iter().filter(|it| it.starts_with("tmp/"));
    assert_eq!(left.count(), 0);
}

/// Nothing of an image that couldn't be pulled is left, but what a next attempt goes on from.
fn assert_nothing(store: &Store) {
    assert!(store.list().unwrap().is_empty());
    let left = store.files();
    assert!(!left.iter().any(|it| it.starts_with("tmp/") || it.starts_with("roots/")), "{left:?}");
}

#[test]
fn pulled_image_has_its_layers_and_names() {
    let (server, store) = (Server::new(), Store::new());
    served(&server);
    let name = server.name("app:1");
    let pulled = try_pull(&store, &name).unwrap();
    assert!(pulled.is_new);
    assert_whole(&store, &pulled);
    assert_eq!(pulled.image.tags, std::slice::from_ref(&name));
    assert_eq!(pulled.image.digests, [name.with_digest(&pulled.digest)]);
    assert_eq!(pulled.image.manifest_digest, pulled.digest);
    assert_eq!(
        store.find(&name.with_digest(&pulled.digest).familiar()).unwrap().image,
        pulled.image
    );
}

#[test]
fn second_pull_fetches_no_layer() {
    let (server, store) = (Server::new(), Store::new());
    let blobs = served(&server);
    try_pull(&store, &server.name("app:1")).unwrap();
    let again = try_pull(&store, &server.name("app:1")).unwrap();
    assert!(!again.is_new);
    assert_eq!(server.requests(&format!("GET {}", blobs[0])).len(), 1);
    let other_tag = try_pull(&store, &server.name("app")).unwrap();
    assert!(other_tag.is_new);
    assert_eq!(other_tag.image.tags.len(), 2);
}

#[test]
fn pull_by_digest_gives_no_tag() {
    let (server, store) = (Server::new(), Store::new());
    served(&server);
    let digest = digest::of(&server.page("/v2/app/manifests/1").unwrap());
    let pulled = try_pull(&store, &server.name(&format!("app@{digest}"))).unwrap();
    assert!(pulled.image.tags.is_empty());
    assert_eq!(pulled.image.digests.len(), 1);
    server.put(&format!("/v2/app/manifests/{digest}"), media::OCI_MANIFEST, b"{}");
    let text = failure(&store, &server.name(&format!("app@{digest}")));
    assert!(text.contains("digest") && text.contains(&digest), "{text}");
}

#[test]
fn index_gives_the_platforms_image_or_says_which_there_are() {
    let (server, store) = (Server::new(), Store::new());
    served(&server);
    let raw = server.page("/v2/app/manifests/1").unwrap();
    let entry = |os: &str, architecture: &str| {
        json!({ "mediaType": media::OCI_MANIFEST, "digest": digest::of(&raw), "size": raw.len(),
                "platform": { "os": os, "architecture": architecture } })
    };
    let index = |entries: &[serde_json::Value]| {
        let index = json!({ "schemaVersion": 2, "manifests": entries });
        server.put("/v2/app/manifests/multi", media::OCI_INDEX, index.to_string().as_bytes());
        digest::of(index.to_string().as_bytes())
    };
    let host = config().architecture;
    let digest = index(&[entry("linux", "s390x"), entry("linux", &host)]);
    let pulled = try_pull(&store, &server.name("app:multi")).unwrap();
    assert_eq!(pulled.digest, digest);
    assert_ne!(pulled.image.manifest_digest, digest);
    index(&[entry("linux", "s390x"), entry("windows", &host)]);
    let text = failure(&store, &server.name("app:multi"));
    assert!(text.contains("linux/s390x") && text.contains("no image for linux/"), "{text}");
}

#[test]
fn image_for_another_architecture_is_refused_by_name() {
    let (server, store) = (Server::new(), Store::new());
    let mut config = config();
    config.architecture = "s390x".into();
    server.image_of(&serde_json::to_vec(&config).unwrap(), &[]);
    let error = try_pull(&store, &server.name("app:1")).unwrap_err();
    assert!(matches!(error, ImageError::NotInRegistry { .. }), "{error:?}");
    assert!(error.to_string().contains("it's for linux/s390x, not for linux/"), "{error}");
    let options = PullOptions { platform: Some("s390x".parse().unwrap()), insecure: false };
    store.pull(&server.name("app:1"), &options, &Silent).unwrap();
}

#[test]
fn unknown_image_is_an_error_that_names_it() {
    let (server, store) = (Server::new(), Store::new());
    let error = try_pull(&store, &server.name("nowhere:7")).unwrap_err();
    assert!(matches!(error, ImageError::NotInRegistry { .. }), "{error:?}");
    assert!(error.to_string().contains("nowhere:7"), "{error}");
    assert!(error.to_string().contains("manifest unknown"), "{error}");
}

#[test]
fn registry_that_is_not_there_is_named_with_its_port() {
    let store = Store::new();
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = failure(&store, &crate::testing::name(&format!("{address}/app")));
    assert!(text.contains(&address.to_string()), "{text}");
    assert!(text.contains("nothing listens there") && text.contains("refused"), "{text}");
}

#[test]
fn credentials_are_wanted_and_checked() {
    for access in [Access::Password, Access::Token] {
        let (server, store) = (Server::for_whom(access), Store::new());
        served(&server);
        let error = try_pull(&store, &server.name("app:1")).unwrap_err();
        let ImageError::Denied { registry, what, .. } = &error else { panic!("{error:?}") };
        assert_eq!(*registry, server.address.to_string());
        assert!(what.ends_with("app:1"), "{what}");
    }
}

#[test]
fn broken_connections_are_resumed_where_they_broke() {
    let (server, store) = (Server::new(), Store::new());
    let blobs = served(&server);
    server.act(&blobs[0], [Act::Cut(70_000), Act::Reset(10), Act::Status(503, "")]);
    server.act("/v2/app/manifests/1", [Act::Status(502, ""), Act::Cut(10)]);
    let notes = Notes::default();
    let name = server.name("app:1");
    let pulled = store.pull(&name, &PullOptions::default(), &notes).unwrap();
    assert_whole(&store, &pulled);
    let requests = server.requests(&format!("GET {}", blobs[0]));
    assert_eq!(requests.len(), 4, "{requests:?}");
    assert!(requests[1].contains("bytes=70000-"), "{requests:?}");
    assert!(notes.0.lock().unwrap().iter().any(|it| it.contains("Retrying in")));
}

/// Keeps what's noted.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Progress for Notes {
    fn note(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

#[test]
fn registry_without_ranges_is_resumed_as_well() {
    let (server, store) = (Server::new(), Store::new());
    let blobs = served(&server);
    server.act(&blobs[0], [Act::Cut(50_000), Act::NoRange]);
    assert_whole(&store, &try_pull(&store, &server.name("app:1")).unwrap());
}

#[test]
fn interrupted_pull_goes_on_where_it_was() {
    let (server, store) = (Server::new(), Store::new());
    let blobs = served(&server);
    server.act(&blobs[0], vec![Act::Cut(50_000), Act::Cut(0), Act::Cut(0), Act::Cut(0)]);
    let text = failure(&store, &server.name("app:1"));
    assert!(text.contains("the connection broke"), "{text}");
    assert_nothing(&store);
    let pulled = try_pull(&store, &server.name("app:1")).unwrap();
    assert_whole(&store, &pulled);
    let last = server.requests(&format!("GET {}", blobs[0])).pop().unwrap();
    assert!(last.contains("bytes=50000-"), "{last}");
}

#[test]
fn damaged_rest_of_an_earlier_pull_is_fetched_anew() {
    let (server, store) = (Server::new(), Store::new());
    let blobs = served(&server);
    let digest = blobs[0].rsplit('/').next().unwrap();
    fs::write(store.layout.partial(digest), vec![7; 40_000]).unwrap();
    assert_whole(&store, &try_pull(&store, &server.name("app:1")).unwrap());
    // One that is longer than the blob, too.
    let store = Store::new();
    fs::write(store.layout.partial(digest), vec![7; 4_000_000]).unwrap();
    assert_whole(&store, &try_pull(&store, &server.name("app:1")).unwrap());
}

#[test]
fn silent_registries_end_in_an_error() {
    for path in ["/v2/", "/v2/app/manifests/1", "blob", "blob's end"] {
        let (server, store) = (Server::new(), Store::new());
        let blobs = served(&server);
        match path {
            "blob" => server.act(&blobs[0], vec![Act::Silence; 9]),
            "blob's end" => server
                .act(&blobs[0], vec![Act::Hang(100), Act::Hang(0), Act::Hang(0), Act::Hang(0)]),
            path => server.act(path, [Act::Silence]),
        }
        let text = failure(&store, &server.name("app:1"));
        assert!(text.contains("silent for 1 s"), "{path}: {text}");
        assert!(text.contains(&server.address.to_string()), "{path}: {text}");
        assert_nothing(&store);
    }
}

/// Makes a registry say what isn't so; it's given the layers' paths.
type Lie<'a> = &'a dyn Fn(&Server, &[String]);

#[test]
fn lies_about_digests_are_refused_and_leave_nothing() {
    let (archives, blobs) = layers();
    let other = gzip(&archive(&[("a", "other")]));
    let mut config = config();
    config.rootfs.diff_ids = archives.iter().map(|it| digest::of(it)).collect();
    let raw = serde_json::to_vec(&config).unwrap();
    let lies: [Lie<'_>; 4] = [
        // Another layer, well-formed and of the same length.
        &|server, paths| {
            let mut padded = other.clone();
            let shorter = &blobs[1];
            padded.resize(shorter.len().max(padded.len()), 0);
            server.put(&paths[1], "", &padded[..shorter.len()]);
        },
        &|server, _| server.put(&format!("/v2/app/blobs/{}", digest::of(&raw)), "", b"{}"),
        // A layer that isn't the configuration's.
        &|server, _| {
            let layers = [blobs[0].clone(), other.clone(), blobs[2].clone()];
            server.image_of(&raw, &layers);
        },
        &|server, _| {
            server.image_of(&raw, &blobs[..2]);
        },
    ];
    for (at, lie) in lies.into_iter().enumerate() {
        let (server, store) = (Server::new(), Store::new());
        let paths = served(&server);
        lie(&server, &paths);
        let error = try_pull(&store, &server.name("app:1")).unwrap_err();
        assert!(matches!(error, ImageError::Invalid { .. }), "{at}: {error:?}");
        assert_nothing(&store);
        // The truth is taken afterwards.
        served(&server);
        assert_whole(&store, &try_pull(&store, &server.name("app:1")).unwrap());
    }
}

#[test]
fn bytes_after_a_blobs_size_are_not_read() {
    let (server, store) = (Server::new(), Store::new());
    let paths = served(&server);
    let mut longer = server.page(&paths[1]).unwrap();
    longer.extend(vec![0; 1 << 20]);
    server.put(&paths[1], "", &longer);
    assert_whole(&store, &try_pull(&store, &server.name("app:1")).unwrap());
}

#[test]
fn endless_documents_are_refused() {
    let (server, store) = (Server::new(), Store::new());
    server.put("/v2/app/manifests/1", media::OCI_MANIFEST, &vec![b' '; 9 << 20]);
    let text = failure(&store, &server.name("app:1"));
    assert!(text.contains("more than 8388608 bytes"), "{text}");
}

#[test]
fn redirects_are_followed_but_not_for_ever() {
    let (server, other, store) = (Server::new(), Server::new(), Store::new());
    let paths = served(&server);
    served(&other);
    server.act(&paths[0], [Act::Redirect(format!("http://{}{}", other.address, paths[0]))]);
    assert_whole(&store, &try_pull(&store, &server.name("app:1")).unwrap());
    assert_eq!(other.requests("GET").len(), 1);
    let around = format!("http://{}/v2/app/manifests/2", server.address);
    server.act("/v2/app/manifests/2", vec![Act::Redirect(around); 20]);
    let text = failure(&store, &server.name("app:2"));
    assert!(text.contains("redirect"), "{text}");
}

#[test]
fn redirects_cant_smuggle_in_other_bytes() {
    let (server, store) = (Server::new(), Store::new());
    let paths = served(&server);
    let other = Server::new();
    other.put("/evil", "", &gzip(&archive(&[("a", "evil")])));
    server.act(&paths[1], vec![Act::Redirect(format!("http://{}/evil", other.address)); 9]);
    let error = try_pull(&store, &server.name("app:1")).unwrap_err();
    assert!(
        !matches!(error, ImageError::Registry { .. }) || error.to_string().contains("used"),
        "{error:?}"
    );
    assert_nothing(&store);
}

#[test]
fn hostile_layers_are_refused_and_leave_nothing() {
    let bomb = archive(&[("a", &"0".repeat(3_000_000))]);
    for (bytes, reason) in [
        (archive(&[("../../etc/passwd", "x")]), "\"..\" component"),
        (archive(&[("a", "x"), ("a/b", "x")]), "no directory"),
        (b"neither an archive nor compressed".repeat(30), "checksum"),
        (bomb, "more than 2000000 bytes"),
    ] {
        for blob in [bytes.clone(), gzip(&bytes), zstd(&bytes)] {
            let (server, mut store) = (Server::new(), Store::new());
            store.images.limits = Limits { archive_bytes: 2_000_000, ..Limits::default() };
            server.image(std::slice::from_ref(&bytes), &[blob]);
            let error = try_pull(&store, &server.name("app:1")).unwrap_err();
            assert!(matches!(error, ImageError::Invalid { .. }), "{error:?}");
            assert!(error.to_string().contains(reason), "{reason}: {error}");
            assert_nothing(&store);
            assert!(store.files().iter().all(|it| it == "partial/database"), "{:?}", store.files());
        }
    }
}

#[test]
fn hostile_manifests_are_refused() {
    let (server, store) = (Server::new(), Store::new());
    for manifest in [&b""[..], b"[]", b"{}", b"\xff", br#"{"schemaVersion":1,"fsLayers":[]}"#] {
        server.put("/v2/app/manifests/1", media::OCI_MANIFEST, manifest);
        let error = try_pull(&store, &server.name("app:1")).unwrap_err();
        assert!(matches!(error, ImageError::Invalid { .. }), "{error:?}");
    }
    for config in [&b""[..], b"[1]", b"{\"rootfs\":{\"diff_ids\":[\"../x\"]}}"] {
        server.image_of(config, &[]);
        let error = try_pull(&store, &server.name("app:1")).unwrap_err();
        assert!(matches!(error, ImageError::Invalid { .. }), "{error:?}");
    }
}

#[test]
fn nonsense_for_http_is_an_error() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            use std::io::Write;
            let _ = stream.unwrap().write_all(b"220 smtp.example ESMTP\r\n");
        }
    });
    let error =
        try_pull(&Store::new(), &crate::testing::name(&format!("{address}/app"))).unwrap_err();
    assert!(matches!(error, ImageError::Registry { .. }), "{error:?}");
}

#[test]
fn image_without_layers_is_pulled() {
    let (server, store) = (Server::new(), Store::new());
    server.image(&[], &[]);
    let pulled = try_pull(&store, &server.name("app:1")).unwrap();
    assert_eq!(store.root_files(&pulled.image.id).unwrap().files.len(), 1);
}

#[test]
fn layer_that_an_image_has_twice_is_fetched_once() {
    let (server, store) = (Server::new(), Store::new());
    let (archives, blobs) = layers();
    let pick = |all: &[Vec<u8>]| [0, 1, 0, 2, 1].map(|at: usize| all[at].clone());
    let paths = server.image(&pick(&archives), &pick(&blobs));
    let pulled = try_pull(&store, &server.name("app:1")).unwrap();
    assert_whole(&store, &pulled);
    assert_eq!(store.root_files(&pulled.image.id).unwrap().files.len(), 6);
    assert_eq!(server.requests(&format!("GET {}", paths[0])).len(), 1);
}

#[test]
fn two_that_pull_the_same_fetch_it_once() {
    let (server, store) = (Server::new(), Store::new());
    let paths = served(&server);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                // As another process would.
                let images = Images::open(store.directory.path()).unwrap();
                try_pull(&images, &server.name("app:1")).unwrap();
                images.prune(false, &|_| true, &|_| None).unwrap();
            });
        }
    });
    let image = store.find(&server.name("app:1").to_string()).unwrap().image;
    assert_eq!(store.read(&image, "/a").as_deref(), Some("upper"));
    for path in paths {
        assert_eq!(server.requests(&format!("GET {path}")).len(), 1);
    }
}

#[test]
fn pushed_image_is_pulled_unchanged() {
    let (server, store) = (Server::new(), Store::new());
    store.make(
        "app",
        &[&[("a", "lower"), ("z", "zstd")], &[("a", "upper"), ("big", &"x".repeat(200_000))]],
    );
    let name = server.name("app:1");
    store.tag("app", &name).unwrap();
    let (digest, size) = store.push(&name, &PushOptions::default(), &Silent).unwrap();
    assert_eq!(size, server.page("/v2/app/manifests/1").unwrap().len() as u64);
    let other = Store::new();
    let pulled = try_pull(&other, &name).unwrap();
    assert_eq!(pulled.digest, digest);
    assert_whole(&other, &pulled);
    let sent = server.requests("PUT /upload").len();
    assert_eq!(sent, 3);
    // What's there isn't sent again.
    store.push(&name, &PushOptions::default(), &Silent).unwrap();
    assert_eq!(server.requests("PUT /upload").len(), sent);
    assert_eq!(store.find("app").unwrap().image.digests, [name.with_digest(&digest)]);
}

#[test]
fn push_of_what_the_store_has_lost_says_so() {
    let (server, store) = (Server::new(), Store::new());
    store.make("app", &[&[("a", "1")]]);
    let name = server.name("app:1");
    store.tag("app", &name).unwrap();
    let raw =
        fs::read(store.layout.blob(&store.find("app").unwrap().image.manifest_digest)).unwrap();
    let parsed: crate::manifest::Manifest = serde_json::from_slice(&raw).unwrap();
    fs::write(store.layout.blob(&parsed.layers[0].digest), b"").unwrap();
    let error = store.push(&name, &PushOptions::default(), &Silent).unwrap_err();
    assert!(error.to_string().contains("gone or was changed"), "{error}");
    assert!(server.page("/v2/app/manifests/1").is_none());
}

#[test]
fn push_without_credentials_is_denied() {
    let (server, store) = (Server::for_whom(Access::Token), Store::new());
    store.make("app", &[]);
    store.tag("app", &server.name("app:1")).unwrap();
    let error = store.push(&server.name("app:1"), &PushOptions::default(), &Silent).unwrap_err();
    assert!(matches!(error, ImageError::Denied { .. }), "{error:?}");
}
