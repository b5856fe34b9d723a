//! `vmctl image inspect`.

use std::collections::BTreeMap;

use clap::Args;
use image::{Image, ImageError};
use runtime::Engine;
use serde_json::{Value, json};

use crate::commands::inspect::{Shown, show};
use crate::commands::stores;
use crate::errors::CliError;
use crate::errors::containers::ContainerError;

/// What a configuration has in Docker's eyes, whether the image says it or not.
const CONFIG_FIELDS: [&str; 8] =
    ["Cmd", "Entrypoint", "Env", "ExposedPorts", "Labels", "User", "Volumes", "WorkingDir"];

/// Display detailed information on one or more images.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct InspectArgs {
    /// Format output: json, or a Go template.
    #[arg(long, short, value_name = "FORMAT")]
    format: Option<String>,

    /// The images.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

pub(super) fn run(engine: &Engine, args: &InspectArgs) -> Result<u8, CliError> {
    show("image", &args.images, args.format.as_deref(), |name| image_value(engine, name))
}

/// What's known of an image, as JSON.
pub(crate) fn image_value(engine: &Engine, name: &str) -> Shown {
    match stores::images(engine)?.find(name) {
        Ok(found) => Ok(Some(value(&found.image))),
        // What's no image's name may be something else's.
        Err(ImageError::NotFound { .. } | ImageError::Reference(_)) => Ok(None),
        Err(error) => Err(ContainerError::from(error).into()),
    }
}

/// Docker's shape.
fn value(image: &Image) -> Value {
    let config = &image.config;
    let names = |names: &[image::Reference]| -> Vec<_> {
        names.iter().map(image::Reference::familiar).collect()
    };
    let mut value = json!({
        "Id": image.id,
        "RepoTags": names(&image.tags),
        "RepoDigests": names(&image.digests),
        "Parent": "",
        "Comment": config.history.last().and_then(|last| last.comment.clone()).unwrap_or_default(),
        "Created": config.created.clone().unwrap_or_default(),
        "Author": config.author.clone().unwrap_or_default(),
        "Config": shown_config(&config.config),
        "Architecture": config.architecture,
        "Os": config.os,
        "Size": image.size_bytes,
        "GraphDriver": {"Name": "erofs", "Data": null},
        "RootFS": {"Type": "layers", "Layers": config.rootfs.diff_ids},
        "Descriptor": {"digest": image.manifest_digest},
    });
    if let Some(variant) = &config.variant {
        value["Variant"] = variant.as_str().into();
    }
    value
}

fn shown_config(config: &Value) -> Value {
    let mut fields = config.as_object().cloned().unwrap_or_default();
    for name in CONFIG_FIELDS {
        let is_text = matches!(name, "User" | "WorkingDir");
        let absent = || if is_text { "".into() } else { Value::Null };
        fields.entry(name).or_insert_with(absent);
    }
    Value::Object(fields)
}

/// An image's labels.
pub(super) fn labels(image: &Image) -> BTreeMap<String, String> {
    let labels = image.config.config.get("Labels").and_then(Value::as_object);
    let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    labels.into_iter().flatten().filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::super::ls::tests::image;
    use super::*;

    #[test]
    fn image_is_shown_in_dockers_shape() {
        let value = value(&image("nginx", 5));
        assert_eq!(value["Config"]["Env"], json!(["A=b"]));
        assert_eq!(value["Config"]["WorkingDir"], "");
        assert_eq!(value["RootFS"]["Layers"], json!(["sha256:d0", "sha256:d1"]));
        assert_eq!(value["Os"], "linux");
        assert_eq!(value["Size"], 187_654_321);
    }

    #[test]
    fn configuration_of_any_type_is_shown_with_dockers_fields() {
        for config in [Value::Null, json!([1]), json!("text")] {
            assert_eq!(shown_config(&config)["User"], "");
        }
        let config = json!({"Cmd": 7, "Other": [1]});
        assert_eq!(shown_config(&config)["Cmd"], 7);
        assert_eq!(shown_config(&config)["Other"], json!([1]));
    }

    #[test]
    fn labels_that_are_no_texts_are_none() {
        let mut image = image("nginx", 5);
        image.config.config = json!({"Labels": {"a": "b", "c": 7}});
        assert_eq!(labels(&image), BTreeMap::from([("a".to_owned(), "b".to_owned())]));
        image.config.config = json!({"Labels": ["a"]});
        assert!(labels(&image).is_empty());
    }
}
