use std::time::Duration;

use image::ImageConfig;
use serde_json::json;

use super::*;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

/// An image with this name, so many minutes old.
pub(in crate::commands::image) fn image(name: &str, minutes: u64) -> Image {
    let created = now() - Duration::from_secs(60 * minutes);
    let mut config = ImageConfig {
        architecture: "amd64".to_owned(),
        os: "linux".to_owned(),
        config: json!({"Env": ["A=b"], "Labels": {"a": "b"}}),
        ..ImageConfig::default()
    };
    config.rootfs.diff_ids = ["sha256:d0", "sha256:d1"].map(str::to_owned).to_vec();
    Image {
        id: format!("sha256:{}", "0123456789abcdef".repeat(4)),
        manifest_digest: format!("sha256:{}", "ab".repeat(32)),
        config,
        raw_config: Vec::new(),
        tags: name.parse().into_iter().collect(),
        digests: Vec::new(),
        size_bytes: 187_654_321,
        layer_bytes: vec![187_000_000, 654_321],
        compressed_bytes: 1000,
        created: Some(created),
    }
}

fn rows(image: &Image, filters: &Filters) -> Vec<Row> {
    lines(image, filters).iter().map(|line| row(line, false, now())).collect()
}

fn filters(given: &[&str]) -> Filters {
    let given: Vec<_> = given.iter().map(|text| (*text).to_owned()).collect();
    Filters::parse(&given, &FILTERS).unwrap()
}

#[test]
fn table_is_dockers() {
    let rows = rows(&image("nginx", 5), &Filters::default());
    let expected = "\
        REPOSITORY   TAG       IMAGE ID       CREATED         SIZE\n\
        nginx        latest    0123456789ab   5 minutes ago   188MB\n";
    assert_eq!(COLUMNS.render(&rows, None).unwrap(), expected);
}

#[test]
fn every_name_has_a_line_and_none_too() {
    let mut image = image("nginx", 5);
    image.tags.push("localhost:5000/web:1".parse().unwrap());
    let digest = format!("nginx@sha256:{}", "ab".repeat(32));
    image.digests.push(digest.parse().unwrap());
    let format = "{{.Repository}} {{.Tag}} {{.Digest}}";
    let text = WITH_DIGESTS.render(&rows(&image, &Filters::default()), Some(format)).unwrap();
    let digest = format!("sha256:{}", "ab".repeat(32));
    assert_eq!(text, format!("nginx latest {digest}\nlocalhost:5000/web 1 <none>\n"));
    image.tags.clear();
    let text = COLUMNS.render(&rows(&image, &Filters::default()), Some(format)).unwrap();
    assert_eq!(text, format!("nginx <none> {digest}\n"));
    image.digests.clear();
    let text = COLUMNS.render(&rows(&image, &Filters::default()), Some(format)).unwrap();
    assert_eq!(text, "<none> <none> <none>\n");
}

#[test]
fn references_choose_names() {
    let mut image = image("nginx:1", 5);
    image.tags.push("web:2".parse().unwrap());
    for (filter, count) in [
        ("reference=nginx", 1),
        ("reference=nginx:2", 0),
        ("reference=*:2", 1),
        ("reference=*", 2),
        ("reference=other", 0),
    ] {
        assert_eq!(lines(&image, &filters(&[filter])).len(), count, "{filter}");
    }
}

#[test]
fn filters_choose_images() {
    let wanted = |given: &[&str]| {
        let filters = filters(given);
        let dangling = filters.truth("dangling").unwrap();
        let before = until(&filters).unwrap();
        Wanted { filters: &filters, dangling, before, since: None }.fits(&image("nginx", 5))
    };
    assert!(wanted(&[]) && wanted(&["dangling=false"]) && !wanted(&["dangling=true"]));
    assert!(wanted(&["label=a=b"]) && !wanted(&["label=a=c"]) && !wanted(&["label!=a"]));
    assert!(wanted(&["until=1700000000"]) && !wanted(&["until=1600000000"]));
}

#[test]
fn image_of_unknown_age_is_listed_without_one() {
    let mut image = image("nginx", 5);
    image.created = None;
    let rows = rows(&image, &Filters::default());
    assert_eq!(COLUMNS.render(&rows, Some("{{.CreatedSince}}")).unwrap(), "N/A\n");
}

#[test]
fn every_field_has_a_title() {
    let rows = rows(&image("nginx", 5), &Filters::default());
    for key in rows[0].as_object().unwrap().keys() {
        assert!(COLUMNS.titles.iter().any(|(title, _)| title == key), "{key}");
    }
}
