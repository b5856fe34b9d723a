//! Reads what an image says of its containers. A registry has sent it: anything may be in it.

use image::Image;
use serde_json::{Map, Value};

use crate::check;
use crate::config::HealthConfig;
use crate::error::{ErrorKind, RuntimeError};
use crate::resolve::ImageDefaults;

/// Reads an image's configuration.
///
/// # Errors
/// A field is of another type than it has to be.
pub(super) fn image_defaults(image: &Image) -> Result<ImageDefaults, RuntimeError> {
    let empty = Map::new();
    let config = match &image.config.config {
        Value::Object(fields) => fields,
        Value::Null => &empty,
        _ => return Err(wrong("config", "an object")),
    };
    let mut platform = format!("{}/{}", image.config.os, image.config.architecture);
    if let Some(variant) = &image.config.variant {
        platform = format!("{platform}/{variant}");
    }
    let mut exposed = keys(config, "ExposedPorts")?;
    // Ports of protocols that we don't publish are none of ours.
    exposed.retain(|port| {
        check::exposed_port(port).inspect_err(|error| log::warn!("of the image: {error}")).is_ok()
    });
    Ok(ImageDefaults {
        id: image.id.clone(),
        manifest_digest: image.manifest_digest.clone(),
        platform,
        entrypoint: words(config, "Entrypoint")?,
        command: words(config, "Cmd")?,
        env: environment(config)?,
        user: text(config, "User")?.unwrap_or_default(),
        working_dir: text(config, "WorkingDir")?.unwrap_or_default(),
        labels: labels(config)?,
        exposed,
        volumes: keys(config, "Volumes")?,
        stop_signal: text(config, "StopSignal")?.filter(|signal| !signal.is_empty()),
        health: health(config)?,
    })
}

fn wrong(field: &str, wanted: &str) -> RuntimeError {
    RuntimeError::failed(
        ErrorKind::Image,
        format!("the image's configuration can't be used: {field} is not {wanted}"),
    )
}

fn get<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    fields.get(name).filter(|value| !value.is_null())
}

fn text(fields: &Map<String, Value>, name: &str) -> Result<Option<String>, RuntimeError> {
    match get(fields, name) {
        None => Ok(None),
        Some(Value::String(text)) if !text.contains('\0') => Ok(Some(text.clone())),
        Some(_) => Err(wrong(name, "a text")),
    }
}

/// A list of texts; old images have one text that means a list of one.
fn words(fields: &Map<String, Value>, name: &str) -> Result<Vec<String>, RuntimeError> {
    match get(fields, name) {
        None => Ok(Vec::new()),
        Some(Value::String(word)) if !word.contains('\0') => Ok(vec![word.clone()]),
        Some(Value::Array(values)) => {
            let words = values
                .iter()
                .map(|value| value.as_str().filter(|word| !word.contains('\0')).map(str::to_owned));
            words.collect::<Option<_>>().ok_or_else(|| wrong(name, "a list of texts"))
        }
        Some(_) => Err(wrong(name, "a list of texts")),
    }
}

/// Variables; what has no name is left out.
fn environment(fields: &Map<String, Value>) -> Result<Vec<String>, RuntimeError> {
    let mut variables = words(fields, "Env")?;
    variables.retain(|variable| variable.find('=').is_some_and(|end| end > 0));
    Ok(variables)
}

/// The keys of an object whose values mean nothing.
fn keys(fields: &Map<String, Value>, name: &str) -> Result<Vec<String>, RuntimeError> {
    match get(fields, name) {
        None => Ok(Vec::new()),
        Some(Value::Object(set)) => Ok(set.keys().cloned().collect()),
        Some(_) => Err(wrong(name, "an object")),
    }
}

fn labels(fields: &Map<String, Value>) -> Result<Vec<(String, String)>, RuntimeError> {
    let Some(value) = get(fields, "Labels") else { return Ok(Vec::new()) };
    let labels = value.as_object().ok_or_else(|| wrong("Labels", "an object"))?;
    let label = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
    let labels = labels.iter().map(label).collect::<Option<_>>();
    labels.ok_or_else(|| wrong("Labels", "an object of texts"))
}

fn health(fields: &Map<String, Value>) -> Result<Option<HealthConfig>, RuntimeError> {
    let Some(value) = get(fields, "Healthcheck") else { return Ok(None) };
    let check = value.as_object().ok_or_else(|| wrong("Healthcheck", "an object"))?;
    let number = |name: &str| match get(check, name) {
        None => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or_else(|| wrong(name, "a number from 0 on")),
    };
    let retries = number("Retries")?.map(u32::try_from).transpose();
    Ok(Some(HealthConfig {
        test: Some(words(check, "Test")?),
        interval_ns: number("Interval")?,
        timeout_ns: number("Timeout")?,
        start_period_ns: number("StartPeriod")?,
        start_interval_ns: number("StartInterval")?,
        retries: retries.map_err(|_| wrong("Retries", "a small number"))?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::ImageConfig;
    use serde_json::json;

    fn defaults(config: Value) -> Result<ImageDefaults, RuntimeError> {
        let config = ImageConfig {
            os: "linux".to_owned(),
            architecture: "arm".to_owned(),
            variant: Some("v7".to_owned()),
            config,
            ..ImageConfig::default()
        };
        image_defaults(&Image {
            id: "sha256:1".to_owned(),
            manifest_digest: "sha256:2".to_owned(),
            config,
            raw_config: Vec::new(),
            tags: Vec::new(),
            digests: Vec::new(),
            size_bytes: 0,
            compressed_bytes: 0,
            layer_bytes: Vec::new(),
            created: None,
        })
    }

    #[test]
    fn configuration_is_read_by_dockers_names() {
        let found = defaults(json!({
            "Entrypoint": ["/entry"], "Cmd": "serve", "Env": ["A=1", "=x", "B", "C="],
            "User": "www", "WorkingDir": "/srv", "Labels": { "a": "1" },
            "ExposedPorts": { "80/tcp": {}, "5060/sctp": {}, "no port": {} },
            "Volumes": { "/data": {} }, "StopSignal": "SIGQUIT",
            "Healthcheck": { "Test": ["CMD", "check"], "Interval": 5, "Retries": 2 },
            "Shell": 7, "OnBuild": null,
        }))
        .unwrap();
        assert_eq!(
            (found.entrypoint, found.command),
            (vec!["/entry".into()], vec!["serve".into()])
        );
        assert_eq!(found.env, ["A=1", "C="]);
        assert_eq!(found.exposed, ["80/tcp"]);
        assert_eq!(
            (found.volumes, found.platform.as_str()),
            (vec!["/data".into()], "linux/arm/v7")
        );
        let health = found.health.unwrap();
        assert_eq!((health.interval_ns, health.retries), (Some(5), Some(2)));
    }

    #[test]
    fn nothing_said_is_nothing() {
        for config in [json!(null), json!({}), json!({ "Cmd": null, "Env": null, "Labels": null })]
        {
            let found = defaults(config).unwrap();
            assert!(found.command.is_empty() && found.env.is_empty() && found.health.is_none());
        }
    }

    #[test]
    fn fields_of_other_types_are_refused_by_name() {
        for (config, field) in [
            (json!([]), "config"),
            (json!({ "Cmd": [1] }), "Cmd"),
            (json!({ "Cmd": ["a\0b"] }), "Cmd"),
            (json!({ "Entrypoint": {} }), "Entrypoint"),
            (json!({ "Env": [["A=1"]] }), "Env"),
            (json!({ "User": 0 }), "User"),
            (json!({ "User": "a\0" }), "User"),
            (json!({ "WorkingDir": [] }), "WorkingDir"),
            (json!({ "Labels": ["a"] }), "Labels"),
            (json!({ "Labels": { "a": {} } }), "Labels"),
            (json!({ "Volumes": ["/data"] }), "Volumes"),
            (json!({ "ExposedPorts": 80 }), "ExposedPorts"),
            (json!({ "StopSignal": 9 }), "StopSignal"),
            (json!({ "Healthcheck": "true" }), "Healthcheck"),
            (json!({ "Healthcheck": { "Interval": -1 } }), "Interval"),
            (json!({ "Healthcheck": { "Retries": 1_u64 << 40 } }), "Retries"),
        ] {
            let error = defaults(config.clone()).unwrap_err().to_string();
            assert!(error.contains(field), "{config}: {error}");
        }
    }
}
